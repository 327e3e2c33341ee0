"""report.html: what a run learnt, as one page that needs nothing else.

In: a run folder, complete or still being written. Out: report.html in it.
Must not know: how the run was made; it reads files only.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.base.files import write_whole
from orchestrator.report import figures, gantt, sentences, tables
from orchestrator.report.damage import damage
from orchestrator.report.plots import drawn
from orchestrator.report.read import Run, read_run
from orchestrator.tracking.numbers import exact_percent, number, or_dash, signed
from orchestrator.tracking.serving import commands
from orchestrator.tracking.summary import has_goals, summarize_evaluation


def write_report(run_folder: Path) -> Path:
    """Write run_folder/report.html; an older one stays intact until the new one is complete."""
    run_folder = Path(run_folder)
    path = run_folder / "report.html"
    write_whole(path, render(replace(read_run(run_folder), damaged=damage(run_folder))))
    return path


def environment(*folders: str) -> Environment:
    """Of templates in the project's folders; what they show is escaped, numbers have the project's forms."""
    root = Path(__file__).parents[2]
    made = Environment(
        loader=FileSystemLoader([root / folder for folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["tight"] = lambda text: re.sub(r"(?<=[≤≥]) | (?=%|points)", "\u00a0", text)
    made.filters |= {"percent": or_dash(exact_percent), "number": or_dash(number), "signed": or_dash(signed)}
    return made


def render(run: Run) -> str:
    goals = has_goals(run.config)
    summary = summarize_evaluation(run.evaluation, goals) if run.evaluation.get("models") else None
    final = summary is not None and "final" in summary["mix"]
    return (
        environment("orchestrator/report")
        .get_template("page.html.jinja")
        .render(
            run=run,
            ramp=figures.level_colors(run),
            facts=sentences.facts(run),
            verdict=sentences.verdict(run, summary, goals),
            warnings=sentences.warnings(run),
            tiles=tables.tiles(run, summary if final else None),
            learning=drawn(figures.learning(run)),
            summary=summary,
            final=final,
            goals=goals,
            measured=sentences.measured(run),
            scatter=Markup(figures.modes_scatter(summary)) if summary else "",
            before_after=tables.before_after(run, summary) if summary else None,
            machinery=drawn(figures.machinery(run)),
            timeline=gantt.section(run.timeline, run.last_step) if run.timeline else None,
            health=drawn(figures.health(run)),
            modes=run.modes,
            before=tables.sample_views(run, run.before, 4),
            samples=tables.sample_views(run, run.after),
            circumstances=sentences.circumstances(run),
            serving=commands(run.folder, run.config, str(run.samples[0].get("problem")) if run.samples else ""),
            packages=sorted((run.provenance.get("packages") or {}).items()),
            provenance=[(key, value) for key, value in run.provenance.items() if key not in ("packages", "stages")],
        )
    )
