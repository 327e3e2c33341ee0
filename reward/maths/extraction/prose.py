"""The final answer of a text without a box, as people and base models write it: "#### 18", "The answer is 18, since".

In: a response's text, without its thinking. Out: the answer as text, or None. Must not know: golds, equivalence, boxes.

Rules, in this order (docs/verifier.md has examples):
- `boxed{..}` without its backslash, `<answer>..</answer>`; then the first `####` line that is not a heading.
- "the answer is", "Answer:": the value that follows, including a list or alternatives, excluding a clause after it;
  "The answer is not 5" gives none.
- Otherwise the last sentence that picks an option or contains a formula or a number: the option, its last formula in
  dollar signs, the LaTeX that it ends in, what follows its last equals sign, its last number. Numbers joined by "or",
  "and" or commas up to the end of the sentence are a list; digits inside a word (H2O) are not a number.
- An exclamation mark after a number ends the sentence; it is a factorial only in a formula, or before other words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from reward.maths.extraction.options import LETTER, MAYBE, alternatives, last, picked
from reward.maths.unit_words import is_unit

_MAX_CHARS = 20_000  # of a response, searched for an answer outside boxes
_MAX_SENTENCES_CHARS = 2_000  # searched for the last sentence with a value

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
# "#### Step 2", "#### 1. Set-up" are headings, unless they end the response
_HEADER = re.compile(r"[*_#\s]*(?:[A-Za-z]{3,}|\d{1,2}[.):]\s+[A-Za-z])")
_SAID = re.compile(
    r"(?:answer|solution|result)\s+is\s*:?\s*|(?:final\s+)?answer\s*\**\s*[:：]\s*|\banswer\s+(?=\\[(\[]|\$)"
    r"|答案\s*(?:是|为|為|[:：])\s*[:：]?|(?:réponse|antwort|respuesta|resposta|risposta|ответ|الجواب|الإجابة)"
    r"(?:\s+(?:est|ist|es|é|è|هي|هو))?\s*[:：]?\s+",
    re.IGNORECASE,
)
_NOT = re.compile(
    r"[\s*:$]*(?:(?:definitely|certainly|surely|obviously|clearly)\s+)?(?:not|never|neither)\b", re.IGNORECASE
)
_FILLER = re.compile(
    r"\A(?:(?:therefore|thus|then|hence|simply|just|clearly|indeed|equal\s+to|given\s+by)\b[\s,:]*)+(?![\s$]|\\[(\[])",
    re.IGNORECASE,
)
# an opening dollar sign has no space after it, a closing one has none before it and no digit after it
# (or both have a space inside); so "$30.00 - $12.00 = $18.00" contains no formula
_FORMULA = re.compile(
    r"\$\$([^$]+?)\$\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,2000}?)\\\)"
    r"|(?<!\\)\$(?=\S)([^$\n]+?)(?<=\S)(?<!\\)\$(?!\d)|(?<!\\)\$[ ]([^$\n]{1,2000}?)[ ]\$",
    re.DOTALL,
)
# digits after these belong to something else: H2, x^2, x_1, x^{2}, 3.14, B-12
_OF_ITS_OWN = r"(?<![A-Za-z\d^])(?<![A-Za-z\d}]_)(?<!\^\{)(?<!\d\.)(?<![A-Za-z]-)"
_GROUPED = "[1-9]\\d{0,2}(?:[ \u00a0\u2009\u202f]\\d{3})+(?![\\d/-]|\\s?\\d)"  # 12 345
_NUMBER = re.compile(
    r"(?:(?:±|\\pm|\+\s?/\s?-|plus(?:\s|-)or(?:\s|-)minus)\s*)?"
    r"(?:(?:(?<![\w.)])-\s?)?\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}"
    rf"|{_OF_ITS_OWN}\d+(?:\.\d+)?(?:\s?:\s?\d+(?:\.\d+)?)+(?![\d.]*\w)"
    rf"|(?:(?<![\w.)])[-+]\s?\$?)?{_OF_ITS_OWN}(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|{_GROUPED}|\d+(?:,\d{{1,2}}(?!\d))?)"
    r"(?:\.\d+)?(?:[eE][+-]?\d+|\s?[×x]\s?10\^?\{?[-\d⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+\}?)?(?:\s?/\s?\d+|\s\d+/\d+)?"
    r"(?:\s?%|\s(?:per\s?cent|percent(?:age)?|hundred|thousand|million|billion|trillion)\b)?|(?<![\dA-Za-z])\.\d+%?)"
)
_ATTACHED = re.compile(r"[A-Za-z][A-Za-z\d_]*")
_COUNTED_OFF = re.compile(r"\b(?:week|day|step|part|case|question|problem|year|month|hour|round)\s$", re.IGNORECASE)
_ORDINAL = ("st", "nd", "rd", "th")
_MONEY = re.compile(r"[$€£¥₹]\s?(?:\d[\d,]*(?:\.\d+)?)|(?:\d[\d,.]*\d|\d)\s?[$€£¥₹]")
_OR = re.compile(r"\s*,?\s*\bor\s+(?:[a-z]\s*=\s*)?[$*]*")
# what joins two values of a list, with the unit of the first: "3, 4", "x = 3 or x = -3", "5 km or 6 km"
_JOINT = re.compile(
    r"[\s$*]*(?P<unit>[a-zA-Z][a-zA-Z ]{0,30}?)??[\s$*]*(?:(?P<comma>[,;])\s*)?"
    rf"(?P<word>\b(?:and|or)\b{MAYBE})?[\s$*€£]*(?P<name>[a-zA-Z]\s*=\s*)?[$*(]*"
)
_ALSO_FORMULA = re.compile(r"\s*(?:,\s*(?:and\s+)?|and\s+)(?=\$|\\[(\[])")
_PAIR = re.compile(r"(?<![\w)])([(\[]\s*-?[\d./]+(?:\s*,\s*-?[\d./]+)+\s*[)\]])[\s.!*]*$")  # ends in (3, 4)
_COMMANDS = re.compile(
    r"\\[a-zA-Z]+(?:\s*\{[a-zA-Z\s]*\})?|\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|frac|arcsin|arccos|arctan|pi)\b"
)
_DELIMITER = re.compile(r"\$|\\[()\[\]]|[\u3040-\u9fff]|&(?!.*\\end)")
_PROSE_WORD = re.compile(
    r"(?<![a-zA-Z\\])(?:[A-Za-z'’]{3,}|is|be|or|of|to|in|we|so|it|by|at|as|no|an|if)(?![a-zA-Z])[\s:,]*", re.IGNORECASE
)
_BETWEEN = re.compile(r"\b(?:between|from)\s+[$*]*$")
_RATIO_WORDS = re.compile(r"(?<![\w.,])(\d+(?:\.\d+)?)\s+to\s+(\d+(?:\.\d+)?)(?![\w])")
_CALCULATED = re.compile(r"<<[^<>\n]{0,200}>>")  # GSM8K's marks: 6*7 = <<6*7=42>>42
_COMPLETE = re.compile(  # behind a number: the end, a word or a clause, not an operator
    r"(?!\s*\(?\s*(?:or|/)\s*\d|\s*\(\s*(?:or|and|maybe)\b)"  # an alternative
    r"(?:\s+[a-zA-Z]{2,}|\s*\*|\s*$|!|\?|\s*[,;:—–](?:\s*$|\s+[a-zA-Z(])|\s+\([a-z]|\s+[-–—](?:\s+[a-z]{2,}|\s*$)"
    r"|\s+[gmsJNWLVAhK]\.?$|\.)"
)
_VERB = re.compile(r"\b(?:is|are|equals)\s+(?=[-+$\\\d(\[])")
_EQUALS = re.compile(r"=\s*(?:\*\*|[$€£])?\s*(?=-?[\d.])")
_PLAIN_FORMULA = re.compile(r"[-+*/^().\s\w]*", re.ASCII)
_BARE_BOX = re.compile(r"boxed\s*\{")
_SENTENCES = re.compile(r"\n+|(?<=[.?])\s+|(?<=!)\s+(?![a-z])|(?<=[。！？])")
_EXCLAIMED = re.compile(r"(?<=\d)!+$")
_WORDS = re.compile(r"[a-zA-Z]{4,}(?<!frac)\s")
_ENDS = re.compile(
    r"\n|(?<!\d)(?<!\b[ap])\.(?:\s|$)|(?<!\b[ap]\.m)\.\s+(?=[A-Z])|\.$|[。]|\s+(?:because|since|which|so|as)\b"
)
_QUESTION = re.compile(
    r"\n[ \t]*(?:#{1,6}[ \t]*|\*\*)?"
    r"(?:(?:next |new )?(?:question|problem|exercise)|q|user|human|instruction|input)[ \t]*\d{0,4}[ \t]*[:.)]",
    re.IGNORECASE,
)
_ANSWERED = re.compile(
    r"####[ \t]*[-$\d(\\]|\\boxed\s*\{|(?:answer|solution|result)\s+is\b|answer\s*\**\s*[:：]", re.IGNORECASE
)


def first_exercise(text: str) -> str:
    """The text up to the next question, if a base model continues with one of its own after its answer."""
    answered = _ANSWERED.search(text) if ":" in text and _QUESTION.search(text) else None
    question = _QUESTION.search(text, answered.end()) if answered else None
    return text[: question.start()] if question else text


def unboxed(text: str) -> str | None:
    """The final answer of a text without a box."""
    text = _CALCULATED.sub("", text[-_MAX_CHARS:]).replace("−", "-").rstrip()
    if (match := last(_BARE_BOX, text)) and (inner := _braced(text, match.end())):
        return inner
    if match := last(_TAGGED, text):
        return match[1]
    for match in _HASHES.finditer(text):
        if match.end() == len(text) or not _HEADER.match(match[1]):
            return _EXCLAIMED.sub(r"\\text{!}", match[1].strip("* "))
    for match in reversed(list(_SAID.finditer(text))):
        said = _FILLER.sub("", text[match.end() :].lstrip("* ")).split("\n\n")[0].strip()
        if said and not _NOT.match(said):
            return _first_value(said)
    for sentence in reversed(_SENTENCES.split(text[-_MAX_SENTENCES_CHARS:])):
        value = _last_value(sentence)
        if value is not None:
            return value
    return None


def _braced(text: str, start: int) -> str | None:
    """The contents of braces that have just been opened."""
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start:at].strip() or None
    return None


# ------------------------------------------------------------------ numbers


def _numbers(sentence: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, text) of the numbers of a sentence; digits in words and "3D" do not count, "2x" does."""
    for match in _NUMBER.finditer(sentence):
        text, end = match[0], match.end()
        if ":" in text and _COUNTED_OFF.search(sentence, max(0, match.start() - 12), match.start()):
            text = text.rpartition(":")[2].strip()
        attached = _ATTACHED.match(sentence, end)
        if attached and attached[0] not in _ORDINAL and not is_unit(attached[0]):
            if len(attached[0]) > 2 or attached[0].isupper():
                continue
            text, end = text + attached[0], attached.end()
        elif sentence[end : end + 1] == "!" and sentence[end + 1 : end + 2] != "=":
            words = re.match(r"!\**\s+[a-z(]", sentence[end:])
            text = text + "!" if words else text + r"\text{!}"
        yield match.start(), end, text


