"""One spelling for the many ways of writing the same mathematics: LaTeX of every kind, unicode, plain text.

In: an answer as a model or a data set writes it. Out: tidy text for `grammar`: typography, units, money signs
and filler words gone, one command for each thing. Every rule is a linear-time regular expression. Must not know: trees,
what makes two answers equal.
"""

from __future__ import annotations

import re
from typing import Any

from reward.maths.lexer import FUNCTIONS
from reward.maths.symbols import SUBSCRIPT, SUPERSCRIPT, shown

_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_NAMES = {name: str(value) for value, name in enumerate(_NUMBERS)}
_BASES = {name: str(value) for value, name in enumerate(_NUMBERS[2:17], 2)}
_FUNCTIONS = FUNCTIONS | {"arcsinh", "arccosh", "arctanh", "lcm", "gcd", "sgn", "cotan", "tg", "ctg", "cosec", "asin"}
_UNITS = (
    "mm|cm|dm|km|nm|ft|in|yd|mi|kg|mg|lb|lbs|oz|ml|mL|hr|hrs|min|mins|sec|secs|mph|kph|rpm|Hz|cents?|USD|"
    "sq|units?|m/s|km/h|cm/s"
)
_WORD = r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|rm|bf|operatorname\*?)"
_UNIT = r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mbox|hbox|mathrm|rm)"
_SCALE = "(hundred|thousand|million|billion|trillion)"
# what may follow a number without being its unit
_NO_UNIT = (
    r"and\b|or\b|mod\b|choose\b|log\b|ln\b|sin\b|cos\b|tan\b|sqrt\b|pi\b|to\b|if\b|for\b|when\b|in\b\s*[\[({]|i\b|e\b"
)


_INDEX = r"\{?\s*(\d+)\s*\}?"
_INSIDE = r"\s*[^\[\](),]+,\s*[^\[\](),]+"  # of an interval


def _text(inner: str) -> str:
    """A pattern for the words in \\text{...} and the like."""
    return _WORD + r"\s*\{\s*" + inner + r"\s*\}"


def _groups(match: re.Match[str]) -> str:
    return match[0].replace("\\", "").replace(",", "").replace(" ", "").replace("!", "").replace(";", "")


