"""A plan as text for a terminal.

In: a `Plan`. Out: lines. Must not know: how it was computed.
"""

from __future__ import annotations

import textwrap

from orchestrator.plan.estimate import Estimate, Plan
from orchestrator.plan.memory import GpuMemory

WIDE = 118  # columns
SHOWN = 12  # placements; --json has them all


def text(found: Plan) -> str:
    lines = [*_folded(_heading(found)), "", *_table(found), "", *_folded(_memory(found))]
    lines += ["", *_folded(_before(found)), *_folded(_disk(found))]
    if found.correction:
        lines += ["", "corrected by the run's own metrics:", *_folded([f"  {one}" for one in found.correction.said])]
    lines += ["", *_advice(found), "", *_caveat(found)]
    return "\n".join(lines)


def _folded(lines: list[str]) -> list[str]:
    """Prose, no wider than a terminal. (Rows of the table, and settings to be pasted, stay whole.)"""
    folded = []
    for line in lines:
        behind = " " * (len(line) - len(line.lstrip()) + 2)
        folded += textwrap.wrap(line, WIDE, subsequent_indent=behind) or [line]
    return folded


def _heading(found: Plan) -> list[str]:
    model, think, short = found.model, *found.lengths.means()
    rollout = found.conf.rollout
    what = f"{found.gpus} x {found.gpu.name}" + (
        f" ({found.gpu.memory / 1e9:.0f} GB, ${found.price:g} an hour each)" if found.gpu.gpu else ", one process each"
    )
    return [
        f"model: {model.name}, {model.parameters / 1e9:.3g} B parameters ({model.weight_bytes / 1e9:.3g} GB in "
        f"{model.dtype.value}), {model.kv_bytes:,} bytes of cache a token; from {model.source}",
        f"GPUs: {what}" if found.gpu.gpu else f"CPU: {found.gpus} process(es) that sample or learn",
        f"a step: {rollout.prompts_per_step} prompts x {rollout.group_size} answers; {found.lengths.think_rate:.0%} "
        f"think with {think:,.0f} tokens on average, the others have {short:,.0f}; at most {found.lengths.cap:,}",
        *([] if found.correction else ["  (assumed; think_rate=, think_tokens= and short_tokens= change it)"]),
    ]


def _table(found: Plan) -> list[str]:
    shown, best = list(found.estimates[:SHOWN]), found.best
    if best is not None and best not in shown:
        shown.append(best)
    wide = max(len("placement"), *(len(one.layout.name) for one in shown))
    head = f"{'':2}{'placement':<{wide}} {'ahead':>5} {'s/step':>7} {'sampling':>8} {'grading':>7} {'learner':>7} "
    lines = [head + f"{'sync':>7} {'rest':>7} {'busy':>5} {'hours':>6} {'tokens':>7} {'cost':>9}  fits"]
    for one in shown:
        step, mark = one.step, "*" if one is best else " "
        lines.append(
            f"{mark} {one.layout.name:<{wide}} {one.layout.staleness:>5} {_s(step.seconds):>7} {_s(step.rollout):>8} "
            f"{_s(step.reward):>7} {_s(step.learner):>7} {_s(step.push):>7} {_s(step.rest):>7} {step.busy:>5.0%} "
            f"{one.hours:>6.3g} {_count(one.tokens):>7} {'$' + format(one.cost, ',.2f'):>9}  "
            f"{'yes' if one.memory.fits else 'NO'}"
        )
    meaning = (
        "seconds of a step that the loop waits for each part; ahead: run.max_staleness; busy: of all GPUs' time; "
        f"hours, tokens (of responses) and cost of {found.conf.run.steps} steps with their validations"
    )
    return [*lines, *_folded([meaning])]


def _memory(found: Plan) -> list[str]:
    shown = [one for one in (found.own, found.best) if one is not None] or [found.estimates[0]]
    if len(shown) == 2 and shown[0] is shown[1]:
        del shown[1]
    lines = []
    for one in shown:
        which = "as configured" if one is found.own else "recommended" if one is found.best else "the fastest"
        lines.append(f"memory, {one.layout.name} ({which}), GB:")
        for gpu in one.memory.gpus:
            lines += [f"  {gpu.kind}: {line}" for line in _phases(gpu)]
        lines.append(
            f"  an engine's cache holds {one.memory.cache_tokens:,} tokens; most in use at a time {one.step.context:,}"
            + (f"; host memory for the learner {one.memory.host / 1e9:.1f}" if one.memory.host else "")
        )
        lines += [f"  DOES NOT FIT: {finding}" for finding in one.memory.findings]
        lines += [f"  note: {note}" for note in one.memory.notes]
    return lines


def _before(found: Plan) -> list[str]:
    lines = ["before the run:"] if found.before else []
    for one in found.before:
        if one.findings:
            lines += [f"  {one.name}: DOES NOT FIT: {finding}" for finding in one.findings]
            continue
        price = f", ${one.hours * one.gpus * found.price:,.2f}" if found.gpu.gpu else ""
        lines.append(
            f"  {one.name}: {one.what}, {_count(one.tokens)} tokens: {one.hours:.3g} hours on {one.gpus} "
            f"{'GPU' if found.gpu.gpu else 'process'}{'' if one.gpus == 1 else 's' if found.gpu.gpu else 'es'}{price}"
        )
    return lines


def _disk(found: Plan) -> list[str]:
    parts = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in found.disk.items())
    return [f"disk, GB: {sum(found.disk.values()) / 1e9:.3g} ({parts})"]


def _phases(gpu: GpuMemory) -> list[str]:
    of = f" of {gpu.limit / 1e9:.1f}" if gpu.limit else ""
    return [
        f"{phase.name} {phase.total / 1e9:.2f}{of} ("
        + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in phase.items.items() if size >= 5e6)
        + ")"
        for phase in gpu.phases
    ]


def _advice(found: Plan) -> list[str]:
    best, own = found.best, found.own
    if best is None:
        first = found.estimates[0]
        return [
            f"no placement fits; {first.layout.name}: {'; '.join(first.memory.findings) or 'more batches ahead only'}"
        ]
    lines = [f"recommended: {best.layout.name}, run.max_staleness={best.layout.staleness}{_against(best, own)}"]
    lines.append(
        f"  {' '.join(best.overrides)}" if best.overrides else "  nothing to change: this is what is configured"
    )
    ahead = [
        one for one in found.estimates
        if one.memory.fits and one.layout.staleness > best.layout.staleness
        and one.step.seconds < 0.95 * best.step.seconds
    ]  # fmt: skip
    if ahead:
        fastest = min(ahead, key=lambda one: one.step.seconds)
        lines += [
            f"with answers of older weights (docs/pipeline.md), {best.step.seconds / fastest.step.seconds:.2f} times "
            f"as fast: {fastest.layout.name}, run.max_staleness={fastest.layout.staleness}",
            f"  {' '.join(fastest.overrides)}",
        ]
    lines.append(f"a step waits longest for {best.step.waits}")
    return lines


def _against(best: Estimate, own: Estimate | None) -> str:
    if own is None or own is best:
        return ""
    if not own.memory.fits:
        return " (what is configured does not fit)"
    return f", {own.step.seconds / best.step.seconds:.2f} times as fast as what is configured"


def _caveat(found: Plan) -> list[str]:
    corrected = "" if found.correction else ", not measured; run=<a run> corrects them by its metrics"
    lines = [f"seconds are simulated from stated assumptions (docs/plan.md){corrected}"]
    return [*lines, "start, writing checkpoints and the final evaluation come on top"]


def _s(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _count(tokens: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g} {unit}"
    return f"{tokens:.0f}"
