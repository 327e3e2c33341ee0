"""One spelling for the many ways of writing the same mathematics: LaTeX of every kind, unicode, plain text.

In: an answer as a model or a data set writes it. Out: tidy text for `grammar`: no typography, units, currency signs or
filler words, one command for each thing. Every rule is a linear-time regular expression. Must not know: trees,
what makes two answers equal.
"""

from __future__ import annotations

import re
from typing import Any

from reward.maths.parse.lexer import FUNCTIONS
from reward.maths.parse.symbols import SUBSCRIPT, SUPERSCRIPT, shown
from reward.maths.unit_words import is_unit

_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_NAMES = {name: str(value) for value, name in enumerate(_NUMBERS)}
_BASES = {name: str(value) for value, name in enumerate(_NUMBERS[2:17], 2)}
_FUNCTIONS = FUNCTIONS | {"arcsinh", "arccosh", "arctanh", "lcm", "gcd", "sgn", "cotan", "tg", "ctg", "cosec", "asin"}
# that need no \\text, since 2x and 5 m are products
_SHORT_UNITS = frozenset(
    ("mm", "cm", "dm", "km", "nm", "ft", "in", "yd", "mi", "kg", "mg", "lb", "oz", "ml", "mL", "hr", "Hz", "sq", "cu")
    + ("fl", "US", "m/s", "km/h", "cm/s", "kW", "Pa", "mW")
)
_NO_UNITS = _FUNCTIONS | {"and", "mod", "choose", "sqrt", "for", "when"}
_WORD = r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|rm|bf|operatorname\*?)"
_UNIT = r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mbox|hbox|mathrm|rm)"
_SCALE = "(hundred|thousand|million|billion|trillion)"
_PERCENT = r"(?:per\s?cents?|percentages?(?:\s+points?)?|pct\.?)"
_PLUS_MINUS = r"(?:plus\s*(?:or|-|/)\s*minus|positive\s+(?:or|and)\s+negative)"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d)|[²³])?"
_UNIT_GROUP = rf"{_UNIT}\s*\{{[^{{}}]*\}}{_POWER}"
_DENIES = re.compile(
    r"\b(?:not|no|never|isn't|except|but|wrong|false|unlike|other than|without|maybe|perhaps|guess|either|possibly)\b"
)


_INDEX = r"\{?\s*(\d+)\s*\}?"
_NAME = rf"(?:\s*+{_WORD}\s*\{{[^{{}}\d:]*+\}}\s*+|[a-zA-Z\s]++)"  # of a side of a ratio
_INSIDE = r"\s*[^\[\](),]+,\s*[^\[\](),]+"  # of an interval


def _text(inner: str) -> str:
    """A pattern for the words in \\text{...} and the like."""
    return _WORD + r"\s*\{\s*" + inner + r"\s*\}"


def _units(match: re.Match[str]) -> str:
    """The rest of \\text{...} groups after a number without its unit: nothing, or what is not a unit."""
    one = re.search(r"(?<![\d.,/])1$", match.string[max(0, match.start() - 8) : match.start()]) is not None
    whole, end = match["units"], 0
    for group in _GROUP.finditer(whole):
        said = _INNER.sub(r" \1 ", whole[: group.end()])
        if re.match(r"\s*[ap]\.?\s?m\b", said, re.IGNORECASE) or not is_unit(said, one):
            break
        end = group.end()
    return " " + whole[end:] if end else match[0]


def _plain_units(match: re.Match[str]) -> str:
    one = match[0][0] == "1" and not re.search(r"[\d.,/]$", match.string[: match.start()])
    said = match["units"].strip()
    first = re.split(r"[\s.^]", said, maxsplit=1)[0]
    known = (len(first) > 2 or first in _SHORT_UNITS) and first not in _NO_UNITS
    return match[0][0] if known and is_unit(said, one) else match[0]


_TRUSTED = re.compile(rf"(?<=[\d}})])(?<!_\{{\d\}})(?:\s*{_UNIT}\s*\{{([^{{}}]*)\}}|\s+\(([a-zA-Z][^()]*)\))[\s.$]*$")


