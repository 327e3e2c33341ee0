"""Response text -> final answer.

In: the decoded response and its mode. Out: `Extraction`. Must not know: golds, equivalence, rewards.

Rules (examples are tests):
- Only what follows the first `</think>` counts; a THINK response without it, or an unclosed `<think>`, is CUT_OFF.
- The last complete box (`\\boxed{}`, `\\fbox{}`, braces balanced) wins, also over earlier different ones:
  `first \\boxed{10}, final \\boxed{42}` is 42.
- Boxes joined in one statement by a comma, "and" or "or" are one list: `\\boxed{2} and \\boxed{3}` is "2, 3" (and as
  such no match for a single gold). Four or more different boxed values are an enumeration: the list of them all.
- strict: boxes only. Lenient, in this order: `<answer>..</answer>`, `####`, "the answer is" / "answer:", the last
  sentence that holds a formula in dollar signs or a number: its last formula, else the number behind its last equals
  sign, else its last number ("5 or 6": both).
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
_HEADER = re.compile(r"[*_#\s]*[A-Za-z]{3,}")  # "#### Step 2" is a heading, unless it ends the response
_SAID = re.compile(
    r"(?:answer|solution|result)\s+is\s*:?\s*|(?:final\s+)?answer\s*\**\s*[:：]\s*|\banswer\s+(?=\\[(\[]|\$)"
    r"|答案\s*(?:是|为|為|[:：])\s*[:：]?|(?:réponse|antwort|respuesta|resposta|risposta|ответ|الجواب|الإجابة)"
    r"(?:\s+(?:est|ist|es|é|è|هي|هو))?\s*[:：]?\s+",
    re.IGNORECASE,
)
# a dollar sign that opens a formula has no space behind it, one that closes has none before it and no digit behind it
# (or both have a space inside); so "$30.00 - $12.00 = $18.00" holds no formula
_FORMULA = re.compile(
    r"\$\$(.{1,2000}?)\$\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,2000}?)\\\)"
    r"|(?<!\\)\$(?=\S)([^$\n]{1,2000}?)(?<=\S)(?<!\\)\$(?!\d)|(?<!\\)\$[ ]([^$\n]{1,2000}?)[ ]\$",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?:(?<![\w.)])-\s?)?\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}"
    r"|(?:(?<![\w.)])[-+]\s?\$?)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:,\d{1,2}(?!\d))?)(?:\.\d+)?"
    r"(?:[eE][+-]?\d+|\s?[×x]\s?10\^?\{?[-\d⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+\}?)?(?:\s?/\s?\d+|\s\d+/\d+)?"
    r"(?:\s?%|\s(?:hundred|thousand|million|billion|trillion)\b)?|(?<!\d)\.\d+%?"
)
_MONEY = re.compile(r"[$€£¥₹]\s?(?:\d[\d,]*(?:\.\d+)?)|(?:\d[\d,.]*\d|\d)\s?[$€£¥₹]")
_OR = re.compile(r"\s*,?\s*\bor\s+(?:[a-z]\s*=\s*)?[$*]*")
_CALCULATED = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K's marks: 6*7 = <<6*7=42>>42
_VERB = re.compile(r"\b(?:is|are|equals)\s+(?=[-+$\\\d(\[])")
_EQUALS = re.compile(r"=\s*(?:\*\*|[$€£])?\s*(?=-?[\d.])")
_PLAIN_FORMULA = re.compile(r"[-+*/^().\s\w]*", re.ASCII)
_BARE_BOX = re.compile(r"boxed\s*\{")
_CHAT = re.compile(r"<\|im_start\|>.*|<\|[a-z_]+\|>", re.DOTALL)
_SENTENCES = re.compile(r"\n+|(?<=[.!?])\s+|(?<=[。！？])")
_WORDS = re.compile(r"[a-zA-Z]{4,}(?<!frac)\s")


def unboxed(text: str) -> str | None:
    """The final answer of a text without a box."""
    text = _CALCULATED.sub("", _CHAT.sub("", text[-_TAIL_CHARS:])).replace("−", "-").rstrip()
    if match := _last(_BARE_BOX, text):
        inner = boxes("\\" + text[match.start() :])
        if inner:
            return inner[0][2]
    if match := _last(_TAGGED, text):
        return match[1]
    for match in reversed(list(_HASHES.finditer(text))):
        if match.end() == len(text) or not _HEADER.match(match[1]):
            return match[1].strip("* ")
    if match := _last(_SAID, text):
        said = text[match.end() : match.end() + _MAX_CHARS].lstrip("* ").split("\n\n")[0].strip()
        if said:
            return _first_value(said)
    for sentence in reversed(_SENTENCES.split(text[-_MAX_CHARS:])):
        value = _last_value(sentence)
        if value is not None:
            return value
    return None


def _first_value(said: str) -> str:
    """The value that a statement begins with: a formula, or words up to the sentence's end."""
    match = _FORMULA.match(said)
    if match:
        value = next(part for part in match.groups() if part)
        also = _OR.match(said, match.end())
        return value if also is None else value + r" \text{ or } " + _first_value(said[also.end() :])
    sentence = re.split(
        r"\n|(?<!\d)(?<!\b[ap])\.(?:\s|$)|(?<!\b[ap]\.m)\.\s+(?=[A-Z])|\.$|[。]|\s+(?:because|since|which|so|as)\b",
        said,
    )[0].strip("*: ")
    if match := _last(_VERB, sentence):
        return _first_value(sentence[match.end() :])
    if match := _last(_FORMULA, sentence):
        return next(part for part in match.groups() if part)
    number = _NUMBER.match(sentence)
    if number and (result := _result(sentence)):
        return result
    if number and re.match(r"\s+[a-zA-Z]{2,}|\*|$", sentence[number.end() :]) and not _OR.match(sentence, number.end()):
        return number[0]
    if len(sentence.split()) > 4 or re.search(r"[\u3040-\u9fff]", sentence):
        if len(money := _MONEY.findall(sentence)) == 1:
            return str(money[0])
        return _last_value(sentence) or sentence
    return sentence


def _last_value(sentence: str) -> str | None:
    """The last formula of a sentence, else its last number ("5 or 6" is both of them)."""
    formulas = [next(part for part in match.groups() if part) for match in _FORMULA.finditer(sentence)]
    formulas = [formula for formula in formulas if not formula.rstrip().endswith(("=", "+", "-", "*", "/"))]
    if formulas and not _WORDS.search(re.sub(r"\\[a-zA-Z]+", "", formulas[-1])):
        return formulas[-1]
    if result := _result(sentence):
        return result
    numbers = list(_NUMBER.finditer(sentence))
    if not numbers:
        return None
    if len(numbers) > 1 and _OR.fullmatch(sentence, numbers[-2].end(), numbers[-1].start()):
        return f"{numbers[-2][0]} or {numbers[-1][0]}"
    return numbers[-1][0]


def _result(sentence: str) -> str | None:
    """What stands behind the last equals sign: 300 in "10*30 = 300 minutes to run 30 miles", 2x + 1 in "y = 2x + 1"."""
    equals = _last(_EQUALS, sentence)
    if equals is None:
        return None
    rest = sentence[equals.end() :].rstrip(" .*")
    number = _NUMBER.match(rest)
    formula = _PLAIN_FORMULA.fullmatch(rest) and not re.search("[a-zA-Z]{2}", rest)
    return rest if formula or number is None else number[0]


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found
