"""Response text -> final answer.

In: the decoded response and its mode. Out: `Extraction`. Must not know: golds, equivalence, rewards.

Rules (examples are tests):
- Only what follows the first `</think>` counts; a THINK response without it, or an unclosed `<think>`, is CUT_OFF.
- The last complete box (`\\boxed{}`, `\\fbox{}`, braces balanced) wins, also over earlier different ones:
  `first \\boxed{10}, final \\boxed{42}` is 42.
- Boxes joined in one statement by a comma, "and" or "or" are one list: `\\boxed{2} and \\boxed{3}` is "2, 3" (and as
  such no match for a single gold). Four or more different boxed values are an enumeration: the list of them all.
- strict: boxes only. Lenient, in this order: `<answer>..</answer>`, `####`, "the answer is" / "answer:", the last
  formula in dollar signs, the last number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reward.verdict import Outcome
from rollout.mode import Mode

MAX_RESPONSE_CHARS = 1_000_000
_MAX_BOXES = 4  # this many different boxed values are a hedge
_MAX_CHARS = 2_000  # of an answer, and of what is searched for one outside boxes, per pattern
_TAIL_CHARS = 20_000  # of a response, searched for an answer outside boxes


@dataclass(frozen=True, slots=True)
class Extraction:
    """Either an answer, or the outcome (CUT_OFF, NO_ANSWER) that says why there is none."""

    answer: str | None
    outcome: Outcome | None


def extract(text: str, mode: Mode | None, strict: bool, think_end: str = "</think>") -> Extraction:
    """The final answer of a response. mode None: plain text, which may hold a closed thinking part."""
    _, closed, after = text.partition(think_end)
    if closed:
        text = after
    elif mode is Mode.THINK or think_end.replace("/", "", 1) in text:
        return Extraction(None, Outcome.CUT_OFF)
    text = text[-MAX_RESPONSE_CHARS:]
    answer = boxed(text)
    if answer is None and not strict:
        answer = unboxed(text)
    answer = answer.strip() if answer else None
    return Extraction(answer, None) if answer else Extraction(None, Outcome.NO_ANSWER)


# ------------------------------------------------------------------ boxes

_SCAN = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|\{|\}", re.DOTALL)
_JOINT_NOISE = re.compile(r"\\[()\[\],;: ]|\$|\\q?quad|\\text\s*\{|\}|[\s.]")
_JOINT = re.compile(r"(?:[,;&]|,?and|,?(?:or|either))(?:\\?[a-zA-Z]\w*=)?")


def boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every complete outermost box, in one pass whatever the text holds."""
    open_at: list[tuple[int, int] | None] = []  # per open brace: (start, content) of the box that it opens
    found: list[tuple[int, int, str]] = []
    for match in _SCAN.finditer(text):
        if match["box"]:
            open_at.append((match.start(), match.end()))
        elif match[0] == "{":
            open_at.append(None)
        elif match[0] == "}" and open_at and (box := open_at.pop()) is not None:
            while found and found[-1][0] > box[0]:
                found.pop()  # was inside this one
            found.append((box[0], match.end(), text[box[1] : min(match.start(), box[1] + _MAX_CHARS)].strip()))
    return found


def boxed(text: str) -> str | None:
    found = boxes(text)
    if not found:
        return None
    different = list(dict.fromkeys(content for _, _, content in found if content))
    if len(different) >= _MAX_BOXES:
        return ", ".join(different[: 2 * _MAX_BOXES])
    last = [found[-1]]
    for before in reversed(found[:-1]):
        between = text[before[1] : min(last[0][0], before[1] + 81)]
        if len(between) > 80 or not _JOINT.fullmatch(_JOINT_NOISE.sub("", between)):
            break
        last.insert(0, before)
    return ", ".join(dict.fromkeys(content for _, _, content in last if content)) or None


# ------------------------------------------------------------------ lenient

_TAGGED = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_SAID = re.compile(
    r"(?:answer|solution|result)\s+is\s*:?\s*|(?:final\s+)?answer\s*[:：]\s*|\banswer\s+(?=\\[(\[]|\$)", re.IGNORECASE
)
_FORMULA = re.compile(
    r"\$\$(.{1,2000}?)\$\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,2000}?)\\\)|(?<!\\)\$([^$\n]{1,2000}?)(?<!\\)\$", re.DOTALL
)
_NUMBER = re.compile(
    r"(?<![\w.])-?\s?\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}"
    r"|(?:(?<![\w.)])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:,\d{1,2}(?!\d))?)(?:\.\d+)?(?:/\d+)?%?|(?<!\d)\.\d+%?"
)
_BARE_BOX = re.compile(r"boxed\s*\{")
_CHAT = re.compile(r"<\|im_start\|>.*|<\|[a-z_]+\|>", re.DOTALL)


def unboxed(text: str) -> str | None:
    """The final answer of a text without a box."""
    text = _CHAT.sub("", text[-_TAIL_CHARS:])
    if match := _last(_BARE_BOX, text):
        inner = boxes("\\" + text[match.start() :])
        if inner:
            return inner[0][2]
    if match := _last(_TAGGED, text):
        return match[1]
    if match := _last(_HASHES, text):
        return match[1]
    if match := _last(_SAID, text):
        said = text[match.end() : match.end() + _MAX_CHARS].split("\n\n")[0].strip()
        if said:
            return _first_value(said)
    formulas = [next(part for part in match.groups() if part) for match in _FORMULA.finditer(text)]
    if formulas and not re.search(r"[a-zA-Z]{4,}(?<!frac)\s", re.sub(r"\\[a-zA-Z]+", "", formulas[-1])):
        return formulas[-1]
    number = _last(_NUMBER, text)
    return number[0] if number else None


def _first_value(said: str) -> str:
    """The value that a statement begins with: a formula, or words up to the sentence's end."""
    match = _FORMULA.match(said)
    if match:
        return next(part for part in match.groups() if part)
    sentence = re.split(r"\n|(?<!\d)\.(?:\s|$)|\.\s+(?=[A-Z])|\.$|\s+(?:because|since|which|so|as)\b", said)[0].strip(
        "*: "
    )
    if match := re.search(r".*\b(?:is|are|equals)\s+(?=[-+$\\\d(\[])", sentence):
        return _first_value(sentence[match.end() :])
    if match := _last(_FORMULA, sentence):
        return next(part for part in match.groups() if part)
    number = _NUMBER.match(sentence)
    if number and re.match(r"\s+[a-zA-Z]|\*|$", sentence[number.end() :]):
        return number[0]
    return sentence


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found