def without_unit(gold: str) -> str:
    """A gold answer without the words or parentheses after its number: "9 (apples)" is "9"."""
    match = _TRUSTED.search(gold)
    if match is None:
        return gold
    unit = is_unit(match[1], trusted=True) if match[2] is None else _noted(match[2], trusted=True)
    return gold[: match.start()] if unit else gold


def _noted(words: str, trusted: bool = False) -> bool:
    """Whether words in parentheses are a unit: 9 (apples); 3 (xy) is a product."""
    return is_unit(words) if len(words) < 4 else is_unit(words, trusted=trusted)


def _introduction(match: re.Match[str]) -> str:
    """\\text{The answer is } is removed, \\text{The answer is not: } is kept."""
    return match[0] if denies(match[0]) else ""


def denies(words: str) -> bool:
    """Whether words before an answer negate it, as "not equal to" does."""
    return _DENIES.search(words.casefold()) is not None


def _named_ratio(match: re.Match[str]) -> str:
    """boys : girls = 3 : 4, with one symbol per name."""
    names = [re.sub("[^a-zA-Z]", "", _INNER.sub(r"\1", name)) for name in match[1].split(":")]
    if not all(names) or any(name in _FUNCTIONS for name in names):
        return match[0]
    return " : ".join(name if len(name) == 1 else f"\\named{name} " for name in names) + " = "


def _groups(match: re.Match[str]) -> str:
    return match[0].replace("\\", "").replace(",", "").replace(" ", "").replace("!", "").replace(";", "")


