"""The final answer of a response.

In: a response as text. Out: the answer as text, or None. Must not know: golds, equivalence, rewards.

Rules (docs/verifier.md has examples):
- Only what follows the first `</think>` counts; a response that never closes its thinking has no answer.
- A marker of the end of a turn (`<|im_end|>`, `</s>`) ends the response.
- The last complete box (`\\boxed{}`, `\\fbox{}`, braces balanced) wins, even over earlier boxes that differ:
  `first \\boxed{10}, final \\boxed{42}` is 42.
- Boxes joined in one statement by a comma, "and" or "or" are one list: `\\boxed{2} and \\boxed{3}` is "2, 3" (so it
  matches no single gold); what they count may stand between them: `\\boxed{3} cats and \\boxed{5} dogs`.
  Four or more different boxed values are taken as one list of all of them.
- strict: boxes only. Otherwise, without a box, what `prose` finds.
"""

from __future__ import annotations

import re

from reward.maths.extraction.prose import first_exercise, unboxed
from reward.maths.unit_words import is_unit

MAX_RESPONSE_CHARS = 1_000_000
_MAX_BOXES = 4  # this many different boxed values are a hedge


def extract(response: str, strict: bool = False, think_end: str = "</think>", thinking: bool = False) -> str | None:
    """The final answer of a response, as it is written there; None if it has none.

    strict: only boxes count; otherwise also "the answer is 5", "#### 5", the last formula or number.
    think_end: the token that closes the thinking part; the opening token is the same without its slash.
    thinking: the response begins inside the thinking part, because the prompt opened it.
    Raises nothing; linear time; only the last million characters are searched.
    Example: extract("<think>is it 4?</think>It is $\\\\boxed{5}$.") is "5".
    """
    text = without_thinking(response, think_end, thinking)
    return None if text is None else final_answer(text, strict)


def without_thinking(response: str, think_end: str = "</think>", thinking: bool = False) -> str | None:
    """What follows the thinking part; None if that is never closed. The parameters are those of `extract`."""
    _, closed, after = response.partition(think_end)
    if closed:
        return after
    return None if thinking or think_end.replace("/", "", 1) in response else response


def final_answer(text: str, strict: bool) -> str | None:
    """`extract` for a text without a thinking part."""
    text = text_of_turn(text)[-MAX_RESPONSE_CHARS:]
    if not strict:
        text = first_exercise(text)
    answer = boxed(text)
    if answer is None and not strict:
        answer = unboxed(text)
    return (answer.strip() or None) if answer else None


# ------------------------------------------------------------------ the end of the turn

# special tokens as text: <|im_end|>, <｜end▁of▁sentence｜>, <end_of_turn>, </s>, [/INST]
_SPECIAL = re.compile(
    r"<[|｜](?P<name>[A-Za-z_\d▁\-]{1,40})[|｜]>|<(?P<turn>(?:start|end)_of_turn|eos|bos|pad|unk|/?s|EOD)>|\[/?(?P<inst>INST)\]"
)
_BEGINS = ("s", "bos", "begin_of_text", "startoftext", "begin▁of▁sentence", "pad", "unk")  # of a text, or filling


def text_of_turn(text: str) -> str:
    """The text up to the first end-of-turn marker, without other markers."""
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
    """(start, end, content) of every complete outermost box, in one pass whatever the text."""
    before, found_any, _ = text.partition("box")
    if not found_any:
        return []
    first = len(before.rstrip("f\\"))
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
    """Whether the text between two boxes makes them one list: ", ", " and ", " cats and "."""
    if len(between) > _MAX_JOINT:
        return False
    if (counted := _COUNTED.match(between)) and is_unit(counted["words"] or ""):
        between = between[counted.end() :]
    return _JOINT.fullmatch(_JOINT_NOISE.sub("", between)) is not None
