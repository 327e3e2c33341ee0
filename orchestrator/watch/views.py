"""What the page says in words and tables: the list of runs, each run's state, who waits, advisories, answers, timeline.

In: followed runs. Out: plain objects, and HTML made from this folder's templates, everything from run folders escaped.
Must not know: HTTP.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from orchestrator.report import gantt, tables
from orchestrator.report.page import environment
from orchestrator.report.read import mode_tokens
from orchestrator.tracking.line_files import left_out
from orchestrator.tracking.numbers import duration, exact_percent, number, or_dash, signed
from orchestrator.tracking.rules import Advisory, advisories
from orchestrator.watch.answers import Answers, Wanted
from orchestrator.watch.index import LATELY, Followed, Index
from orchestrator.watch.waits import end_of_timeline, lately, legend, sentence, step_bar

JsonObject = dict[str, Any]
END = "end"  # kind of the token that ends thinking
PAGE = 12  # answers, or questions, at a time
AGAIN_S = 10.0  # between two looks at a run's advisories, which are about many steps
CARDS = 4  # runs that are shown at length; of more, a row each
FIGURES = (  # label, figure, form
    ("Reward", "reward/mean", signed),
    ("Accuracy", "accuracy/all", exact_percent),
    ("Think rate", "think_rate/all", exact_percent),
    ("Tokens", "tokens/mean", number),
    ("Tokens/s", "rollout/tokens_per_s", number),
)


def templates() -> Environment:
    made = environment("orchestrator/watch", "orchestrator/report")
    made.filters["ago"] = ago
    return made


def ago(seconds: float | None) -> str:
    return "–" if seconds is None else f"{duration(max(0.0, seconds))} ago"


def warned(run: Followed, now: float) -> list[Advisory]:
    """Advisories of a run; silence counts only while it runs."""
    running = run.state(now).name == "running"
    known, at, was_running, found = run.warned
    if known == run.changed and not running and not was_running:
        return found
    if known is None or now - at > AGAIN_S or running is not was_running:
        found = advisories(list(run.recent), run.config, now if running else None)
        run.warned = (run.changed, now, running, found)
    return found


def run_list(index: Index, now: float) -> list[JsonObject]:
    """A line for each run; times are seconds since the epoch."""
    found = []
    for run in index.runs:
        state = run.state(now)
        found.append(
            {
                "id": run.id,
                "state": state.name,
                "words": state.words,
                "step": run.last_step,
                "steps": run.steps,
                "last": run.last_time,
                "report": (run.folder / "report.html").is_file(),
                "answers": (run.folder / "samples.jsonl").is_file(),
            }
        )
    return found


def overview(made: Environment, runs: Sequence[Followed], now: float) -> str:
    """State, figures, who waits and advisories of the chosen runs: at length, or in a row each where they are many."""
    cards = [_card(run, now, at_length=len(runs) <= CARDS) for run in runs]
    together = legend(bar for card in cards for bar in card["bars"])
    return made.get_template("overview.html.jinja").render(
        cards=cards, at_length=len(runs) <= CARDS, legend=together, lately=LATELY
    )


def _card(run: Followed, now: float, at_length: bool) -> JsonObject:
    state, step = run.state(now), run.lately("seconds/step")
    left = (run.steps or 0) - run.last_step
    since = None if run.last_time is None else now - run.last_time
    bars = [bar for bar in (step_bar(run),) if bar is not None]
    if at_length and run.training.count:
        bars += lately(run)
    return {
        "run": run,
        "state": state,
        "share": run.last_step / run.steps if run.steps else None,
        "since": since,
        "left": duration(left * step) if state.name == "running" and step and left > 0 else "",
        "figures": [(label, or_dash(form)(run.lately(key))) for label, key, form in FIGURES],
        "bars": bars,
        "sentence": sentence(run),
        "advisories": warned(run, now),
        "report": (run.folder / "report.html").is_file(),
    }


def timeline(made: Environment, run: Followed, steps: int) -> str:
    """What every actor did in the last steps."""
    recorded = end_of_timeline(run.folder / "timeline.json")
    shown: JsonObject = {"svg": None, "legend": []}
    if recorded is not None:
        last = recorded.steps[-steps:]
        begin = last[0][1]
        seen = {span.kind for spans in recorded.spans.values() for span in spans if span.end > begin}
        shown = {"svg": Markup(gantt.chart(recorded, last)), "legend": gantt.legend(seen)}
    return made.get_template("timeline.html.jinja").render(**shown)


def answers(made: Environment, run: Followed, found: Answers, wanted: Wanted, page: int) -> str:
    """One page of answers."""
    found.refresh()
    groups = found.find(wanted)
    page = max(0, min(page, (len(groups) - 1) // PAGE))
    tokens = control_tokens(run.config)
    shown = []
    for places in groups[page * PAGE : (page + 1) * PAGE]:
        shown.append([_answer(record, tokens) for record in found.load(places)])
    return made.get_template("answers.html.jinja").render(
        groups=shown,
        count=len(groups),
        of=len(found.places),
        page=page,
        pages=-(-len(groups) // PAGE),
        wanted=wanted,
        damaged=left_out(found.path.name, found.damaged) if found.damaged else "",
    )


def control_tokens(config: JsonObject) -> dict[str, str]:
    """Mode, or END -> the token's text, as the run's configuration names it."""
    model = config.get("model")
    given = model if isinstance(model, dict) else {}
    return {**mode_tokens(config), END: str(given.get("think_end_token") or "</think>")}


def _answer(record: JsonObject, tokens: dict[str, str]) -> JsonObject:
    """An answer as the report's sample, its text with every control token marked where it fell."""
    view = tables.sample_view(record, {mode: token for mode, token in tokens.items() if mode != END})
    text = str(record.get("response") or "")
    return view | {"marked": marked(text, tokens), "uid": str(record.get("uid") or "")}


def marked(text: str, tokens: dict[str, str]) -> Markup:
    """The text with its control tokens marked: the first token, the end of thinking, and those that have no place. The
    middle of a very long stretch between them is left out."""
    kinds = {token: kind for kind, token in tokens.items()}
    parts = re.split("(" + "|".join(map(re.escape, tokens.values())) + ")", text)
    out, ended, at = [], False, 0
    begins = kinds.get(parts[1]) if len(parts) > 1 and not parts[0] else None
    for part in parts:
        kind = kinds.get(part)
        if kind is None:
            out.append(escape(tables.clipped(part)))
        elif at == 0 and kind != END:
            out.append(_mark(part, kind, f"control token: the answer is {'thinking' if kind == 'think' else kind}"))
        elif kind == END and begins not in (None, "short", END) and not ended:
            ended = True
            share = f" after {100 * at / len(text):.0f} % of the text"
            out.append(_mark(part, "think", f"end of thinking{share}"))
        else:
            out.append(_mark(part, "stray", "a control token out of place"))
        at += len(part)
    return Markup("").join(out)


def _mark(token: str, kind: str, title: str) -> Markup:
    return Markup('<mark class="{}" title="{}">{}</mark>').format(kind, title, token)


def now() -> float:
    return time.time()
