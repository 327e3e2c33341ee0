"""Answers in words: names, "even", "(C)", "4:30 p.m."

In: gold and answer as text. Out: whether they are the same words, letters or time, whatever their typography and case.
Must not know: mathematics.
"""

from __future__ import annotations

import re

from reward.maths.symbols import shown

_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mbox|mathrm|mathbf|mathit|boxed|operatorname\*?)\s*\{([^{}]*)\}"
)
_TYPOGRAPHY = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\(?:display|text)style(?![a-z])|\\[,;:! ]|\\[()\[\]](?!\w)|[$~]|\{([,:.])\}"
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?([ap])\.?m\.?", re.IGNORECASE)
_CLOCK_24 = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_CHOICE = re.compile(r"\(?([A-Z])\)?")
_CHOSEN = re.compile(r"\(([A-Z])\).*|([A-Z])[.):].*", re.DOTALL)
_ENDINGS = ".,;:"
_DOTS = re.compile(r"\\[lc]?dots(?![a-z])|…")
_PRIMES = re.compile(r"\^\s*\{\s*(?:\\prime\s*)+\}|\^\s*\\prime(?![a-z])")
_BRACED_NAME = re.compile(r"(\\(?:angle|triangle|overline))\{([A-Z]+)\}")
_LETTERS = re.compile(r"[^\W\d_.(),'\"\-–]*[^\W\d_(),'\"\-–][\w.(),'\"\-–]*")
_NO_LETTERS = re.compile(r"[().,'\"\-–]")


def squash(text: str) -> str:
    """Without typography. Braces stay where they may carry meaning."""
    text = _DOTS.sub("...", _PRIMES.sub(lambda m: "'" * m[0].count("prime"), shown(text)))
    text = re.sub(r"(?<=\d)(?:\s|\\[,;: ])+(?=\d)", "_", text)
    text = re.sub(r"\s+", "", _TYPOGRAPHY.sub(r"\1", _WRAPPED.sub(r"\1", _WRAPPED.sub(r"\1", text))))
    if not re.search(r"[\\^_]", text) and text.count("{") == text.count("}"):
        text = re.sub(r"[{}]", "", text)
    return _BRACED_NAME.sub(r"\1\2", text).rstrip(_ENDINGS)


def same_text(gold: str, answer: str) -> bool:
    """Equal but for typography; words also but for case, spaces and punctuation."""
    a, b = squash(gold), squash(answer)
    if not a:
        return False
    if a == b:
        return True
    if choice := _CHOICE.fullmatch(a):
        chosen = _CHOICE.fullmatch(b.upper() if "(" in b else b) or _CHOSEN.fullmatch(_plain(answer))
        return chosen is not None and choice[1] in chosen.groups()
    when, then = _clock(a), _clock(b)
    if when and then and (when[0] or then[0]):
        return when[1] == then[1]
    if not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", a) or "\\" in a or "\\" in b:
        return False
    a, b = a.casefold(), b.casefold()
    if a == b or (a.count("=") == 1 and a.split("=") == b.split("=")[::-1]):
        return True
    if not (_LETTERS.fullmatch(a) and _LETTERS.fullmatch(b)):
        return False
    if _listed(gold) is not None and _listed(gold) == _listed(answer):
        return True
    return _NO_LETTERS.sub("", a) == _NO_LETTERS.sub("", b)


def _listed(text: str) -> list[str] | None:
    """The members of "Alice, Bob and Carol", sorted; None where no "and" joins them."""
    plain = _plain(text).casefold().strip(". ")
    if not re.search(r"\band\b", plain):
        return None
    return sorted(part.strip() for part in re.split(r",\s*(?:and\b)?|\band\b", plain) if part.strip())


def _plain(text: str) -> str:
    return _TYPOGRAPHY.sub(r"\1", _WRAPPED.sub(r"\1", text)).strip()


def _clock(text: str) -> tuple[bool, tuple[int, int, int]] | None:
    """(whether a.m. or p.m. is said, (hour, minute, second) of the day)."""
    if match := _CLOCK.fullmatch(text):
        hour = int(match[1])
        if not 1 <= hour <= 12:
            return None
        return True, (hour % 12 + 12 * (match[4] in "pP"), int(match[2] or 0), int(match[3] or 0))
    if match := _CLOCK_24.fullmatch(text):
        return False, (int(match[1]), int(match[2]), int(match[3] or 0))
    return None
