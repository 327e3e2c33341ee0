"""The option that a sentence picks: "I would pick (C)", "option is **C**", "(C) is correct", "Hence (C)".

In: a sentence. Out: a letter, several joined by "or", or None. Must not know: golds, numbers, formulas.
"""

from __future__ import annotations

import re

MAYBE = r"(?:\s+(?:maybe|perhaps|possibly|even))?"
LETTER = r"[*_`\"']*\\?(?:\\(?:text|mathrm|textbf)\{)?\(?\[?(?P<letter>[A-H])(?![A-Za-z\d'’])(?!\s*[=+^])[)\]}*_`\"']*"
_PICKED = re.compile(
    r"\b(?:pick|picked|choose|chose|choosing|select|selected|selecting|go(?:ing)?\s+with"
    r"|(?:option|choice|letter|pick|selection)\s*(?:is|:|must\s+be|should\s+be|would\s+be))"
    rf"\s*:?\s*(?:(?:the\s+)?(?:option|choice|letter|answer)\s+)?{LETTER}(?!\s+[a-z]+s\b)"
)
_IS_RIGHT = re.compile(
    LETTER + r"\s+(?:is|must be|has to be)\s+(?:the\s+)?(?:only\s+)?(?:correct|right|best|answer|true)\b"
)
_REFUSED = re.compile(
    r"\b(?:not|never|if|when|suppose|rule\s+out|eliminate|cannot|wrong|incorrect|false)\b|n't\b", re.IGNORECASE
)
_LONE = re.compile(
    r"(?:\W*\b(?:so|hence|thus|therefore|then|finally|option|choice|it\s+is|it's|this\s+is|is)\b)*\W*?"
    + LETTER + r"\W*", re.IGNORECASE
)  # fmt: skip
_ALSO = re.compile(rf"\s*(?:,|/|,?\s*\b(?:or|and)\b{MAYBE})\s*(?:option\s+)?{LETTER}")


def picked(sentence: str) -> str | None:
    """The letter that a sentence picks: "I would pick (C)", "option is **C**", "(C) is correct", "Hence (C)"."""
    for pattern in (_PICKED, _IS_RIGHT):
        match = last(pattern, sentence)
        if match and not _REFUSED.search(sentence, 0, match.start()):
            return alternatives(sentence, match)
    match = _LONE.fullmatch(sentence)
    return match["letter"] if match and match["letter"].isupper() else None


def alternatives(sentence: str, match: re.Match[str]) -> str:
    letters = [match["letter"]]
    while match := _ALSO.match(sentence, match.end()):  # type: ignore[assignment]
        letters.append(match["letter"])
    return " or ".join(letters)


def last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found