_RULES: list[tuple[str, Any]] = [
    # ---- lost characters, colours, other spellings of one command
    (r"[€£¥₹₽₩]", ""),
    (r"\\(?:nice|s)frac(?![a-z])", r"\\frac"),
    (r"\\root\s*\{?\s*(\w{1,4})\s*\}?\s*\\of(?![a-z])", r"\\sqrt[\1]"),
    (r"\\v?phantom\s*\{[^{}]*\}|\\(?:text)?color\s*\{\s*\w+\s*\}|\\(?:mathstrut|strut)(?![a-z])", ""),
    (r"(?<=\d)\s*(?:\\text\s*\{\s*)?(万|亿)\s*\}?", lambda m: "*10^{4}" if m[1] == "万" else "*10^{8}"),
    (r"\\right\s*\[", ")"),  # ]0, 1[
    (r"\\left\s*\]", "("),
    (r"\x0crac|(?<![a-zA-Z\\])frac(?=\s*\{)", r"\\frac"),  # \f read as an escape; a lost backslash
    (r"\t(?=ext\s*\{|frac|imes|heta|an)", r"\\t"),
    (r"\r(?=ight)", r"\\r"),
    (r"\\\\", r" \\cr "),  # a matrix' line end, before a lone backslash means anything
    (r"\\cr\s*\[\s*-?[\d.]+\s*(?:pt|mm|cm|em|ex|in)\s*\]", r"\\cr "),
    (r"\^\s*(?:\{\s*((?:\\prime\s*)+)\}|\\prime(?![a-z]))", lambda m: "'" * max(1, (m[1] or "").count("prime"))),
    (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + "".join(SUPERSCRIPT[c] for c in m[0]) + "}"),
    (r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + "".join(SUBSCRIPT[c] for c in m[0]) + "}"),
    (r"√\s*(\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt{\1}"),
    (r"√", r"\\sqrt "),
    (r"\\(?:boxed|fbox)(?![a-zA-Z])", ""),
    (r"\\left\s*\|", r"\\lvert "),
    (r"\\right\s*\|", r"\\rvert "),
    (r"\\(?:left|right)\s*\.", ""),
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])", ""),
    (r"\\\$|\\[()\[\]](?!\w)|\$", " "),
    (rf"\]({_INSIDE})\[", r"(\1)"),  # ]0, 1[
    (rf"^\s*\[({_INSIDE})\[", r"[\1)"),
    (rf"^\s*\]({_INSIDE})\]", r"(\1]"),
    # binomials: C_{10}^{3}, {}_{10}C_{3}
    (rf"(?:{_text('C')}|(?<![a-zA-Z\\])C)\s*_\s*{_INDEX}\s*\^\s*{_INDEX}", r"\\binom{\1}{\2}"),
    (rf"(?:\{{\s*\}}\s*)?_\s*{_INDEX}\s*(?:{_text('C')}|C)\s*_\s*{_INDEX}", r"\\binom{\1}{\2}"),
    (r",\\!\s*|\\!\s*,", ","),
    (r"\\!", ""),
    (r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ","),
    (r"(?<=\d)\{,\}(?=\d)", "."),
    (r"\{([-+,.:])\}", r"\1"),
    # 1\,234\,567: thin spaces group digits in threes, or they separate
    (r"(?<![\d.])\d{1,3}(?:\s?\\[,;:!]\s?\d{3})+(?!\d)", _groups),
    # ---- ratios, spaces, fractions
    (r"\\colon(?![a-zA-Z])|" + _text(":"), ":"),
    (r"(?<=\d)\s*(?:" + _text("to") + r"|(?<=\s)to(?=\s))\s*(?=\d)", ":"),
    (r"\\(?:[,;: >]|q?quad(?![a-zA-Z])|(?:display|text|script)style(?![a-zA-Z])|(?:no)?limits(?![a-zA-Z]))|~", " "),
    (r"\\(?:[dtc]frac)(?![a-zA-Z])", r"\\frac"),
    (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
    # ---- degrees and per cent
    (r"(?<=\d)\s*°\s*(?:" + _WORD + r"\s*)?\{?\s*[CF]\}?(?![a-zA-Z])", " "),  # degrees of temperature: `units`
    (r"(?<=\d)\s*\^\s*\{?\s*(?:\\circ|°)\s*\}?\s*(?:" + _WORD + r"\s*)?\{?\s*[CF]\}?(?![a-zA-Z])", " "),
    (r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\}|\{\s*°\s*\}|°)|\\degree(?![a-zA-Z])|(?<=\d)\s*degrees?\b", "°"),
    (_text("degrees?"), "°"),
    (_text("(?:percent|per cent)") + r"|\\%|(?<=[\d}])\s*(?:percent|per cent)\b", "%"),
    (_text(r",?\s*(and|or)\s*,?"), r" \1 "),
    # ---- words that are mathematics
    (_text(r"[aA]ll\s+real(?:s|\s+numbers?|\s+values?)?(?:\s+(?:numbers?\s*)?x)?"), r"\\mathbb{R}"),
    (r"^\s*[aA]ll\s+real(?:s|\s+numbers?)\s*$", r"\\mathbb{R}"),
    (
        rf"^\s*(?:{_WORD}\s*\{{\s*)?[aA]ll\s+real(?:s|\s+numbers?)?(?:\s+x)?\s+except\s*\}}?"
        r"\s*(?:[a-z]\s*=)?\s*([^{}]+?)\s*\}?\s*$",
        r"\\mathbb{R} \\setminus \\{\1\\}",
    ),
    (r"^\s*(?:" + _WORD + r"\s*\{\s*)?[nN]o\s+(?:real\s+)?solutions?\s*\}?\s*\.?\s*$", r"\\emptyset "),
    (_text(r"(?:the\s+)?empty\s*set") + r"|^\s*(?:the\s+)?empty\s+set\s*$", r"\\emptyset "),
    (r"(?<=[\])}])\s*(?:U|" + _text("U") + r")\s*(?=[\[({])", r"\\cup "),
    # 21^{st}, 12^{\text{th}}
    (r"(?<=\d)\s*\^?\s*\{?\s*(?:" + _WORD + r"\s*)?\{?(?<![a-zA-Z])(?:st|nd|rd|th)(?![a-zA-Z])\s*\}?\s*\}?", ""),
    # ---- bases, millions, powers of ten
    (r"_\s*\{?\s*" + _text("([a-z]+)") + r"\s*\}?",
     lambda m: "_{" + _BASES[m[1]] + "}" if m[1] in _BASES else m[0]),
    (r"_\s*\{?\s*(" + "|".join(_BASES) + r")\s*\}?(?![a-z])", lambda m: "_{" + _BASES[m[1]] + "}"),
    (_text("([0-9A-Fa-f]+)") + r"(?=\s*_)", r"\1"),
    (r"([\d}])\s*" + _WORD + r"\s*\{\s*" + _SCALE + r"\b", r"\1 \2 \\text{"),
    (r"(?<![}\d])(\d+(?:\.\d+)?)\s*" + _SCALE + r"s?\b", lambda m: f"{m[1]}*10^{{{_SCALES[m[2]]}}}"),
    (r"(?<=[\d}])\s*" + _SCALE + r"s?\b", lambda m: f"*10^{{{_SCALES[m[1]]}}}"),
    (r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", r"\\times "),
    # ---- letters
    (r"\\mathrm\s*\{\s*(d|e|i)\s*\}", r" \1 "),
    (r"\\math(?:bf|rm)\s*\{\s*([RZNQC])\s*\}", r"\\mathbb{\1}"),
    (r"\\mathcal\s*\{\s*([A-Z])\s*\}", r" \1"),
    # unit vectors, and names of angles and figures, are one symbol each
    (r"\\(?:mathbf|hat|vec|boldsymbol|bm|overrightarrow)\s*\{\s*(?:\\mathbf\s*\{\s*|\\)?([ijk])(?:math)?\s*\}(?:\s*\})?",
     r"\\vec{\1}"),
    (r"(?:\bm\s*)?\\(angle|measuredangle|triangle|overline|widehat|overrightarrow)\s*\{?\s*"
     r"((?:[A-Z](?:_\{?\w\}?|'*)\s*){1,4})\}?(?![a-zA-Z{])",
     lambda m: "\\" + m[1].replace("measured", "") + "_{" + " ".join(re.sub(r"[\s{}_]", "", m[2])) + "}"),
    (r"\s*\(\s*(?:for\s+)?([a-z])\s*\\in\s*(?:\\mathbb\s*\{?\s*Z\s*\}?)\s*\)\s*$", r", \1 \\in \\mathbb{Z}"),
    (r"(?<=[a-z])\s*" + _text(r"(?:is\s+)?(odd|even)"), r"\\\1 "),
    (r"\\(?:boldsymbol|bm|mathbf|mathit|pmb|underline|underbar|ensuremath|emph)(?=\s*\{)", ""),  # bold is no meaning
    (r"(_\s*(?:\{\s*\d+\s*\}|\d))\s*\\mathrm\s*\{\s*([A-Z][a-z]?)\s*\}", r"\1 \2"),  # H_2O
    # ---- words that are none
    # words behind a number are its unit: 17\text{ miles}, 865 \mbox{ inches}^2
    (
        r"(?:(?<=[\d})°%!])|(?<=\\pi))\s*" + _UNIT + r"\s*\{(?!\s*(?:[ap]\.?\s?m\b|if\b|for\b|when\b))[^{}]*\}"
        r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|\d))?"
        r"(?:\s*[/·]\s*" + _WORD + r"\s*\{[^{}]*\}(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|\d))?)?",
        " ",
    ),
    (_text(r"([a-zA-Z]+)"), lambda m: f"\\{m[1]} " if m[1] in _FUNCTIONS else m[0]),
    # what an answer is introduced by: \text{Area} = 36, \text{The answer is } 36
    (r"^\s*" + _WORD + r"\s*\{[^{}\d]*(?:\bis|\bare|:|=)\s*\}\s*(?=\S)", ""),
    (r"^\s*" + _WORD + r"\s*\{[^{}\d]{3,}\}(?:_\{?\w+\}?)?\s*(?:=|:|\\approx(?![a-z]))", ""),
    (r"^\s*(?:[a-zA-Z]{3,}\s+)*[a-zA-Z]{4,}\s*[=:](?!=)\s*(?=\S)", ""),
    (_WORD + r"\s*\{\s*(?:if|for|when|where|otherwise|else)\s*(?:\}|(?=[^{}]*\}))", r" \\text{"),
    (_WORD + r"\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r" \1 "),
    (r"\\text\s*\{", " "),
    (
        r"(?<=[\d})%°])(?:\s*(?:" + _UNITS + r")|\s+(?!" + _NO_UNIT + r")[a-zA-Z]{3,})(?:\s+[a-zA-Z]{2,})*"
        r"(?:\s*/\s*[a-zA-Z]+)?(?:\s*\^\s*(?:\{\s*\d+\s*\}|\d))?\s*\.?\s*$",
        "",
    ),
]  # fmt: skip
_COMPILED: list[tuple[re.Pattern[str], Any]] = [(re.compile(pattern), to) for pattern, to in _RULES]
_ALIGNED = re.compile(r"\\(?:begin|end)\s*\{\s*(?:split|aligned|align\*?|gathered|gather\*?)\s*\}")
_LEADING = re.compile(r"^\s*(?:=|:|\\(?:approx|implies|Rightarrow|therefore)(?![a-z])|\*\*)")
_NAMED = re.compile(r"\s*(?:\\[a-z]+\s*\{)?\s*([a-zA-Z]+)\s*\}?\s*\.?\s*")


def tidy(text: str) -> str:
    """The text in the one spelling that the grammar reads. Example: "17 \\text{ miles}" is "17"."""
    named = _NAMED.fullmatch(text)
    if named and named[1].lower() in _NAMES:
        return _NAMES[named[1].lower()]
    text = shown(text)
    if "align" in text or "{split}" in text or "{gather" in text:  # one statement a line
        text = _ALIGNED.sub("", text).replace("&", "").replace("\\\\", ", ")
    for pattern, to in _COMPILED:
        text = pattern.sub(to, text)
    text = _LEADING.sub("", text)
    if "j" in text and re.fullmatch(r"[-+.\d\s]*j", text):  # 3-4j
        text = text.replace("j", "i")
    return re.sub(r"\s+", " ", text).strip().rstrip(".,;:\\").strip()
