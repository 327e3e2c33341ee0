"""What an entry of the catalogue of metrics is: `Metric`, its kind, its labels, where it goes.

In: nothing. Out: types. Must not know: which metrics there are (`metric_list`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    counter = "counter"
    gauge = "gauge"
    histogram = "histogram"


class Sink(Enum):
    """Where a figure goes."""

    jsonl = "metrics.jsonl"
    prometheus = "Prometheus"
    tensorboard = "TensorBoard"
    wandb = "Weights & Biases"
    mlflow = "MLflow"


ALL = frozenset(Sink)
NO_TRACKER = frozenset({Sink.jsonl, Sink.prometheus})  # they have the time of their own
DISTRIBUTIONS = ALL - {Sink.jsonl, Sink.mlflow}  # where histograms go

LABELS: dict[str, tuple[str, ...] | None] = {  # a label's values; None: any
    "mode": None,  # short, think, those between (model.modes); none: the answer's first token is no control token
    "level": None,  # of the data: at most MAX_LEVELS of them are exported
    "worker": None,  # number of a rollout worker
    "outcome": (
        "correct", "wrong", "no_answer", "cut_off", "no_mode", "format_error", "raised", "timed_out", "crashed",
    ),
    "cause": ("think_block", "phrase", "too_long"),  # why a short answer counts as reasoning (`reward.leakage`)
    "phase": ("score", "learn", "step"),  # of an update
    "reason": ("weights", "prompts", "asleep"),  # why a rollout worker samples nothing
    "tracker": (  # files: of lines, in the run folder; timeline, workers: calls to actors as well
        "files", "timeline", "workers", "console", "prometheus", "tensorboard", "wandb", "mlflow",
    ),
}  # fmt: skip
MAX_LEVELS = 32


@dataclass(frozen=True, slots=True)
class Metric:
    key: str  # of metrics.jsonl, or a pattern of such keys
    unit: str  # "share": 0 to 1; "": none
    kind: Kind
    help: str  # one sentence
    made_by: str  # module
    buckets: tuple[float, ...] = ()  # of a histogram: upper bounds
    sinks: frozenset[Sink] = ALL
    exported_as: str | None = None  # on Prometheus, without Ray's prefix; None: from the key

    @property
    def labels(self) -> tuple[str, ...]:
        """The variable parts of the key; on Prometheus `run` comes with them."""
        return tuple(re.findall(r"{(\w+)}", self.key))

    @property
    def base(self) -> str:
        """The key without its variable parts. Example: "think_rate/level/{level}" -> "think_rate"."""
        return re.sub(r"(/(\w+))?/{\2}|/{\w+}", "", self.key)
