"""Response text -> final answer.

In: the decoded response and its mode. Out: `Extraction`. Must not know: golds, equivalence, rewards.

Rules (examples are tests):
- Only what follows the first `</think>` counts; a THINK response without it, or an unclosed `<think>`, is CUT_OFF.
- What follows a marker of the end of a turn (`<|im_end|>`, `</s>`) is no part of the response.
- The last complete box (`\\boxed{}`, `\\fbox{}`, braces balanced) wins, also over earlier different ones:
  `first \\boxed{10}, final \\boxed{42}` is 42.
- Boxes joined in one statement by a comma, "and" or "or" are one list: `\\boxed{2} and \\boxed{3}` is "2, 3" (and as
  such no match for a single gold); what is counted may stand between: `\\boxed{3} cats and \\boxed{5} dogs`.
  Four or more different boxed values are an enumeration: the list of them all.
- strict: boxes only. Lenient: after that what `reward.grading.prose` finds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reward.grading.prose import first_exercise, unboxed
from reward.maths.unit_words import is_unit
from reward.verdict import Outcome
from rollout.mode import Mode

MAX_RESPONSE_CHARS = 1_000_000
_MAX_BOXES = 4  # this many different boxed values are a hedge


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
    text = text_of_turn(text)[-MAX_RESPONSE_CHARS:]
    if not strict:
        text = first_exercise(text)
    answer = boxed(text)
    if answer is None and not strict:
        answer = unboxed(text)
    answer = answer.strip() if answer else None
    return Extraction(answer, None) if answer else Extraction(None, Outcome.NO_ANSWER)


# ------------------------------------------------------------------ the end of the turn

# special tokens as text: <|im_end|>, <｜end▁of▁sentence｜>, <end_of_turn>, </s>, [/INST]
_SPECIAL = re.compile(
    r"<[|｜](?P<name>[A-Za-z_\d▁\-]{1,40})[|｜]>|<(?P<turn>(?:start|end)_of_turn|eos|bos|pad|unk|/?s|EOD)>|\[/?(?P<inst>INST)\]"
)
_BEGINS = ("s", "bos", "begin_of_text", "startoftext", "begin▁of▁sentence", "pad", "unk")  # of a text, or filling


def text_of_turn(text: str) -> str:
    """The text up to the end of the turn, where a marker of it stands in the text; other markers are left out."""
    if "<" not in text and "INST]" not in text:
        return text
    struck = "<s>" in text.replace("<s>", "", 1) if text.lstrip().startswith("<s>") else "<s>" in text
    kept = []
    at = 0
    for match in _SPECIAL.finditer(text):
        name = str(match["name"] or match["turn"] or match["inst"])
        if struck and name in ("s", "/s"):  # <s>struck out</s>
            continue
        kept.append(text[at : match.start()])
        at = match.end()
        if name not in _BEGINS and any(part.strip() for part in kept):
            return "".join(kept)
        if "start" in name and (role := _ROLE.match(text, at)):
            at = role.end()
    return "".join((*kept, text[at:])) if kept else text


_ROLE = re.compile(r"(?:assistant|model)\s*(?:<\|end_header_id\|>)?\s*")

# ------------------------------------------------------------------ boxes

_SCAN = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|\{|\}", re.DOTALL)
_JOINT_NOISE = re.compile(r"\\[()\[\],;: ]|\$|\\q?quad|\\text\s*\{|\}|\*|[\s.]")
_JOINT = re.compile(r"(?:[,;&]|,?and|,?(?:or|either))(?:\\?[a-zA-Z]\w*=)?")
_COUNTED = re.compile(
    r"[\s$*]*(?:\\[)\]])?[\s*]*(?P<words>[a-zA-Z][a-zA-Z ]{0,40}?)??(?:\s*\b(?:for|in)\s+\$?[a-zA-Z]\$?)?"
    r"(?=\s*,|\s+(?:and|or)\b)"
)
_MAX_JOINT = 80  # characters between two boxes


def boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every complete outermost box, in one pass whatever the text holds."""
    first = min((at for name in ("boxed", "fbox") if (at := text.find(name)) >= 0), default=-1)
    if first < 0:
        return []
    while first > 0 and text[first - 1] == "\\":
        first -= 1
    open_at: list[tuple[int, int] | None] = []  # per open brace: (start, content) of the box that it opens
    found: list[tuple[int, int, int]] = []
    for match in _SCAN.finditer(text, first):
        if match["box"]:
            open_at.append((match.start(), match.end()))
        elif match[0] == "{":
            open_at.append(None)
        elif match[0] == "}" and open_at and (box := open_at.pop()) is not None:
            while found and found[-1][0] > box[0]:
                found.pop()  # was inside this one
            found.append((box[0], match.end(), box[1]))
    return [(start, end, text[content : end - 1].strip()) for start, end, content in found]


def boxed(text: str) -> str | None:
    found = boxes(text)
    if not found:
        return None
    different = list(dict.fromkeys(content for _, _, content in found if content))
    if len(different) >= _MAX_BOXES:
        return ", ".join(different[: 2 * _MAX_BOXES])
    last = [found[-1]]  # from the end
    for before in reversed(found[:-1]):
        if not _joined(text[before[1] : min(last[-1][0], before[1] + _MAX_JOINT + 1)]):
            break
        last.append(before)
    return ", ".join(dict.fromkeys(content for _, _, content in reversed(last) if content)) or None


def _joined(between: str) -> bool:
    """Whether what stands between two boxes makes them one list: ", ", " and ", " cats and "."""
    if len(between) > _MAX_JOINT:
        return False
    if (counted := _COUNTED.match(between)) and is_unit(counted["words"] or ""):
        between = between[counted.end() :]
    return _JOINT.fullmatch(_JOINT_NOISE.sub("", between)) is not None