def _series(sentence: str, numbers: list[tuple[int, int, str]], said: bool) -> str | None:
    """The list that a sentence's numbers form, up to its end: "5 or 6", "1, 2 and 3"; None if they form none.

    said: the numbers follow "the answer is"; then two with a comma between them are a list, too.
    """
    if len(numbers) < 2:
        return None
    behind = sentence[numbers[-1][1] :].strip(" .,;:!?*$)")
    if behind and not is_unit(behind):
        return None
    parts, words, named, first = [numbers[-1][2]], set(), False, numbers[-1][0]
    for before, after in zip(reversed(numbers[:-1]), reversed(numbers[1:]), strict=True):
        joint = _JOINT.fullmatch(sentence, before[1], after[0])
        if joint is None or not (joint["comma"] or joint["word"]):
            break
        if joint["unit"] and not ((joint["word"] or "").startswith("or") and is_unit(joint["unit"])):
            break
        words.add((joint["word"] or ",").split()[0])
        named = named or joint["name"] is not None
        parts.insert(0, before[2])
        first = before[0]
    if said and len(parts) < len(numbers):
        return None  # other values before them: 0, \\tfrac32, 2i, -2i
    before_them = Counter(sentence[:first])
    if before_them["("] + before_them["["] > before_them[")"] + before_them["]"]:
        return None  # (3, 4) is a pair
    if len(parts) < 2 or _BETWEEN.search(sentence, 0, first):
        return None
    equals = last(_EQUALS, sentence)
    if equals and not any(abs(equals.end() - number[0]) < 3 for number in numbers if number[0] >= first):
        return None  # 6 + 7 = 13 bills of $50 and $100
    if "or" in words and len({_plain_value(part) for part in parts}) == 1:
        return parts[-1]  # 180 rings, or 180 years
    if "or" in words:
        return " or ".join(parts)
    if len(parts) > 2 or "and" in words or said or (named and _one_name(sentence)):
        return ", ".join(parts)
    return None


