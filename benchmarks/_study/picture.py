"""The study's picture: think rate by training step, a panel for each variant, a colour for each level.

In: rows of `benchmarks._study.results`. Out: an SVG file's text, readable on light and dark pages. Must not know: runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._study.members import DEGRPO, GRPO, HIGH, LOW
from benchmarks._study.results import Curve, Row, estimate, smoothed

TITLES = {GRPO: "GRPO", DEGRPO: "DeGRPO", LOW: "DeGRPO, alpha 0.001", HIGH: "DeGRPO, alpha 30"}
EASY, HARD = ("#1a7f37", "#57ab5a"), ("#b35900", "#e0823d")  # levels where short, where thinking earns more
WIDTH, HEIGHT, LEFT, TOP, GAP, FOOT = 196, 150, 46, 68, 26, 46
STYLE = (
    "text{font:12px sans-serif;fill:#24292f}.t{font-weight:600;font-size:13px}.s{fill:#57606a;font-size:11px}"
    ".a{stroke:#8c959f;stroke-width:1}.g{stroke:#8c959f;stroke-opacity:.3}path{fill:none}.m{stroke-width:2.2}"
    ".o{stroke-width:.8;stroke-opacity:.45}"
)


def picture(rows: Sequence[Row]) -> str:
    variants = [variant for variant in TITLES if any(one["variant"] == variant for one in rows)]
    wide = LEFT + len(variants) * (WIDTH + GAP)
    high = TOP + HEIGHT + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
        'role="img" aria-label="Think rate by training step, variant and level">',
        f'<style>{STYLE}</style><rect width="{wide}" height="{high}" fill="#ffffff" rx="6"/>',
        f'<text class="s" x="{LEFT}" y="17">Share of answers that think, by training step. Thin: one seed; thick: '
        "their mean.</text>",
    ]
    for place, variant in enumerate(variants):
        parts += panel(
            variant, [one for one in rows if one["variant"] == variant], LEFT + place * (WIDTH + GAP), not place
        )
    parts += legend(rows, high)
    return "\n".join([*parts, "</svg>\n"])


def panel(variant: str, rows: Sequence[Row], left: float, first: bool) -> list[str]:
    found = estimate(one["regret"] for one in rows)
    regret = "" if found is None else f"regret at the end {found[0]:.3f}"
    parts = [f'<text class="t" x="{left}" y="{TOP - 26}">{TITLES[variant]}</text>']
    parts += [f'<text class="s" x="{left}" y="{TOP - 10}">{regret}</text>']
    for share in (0, 0.5, 1):
        y = TOP + HEIGHT * (1 - share)
        parts.append(f'<line class="{"g" if share else "a"}" x1="{left}" x2="{left + WIDTH}" y1="{y}" y2="{y}"/>')
        if first:
            parts.append(f'<text class="s" x="{left - 6}" y="{y + 4}" text-anchor="end">{share:.0%}</text>')
    last = max(len(curve) for one in rows for curve in one["curves"].values())
    parts += [f'<text class="s" x="{left}" y="{TOP + HEIGHT + 15}">1</text>']
    parts += [f'<text class="s" x="{left + WIDTH}" y="{TOP + HEIGHT + 15}" text-anchor="end">{last}</text>']
    for level, color in colors(rows).items():
        curves = [drawable(one["curves"][level]) for one in rows]
        parts += [line(curve, "o", color, left, last) for curve in curves]
        shortest = min(map(len, curves))
        average = [sum(curve[i] for curve in curves) / len(curves) for i in range(shortest)]
        parts.append(line(average, "m", color, left, last))
    return parts


def colors(rows: Sequence[Row]) -> dict[str, str]:
    """Of each level: green where short earns more at the end in most runs, orange where thinking does."""
    result, used = {}, {"short": 0, "think": 0}
    for level in rows[0]["levels"]:
        kinds = [one["levels"][level] for one in rows]
        kind = max(("short", "think"), key=kinds.count)
        palette = EASY if kind == "short" else HARD
        result[level] = palette[used[kind] % len(palette)]
        used[kind] += 1
    return result


def drawable(values: Sequence[float | None]) -> Curve:
    """A level that a small batch lacked keeps its value of the step before."""
    known, last = [], next((value for value in values if value is not None), 0.0)
    for value in values:
        last = last if value is None else value
        known.append(last)
    return smoothed(known)


def line(values: Sequence[float], kind: str, color: str, left: float, last: int) -> str:
    at = [(left + WIDTH * i / max(last - 1, 1), TOP + HEIGHT * (1 - value)) for i, value in enumerate(values)]
    return f'<path class="{kind}" stroke="{color}" d="M{" L".join(f"{x:.1f},{y:.1f}" for x, y in at)}"/>'


def legend(rows: Sequence[Row], high: float) -> list[str]:
    parts, x = [], float(LEFT)
    best = [one for one in rows if one["variant"] == DEGRPO] or rows
    for level, color in colors(best).items():
        text = f"level {level}: {'short suffices' if color in EASY else 'thinking pays'}"
        parts.append(
            f'<line x1="{x}" x2="{x + 18}" y1="{high - 14}" y2="{high - 14}" stroke="{color}" stroke-width="3"/>'
        )
        parts.append(f'<text class="s" x="{x + 23}" y="{high - 10}">{text}</text>')
        x += 36 + 5.6 * len(text)
    return parts