# (a character that every match contains, "" for none; pattern; replacement), in the order of application: the character
# spares most rules their search
_PATTERNS: list[tuple[str, str, Any]] = [
    # ---- lost characters, colours, other spellings of one command
    ("", r"[€£¥₹₽₩]", ""),
    ("\\", r"\\(?:nice|s)frac(?![a-z])", r"\\frac"),
    ("\\", r"\\root\s*\{?\s*(\w{1,4})\s*\}?\s*\\of(?![a-z])", r"\\sqrt[\1]"),
    ("", r"\\v?phantom\s*\{[^{}]*\}|\\(?:text)?color\s*\{\s*\w+\s*\}|\\(?:mathstrut|strut)(?![a-z])", ""),
    ("", r"(?<=\d)\s*(?:\\text\s*\{\s*)?(万|亿)\s*\}?", lambda m: "*10^{4}" if m[1] == "万" else "*10^{8}"),
    ("\\", r"\\right\s*\[", ")"),  # ]0, 1[
    ("\\", r"\\left\s*\]", "("),
    ("", r"\x0crac|(?<![a-zA-Z\\])frac(?=\s*\{)", r"\\frac"),  # \f read as an escape; a lost backslash
    ("", r"\t(?=ext\s*\{|frac|imes|heta|an)", r"\\t"),
    ("", r"\r(?=ight)", r"\\r"),
    ("\\", r"\\\\", r" \\cr "),  # line end in a matrix, before single backslashes are read
    ("\\", r"\\cr\s*\[\s*-?[\d.]+\s*(?:pt|mm|cm|em|ex|in)\s*\]", r"\\cr "),
    ("^", r"\^\s*(?:\{\s*((?:\\prime\s*)+)\}|\\prime(?![a-z]))", lambda m: "'" * max(1, (m[1] or "").count("prime"))),
    ("", r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + "".join(SUPERSCRIPT[c] for c in m[0]) + "}"),
    ("", r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + "".join(SUBSCRIPT[c] for c in m[0]) + "}"),
    ("√", r"√\s*(\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt{\1}"),
    ("√", r"√", r"\\sqrt "),
    ("\\", r"\\(?:boxed|fbox)(?![a-zA-Z])", ""),
    ("\\", r"\\left\s*\|", r"\\lvert "),
    ("\\", r"\\right\s*\|", r"\\rvert "),
    ("\\", r"\\(?:left|right)\s*\.", ""),
    ("\\", r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])", ""),
    ("", r"\\\$|\\[()\[\]](?!\w)|\$", " "),
    ("]", rf"\]({_INSIDE})\[", r"(\1)"),  # ]0, 1[
    ("[", rf"^\s*\[({_INSIDE})\[", r"[\1)"),
    ("]", rf"^\s*\]({_INSIDE})\]", r"(\1]"),
    # binomials: C_{10}^{3}, {}_{10}C_{3}
    ("_", rf"(?:{_text('C')}|(?<![a-zA-Z\\])C)\s*_\s*{_INDEX}\s*\^\s*{_INDEX}", r"\\binom{\1}{\2}"),
    ("_", rf"(?:\{{\s*\}}\s*)?_\s*{_INDEX}\s*(?:{_text('C')}|C)\s*_\s*{_INDEX}", r"\\binom{\1}{\2}"),
    ("", r",\\!\s*|\\!\s*,", ","),
    ("\\", r"\\!", ""),
    ("{", r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ","),
    ("{", r"(?<=\d)\{,\}(?=\d)", "."),
    ("{", r"\{([-+,.:])\}", r"\1"),
    # 1\,234\,567: thin spaces group digits in threes, otherwise they separate
    ("", r"(?<![\d.])\d{1,3}(?:\s?\\[,;:!]\s?\d{3})+(?!\d)", _groups),
    ("", rf"(?:{_text(_PLUS_MINUS)}|\b{_PLUS_MINUS}(?=\s*[\d\\$])|\+\s?/\s?-|(?:^|(?<==))\s*\+-(?=\s*\d))", r"\\pm "),
    # ---- ratios, spaces, fractions
    ("", r"\\colon(?![a-zA-Z])|" + _text(":"), ":"),
    ("", r"(?<=\d)\s*(?:" + _text("to") + r"|(?<=\s)to(?=\s))\s*(?=\d)", ":"),
    ("", r"\\(?:[,;: >]|q?quad(?![a-zA-Z])|(?:display|text|script)style(?![a-zA-Z])|(?:no)?limits(?![a-zA-Z]))|~", " "),
    # 12 345 678: so do spaces
    ("", r"(?<![\w.,}\])\\/^])(?<!\d[\s/])[1-9]\d{0,2}(?:\s\d{3})+(?![\d/])(?!\s*(?:\d|/|\\frac))", _groups),
    ("=", rf"^({_NAME}(?::{_NAME})++)=(?=\s*\\?[\w(])", _named_ratio),
    ("\\", r"\\(?:[dtc]frac)(?![a-zA-Z])", r"\\frac"),
    ("\\", r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
    # ---- degrees and percent
    ("°", r"(?<=\d)\s*°\s*(?:" + _WORD + r"\s*)?\{?\s*[CF]\}?(?![a-zA-Z])", " "),  # degrees of temperature: `units`
    ("^", r"(?<=\d)\s*\^\s*\{?\s*(?:\\circ|°)\s*\}?\s*(?:" + _WORD + r"\s*)?\{?\s*[CF]\}?(?![a-zA-Z])", " "),
    ("", r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\}|\{\s*°\s*\}|°)|\\degree(?![a-zA-Z])|(?<=\d)\s*degrees?\b", "°"),
    ("\\", _text("degrees?"), "°"),
    ("", rf"{_text(_PERCENT)}|\\%|(?<=[\d}}])\s*{_PERCENT}(?![a-z])", "%"),
    ("\\", _text(r",?\s*(and|or)\s*,?"), r" \1 "),
    # ---- words that are mathematics
    ("\\", _text(r"[aA]ll\s+real(?:s|\s+numbers?|\s+values?)?(?:\s+(?:numbers?\s*)?x)?"), r"\\mathbb{R}"),
    ("l", r"^\s*[aA]ll\s+real(?:s|\s+numbers?)\s*$", r"\\mathbb{R}"),
    ("l", rf"^\s*(?:{_WORD}\s*\{{\s*)?[aA]ll\s+real(?:s|\s+numbers?)?(?:\s+x)?\s+except\s*\}}?"
     r"\s*(?:[a-z]\s*=)?\s*([^{}]+?)\s*\}?\s*$", r"\\mathbb{R} \\setminus \\{\1\\}"),
    ("o", r"^\s*(?:" + _WORD + r"\s*\{\s*)?[nN]o\s+(?:real\s+)?solutions?\s*\}?\s*\.?\s*$", r"\\emptyset "),
    ("", _text(r"(?:the\s+)?empty\s*set") + r"|^\s*(?:the\s+)?empty\s+set\s*$", r"\\emptyset "),
    ("", r"(?<=[\])}])\s*(?:U|" + _text("U") + r")\s*(?=[\[({])", r"\\cup "),
    # 21^{st}, 12^{\text{th}}
    ("", r"(?<=\d)\s*\^?\s*\{?\s*(?:" + _WORD + r"\s*)?\{?(?<![a-zA-Z])(?:st|nd|rd|th)(?![a-zA-Z])\s*\}?\s*\}?", ""),
    # ---- bases, millions, powers of ten
    ("\\", r"_\s*\{?\s*" + _text("([a-z]+)") + r"\s*\}?",
     lambda m: "_{" + _BASES[m[1]] + "}" if m[1] in _BASES else m[0]),
    ("_", r"_\s*\{?\s*(" + "|".join(_BASES) + r")\s*\}?(?![a-z])", lambda m: "_{" + _BASES[m[1]] + "}"),
    ("\\", _text("([0-9A-Fa-f]+)") + r"(?=\s*_)", r"\1"),
    ("\\", r"([\d}])\s*" + _WORD + r"\s*\{\s*" + _SCALE + r"\b", r"\1 \2 \\text{"),
    ("", r"(?<![}\d])(\d+(?:\.\d+)?)\s*" + _SCALE + r"s?\b", lambda m: f"{m[1]}*10^{{{_SCALES[m[2]]}}}"),
    ("", r"(?<=[\d}])\s*" + _SCALE + r"s?\b", lambda m: f"*10^{{{_SCALES[m[1]]}}}"),
    ("", r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", r"\\times "),
    # ---- letters
    ("\\", r"\\mathrm\s*\{\s*(d|e|i)\s*\}", r" \1 "),
    ("\\", r"(?<![\d}])(?<![\d}]\s)\\math(?:bf|rm)\s*\{\s*([RZNQC])\s*\}", r"\\mathbb{\1}"),
    ("\\", r"\\mathcal\s*\{\s*([A-Z])\s*\}", r" \1"),
    # unit vectors, and names of angles and figures, are one symbol each
    ("\\",
     r"\\(?:mathbf|hat|vec|boldsymbol|bm|overrightarrow)\s*\{\s*(?:\\mathbf\s*\{\s*|\\)?([ijk])(?:math)?\s*\}(?:\s*\})?",
     r"\\vec{\1}"),
    ("\\", r"(?:\bm\s*)?\\(angle|measuredangle|triangle|overline|widehat|overrightarrow)\s*\{?\s*"
     r"((?:[A-Z](?:_\{?\w\}?|'*)\s*){1,4})\}?(?![a-zA-Z{])",
     lambda m: "\\" + m[1].replace("measured", "") + "_{" + " ".join(re.sub(r"[\s{}_]", "", m[2])) + "}"),
    ("\\", r"\s*\(\s*(?:for\s+)?([a-z])\s*\\in\s*(?:\\mathbb\s*\{?\s*Z\s*\}?)\s*\)\s*$", r", \1 \\in \\mathbb{Z}"),
    ("\\", r"(?<=[a-z])\s*" + _text(r"(?:is\s+)?(odd|even)"), r"\\\1 "),
    ("\\", r"\\(?:boldsymbol|bm|mathbf|mathit|pmb|underline|underbar|ensuremath|emph)(?=\s*\{)", ""),  # typography
    ("\\", r"(_\s*(?:\{\s*\d+\s*\}|\d))\s*\\mathrm\s*\{\s*([A-Z][a-z]?)\s*\}", r"\1 \2"),  # H_2O
    # ---- words without meaning
    # words after a number are its unit, if they can be one: 17\text{ miles}, 865 \mbox{ inches}^2
    ("", rf"(?:(?<=[\d}})°%!])|(?<=\\pi))\s*(?P<units>{_UNIT_GROUP}(?:\s*(?:[/·*]|\\cdot(?![a-z]))?\s*{_UNIT_GROUP})*)",
     _units),
    ("\\", r"(?<=[\d})])" + _text("!"), ""),  # an exclamation mark, not a factorial
    ("\\", _text(r"([a-zA-Z]+)"), lambda m: f"\\{m[1]} " if m[1] in _FUNCTIONS else m[0]),
    # introductions of an answer: \text{Area} = 36, \text{The answer is } 36
    ("\\", r"^\s*" + _WORD + r"\s*\{[^{}\d]*(?:\bis|\bare|:|=)\s*\}\s*(?=\S)", _introduction),
    ("\\", r"^\s*" + _WORD + r"\s*\{[^{}\d]{3,}\}(?:_\{?\w+\}?)?\s*(?:=|:|\\approx(?![a-z]))", _introduction),
    ("", r"^\s*(?:[a-zA-Z]{3,}\s+)*[a-zA-Z]{4,}\s*[=:](?!=)\s*(?=\S)", _introduction),
    ("\\", _WORD + r"\s*\{\s*(?:if|for|when|where|otherwise|else)\s*(?:\}(?=\s*[^\s.$])|(?=[^{}]*[^{}\s][^{}]*\}))",
     r" \\text{"),
    ("\\", _WORD + r"\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r" \1 "),
    ("\\", r"\\text\s*\{", " "),
    ("", r"[\d})%°]\s*(?P<units>[a-zA-Z][^\d(){}\[\],;:=<>+|\\]*(?:\^\s*(?:\{\s*-?\d+\s*\}|-?\d))?\s*\.?)\s*$",
     _plain_units),
    ("(", r"(?<=[\d})])\s+\((?P<units>[a-zA-Z][a-zA-Z.\s/]*)\)\s*\.?\s*$",
     lambda m: "" if _noted(m["units"]) else m[0]),
    ("\\", r"\\not(?![a-zA-Z])\s*=", r"\\neq "),
]  # fmt: skip
_GROUP = re.compile(_UNIT_GROUP)
_INNER = re.compile(_WORD + r"\s*\{([^{}]*)\}")


RULES = [(need, re.compile(pattern), to) for need, pattern, to in _PATTERNS]
_ALIGNED = re.compile(r"\\(?:begin|end)\s*\{\s*(?:split|aligned|align\*?|gathered|gather\*?)\s*\}")
_LEADING = re.compile(r"^\s*(?:=|:|\\(?:approx|implies|Rightarrow|therefore)(?![a-z])|\*\*)")
_NAMED = re.compile(r"\s*(?:\\[a-z]+\s*\{)?\s*([a-zA-Z]+)\s*\}?\s*\.?\s*")


def tidy(text: str) -> str:
    """The text in the spelling that the grammar reads. Example: "17 \\text{ miles}" is "17"."""
    named = _NAMED.fullmatch(text)
    if named and named[1].lower() in _NAMES:
        return _NAMES[named[1].lower()]
    text = shown(text)
    if "align" in text or "{split}" in text or "{gather" in text:  # one statement per line
        text = _ALIGNED.sub("", text).replace("&", "").replace("\\\\", ", ")
    for need, pattern, to in RULES:
        if need in text:
            text = pattern.sub(to, text)
    text = _LEADING.sub("", text)
    if "j" in text and re.fullmatch(r"[-+.\d\s]*j", text):  # 3-4j
        text = text.replace("j", "i")
    text = re.sub(r"\s+", " ", text).strip()
    if text.endswith(("...", "dots")) and not re.search(r"\.\d+\s*(?:\.{3}|\\[lc]?dots)$", text):
        return text  # 5, ... goes on
    return text.rstrip(".,;:\\").strip()