def _plain_value(text: str) -> Fraction | str:
    plain = text.replace(",", "").replace(" ", "")
    return Fraction(plain) if re.fullmatch(r"-?\d{1,30}(?:/[1-9]\d{0,30})?", plain) else text


def _one_name(sentence: str) -> bool:
    return len(set(re.findall(r"([a-zA-Z])\s*=", sentence))) == 1


# ------------------------------------------------------------------ values


def _first_value(said: str) -> str:
    """The value that a statement begins with: a formula, a list, or words up to the end of the sentence."""
    match = _FORMULA.match(said)
    if match:
        value = next(part for part in match.groups() if part)
        for joint, written in ((_OR, r" \text{ or } "), (_ALSO_FORMULA, ", ")):
            if also := joint.match(said, match.end()):
                return value + written + _first_value(said[also.end() :])
        return value
    sentence = _ENDS.split(said)[0].strip("*: ")
    if option := re.match(LETTER + r"(?=\s*(?:$|[,;.!?]|[-–—]\s)|\s+\()", sentence):
        return alternatives(sentence, option)
    if match := last(_VERB, sentence):
        return _first_value(sentence[match.end() :])
    if match := last(_FORMULA, sentence):
        return next(part for part in match.groups() if part)
    if ratio := _RATIO_WORDS.fullmatch(sentence.rstrip(" .!")):
        return f"{ratio[1]}:{ratio[2]}"
    numbers = list(_numbers(sentence))
    at_once = bool(numbers) and not sentence[: numbers[0][0]].strip("$€£* ")
    if at_once and (result := _result(sentence)):
        return result
    if numbers and (series := _series(sentence, numbers, said=at_once)):
        return series
    if at_once and not _OR.match(sentence, numbers[0][1]) and _COMPLETE.match(sentence[numbers[0][1] :]):
        return sentence[: numbers[0][0]].strip("* ") + numbers[0][2]
    if len(sentence.split()) > 4 or re.search(r"[\u3040-\u9fff]", sentence):
        if len(money := _MONEY.findall(sentence)) == 1:
            return str(money[0])
        return _last_value(sentence) or sentence
    return sentence


