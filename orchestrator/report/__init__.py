"""The report of a run. In: a run folder. Out: its report.html. Must not know: Ray, vLLM, DeepSpeed."""

from orchestrator.report.page import write_report

__all__ = ["write_report"]