def _last_value(sentence: str) -> str | None:
    """The option that a sentence picks, or its last formula, or its last number (both, for "5 or 6")."""
    if option := picked(sentence):
        return option
    formulas = [next(part for part in match.groups() if part) for match in _FORMULA.finditer(sentence)]
    formulas = [formula for formula in formulas if not formula.rstrip().endswith(("=", "+", "-", "*", "/"))]
    if formulas and not _WORDS.search(re.sub(r"\\[a-zA-Z]+", "", formulas[-1])):
        return formulas[-1]
    if latex := _bare_formula(sentence):
        return latex
    if pair := _PAIR.search(sentence):
        return pair[1]
    numbers = list(_numbers(sentence))
    if series := _series(sentence, numbers, said=False):
        return series
    if result := _result(sentence):
        return result
    if "ratio" in sentence and (ratio := last(_RATIO_WORDS, sentence)):
        return f"{ratio[1]}:{ratio[2]}"
    if not numbers or re.search(r"\b(?:not|isn't|never)\s+\W*$", sentence[: numbers[-1][0]]):
        return None
    return numbers[-1][2]


def _bare_formula(sentence: str) -> str | None:
    """The LaTeX that a sentence without dollar signs ends in: "Thus we get 2\\sqrt{3}."; all of it if no words."""
    if _DELIMITER.search(sentence) or sentence.count("\\begin") != sentence.count("\\end"):
        return None
    words = last(_PROSE_WORD, _COMMANDS.sub(lambda m: "\\" * len(m[0]), sentence))
    tail = sentence[words.end() if words else 0 :].strip().lstrip("=:*,").rstrip(".!*,;").strip()
    if tail.count("{") != tail.count("}") or not re.search(r"[a-zA-Z(\[]", tail) or not re.search(r"[-+*/\d\\]", tail):
        return None
    if not re.search(r"[\\^{]|(?<=\w)_\w", tail) and (words or "=" in tail):
        return None  # plain numbers
    left, equals, right = tail.rpartition("=")
    equation = words is None and re.fullmatch(r"[a-zA-Z\d\s^{}()*+-]+", left) is not None
    return right.strip() if equals and right.strip() and not equation else tail


def _result(sentence: str) -> str | None:
    """What follows the last equals sign: 300 in "10*30 = 300 minutes to run 30 miles", 2x + 1 in "y = 2x + 1"."""
    equals = last(_EQUALS, sentence)
    if equals is None:
        return None
    rest = sentence[equals.end() :].rstrip(" .*")
    number = _NUMBER.match(rest)
    formula = _PLAIN_FORMULA.fullmatch(rest) and not re.search("[a-zA-Z]{2}", rest)
    return rest if formula or number is None else number[0]
