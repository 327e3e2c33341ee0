"""Answers in words: names, "even", "(C)", "4:30 p.m."

In: gold and answer as text. Out: whether they are the same words, letters or time, ignoring typography and case.
Must not know: mathematics.
"""

from __future__ import annotations

import re

from reward.maths.parse.symbols import shown

_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|emph|underline|boxed|operatorname\*?)\s*\{([^{}]*)\}"
)
_TYPOGRAPHY = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\(?:display|text)style(?![a-z])|\\[,;:! ]|\\[()\[\]](?!\w)|[$~]|\{([,:.])\}"
)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?(?:([ap])\.?m\.?)?", re.IGNORECASE)
_ON_THE_HOUR = re.compile(r"0?(\d{1,2}):00(?:[ap]\.?m\.?)?", re.IGNORECASE)
_CHOICE = re.compile(r"[(\[]?([A-Z])[)\]]?")
_CHOSEN = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|right\s+|final\s+|best\s+)?(?:option|choice|answer|letter)\s*(?:is\b)?\s*:?\s*|(?-i:[a-z])\s*=\s*)?"
    r"(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])[.):](?!\s*[=<>])|([A-Z])$)\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
# the letter of a choice is followed by its text, not by a second thought
_NO_CHOICE_TEXT = re.compile(
    r"\s*(?:[=<>≠/&,;+?-]|\\(?:neq?|text\s*\{\s*or)|(?:or|and|nor|not|but|is|isn't|versus|vs|maybe|perhaps|probably|possibly"
    r"|wrong|incorrect|unsure|\(?(?:i\s+)?(?:think|guess|suppose|believe))\b(?!\s+(?:enough|possible|all|at)\b))"
    r"|\s*[A-Z]\W*$|.*[(\[][A-Z][)\]]|.*(?:\b(?:or|and)|[,;/&])\s*(?:\w+\s+){0,3}[A-Z]\b(?!')[^a-z]*$",
    re.DOTALL,
)
_NUMBERS = re.compile(r"\\math(?:bf|bb|rm|cal)\s*\{\s*[A-Z]\s*\}|^\W*[K-Z]\W*$")  # R, not a choice
_CAPITAL = re.compile(r"(?<![a-zA-Z\\])[A-Z](?![a-zA-Z{])|[a-z][A-Z](?![a-zA-Z])")
_RUN = re.compile(r"[A-Za-z]+")
_ENDINGS = ".,;:"
_DOTS = re.compile(r"\\[lc]?dots(?![a-z])|…")
_PRIMES = re.compile(r"\^\s*\{\s*(?:\\prime\s*)+\}|\^\s*\\prime(?![a-z])")
_BRACED_NAME = re.compile(r"(\\(?:angle|triangle|overline))\{([A-Z]+)\}")
_LETTERS = re.compile(r"[^\W\d_.(),'\"\-–]*[^\W\d_(),'\"\-–][\w.(),'\"\-–]*")
_NO_LETTERS = re.compile(r"[().,'\"\-–]")


def squash(text: str) -> str:
    """Without typography. Braces are kept if they may carry meaning."""
    text = text.strip()
    if text.startswith("\\(") and text.endswith("\\)"):
        text = text[2:-2]
    text = _DOTS.sub("...", _PRIMES.sub(lambda m: "'" * m[0].count("prime"), shown(text)))
    text = re.sub(r"(?<=\d)(?:\s|\\[,;: ])+(?=\d)", "_", text)
    text = re.sub(r"\s+", "", _TYPOGRAPHY.sub(r"\1", _WRAPPED.sub(r"\1", _WRAPPED.sub(r"\1", text))))
    if not re.search(r"[\\^_]", text) and text.count("{") == text.count("}"):
        text = re.sub(r"[{}]", "", text)
    text = _BRACED_NAME.sub(r"\1\2", text)
    return text if text.endswith("...") else text.rstrip(_ENDINGS)  # 5, ... goes on


def same_text(gold: str, answer: str) -> bool | None:
    """Equal up to typography; for words also up to case, spaces and punctuation. None: not equal as text.

    Against the letter of a choice, or a short word, only the same letters in the same order count.
    """
    a, b = squash(gold), squash(answer)
    if not a:
        return False
    if a == b:
        return True
    if (choice := _CHOICE.fullmatch(a)) and not _NUMBERS.search(gold):
        chosen = _chosen(answer, b)
        return chosen is not None and choice[1] == chosen[0]
    if _same_choice(_chosen(gold, a), _chosen(answer, b)):
        return True
    if len(a) == len(b) <= 3 and (_is_word(gold, a) or _is_word(answer, b)):
        return a.casefold() == b.casefold()
    if (hour := _ON_THE_HOUR.fullmatch(b)) and a.isdigit():
        return a == hour[1]  # 7:00 p.m. is 7
    when, then = _clock(a), _clock(b)
    if when and then and (when[0] or then[0]):
        return True if when[1] == then[1] else None
    if not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", a) or "\\" in a or "\\" in b:
        return None
    a, b = a.casefold(), b.casefold()
    if a == b or (a.count("=") == 1 and a.split("=") == b.split("=")[::-1]):
        return True
    if not (_LETTERS.fullmatch(a) and _LETTERS.fullmatch(b)):
        return None
    if _listed(gold) is not None and _listed(gold) == _listed(answer):
        return True
    return True if _NO_LETTERS.sub("", a) == _NO_LETTERS.sub("", b) else None


def _chosen(answer: str, squashed: str) -> tuple[str, str] | None:
    """(letter, its text) that an answer chooses: "B", "(B)", "option B", "B) 12 cm", "(B) Paris"; not "(A) = B"."""
    if match := _CHOICE.fullmatch(squashed.upper() if "(" in squashed else squashed):
        return match[1], ""
    if not _CAPITAL.search(squashed):
        return None
    match = _CHOSEN.fullmatch(_plain(answer).rstrip(_ENDINGS))
    if match is None:
        return None
    letter = next(group for group in match.groups() if group)
    return (letter, match[5]) if letter.isupper() and not _NO_CHOICE_TEXT.match(match[5]) else None


def _same_choice(gold: tuple[str, str] | None, answer: tuple[str, str] | None) -> bool:
    """C is "(C) none of them", and so is "(C)"; "(C) 5" is not "(C) 6"."""
    if gold is None or answer is None or gold[0] != answer[0]:
        return False
    return not gold[1] or not answer[1] or squash(gold[1]) == squash(answer[1])


def _is_word(text: str, letters: str) -> bool:
    """Letters whose order counts: AB, \\text{ba}, cat; but not a product of variables (xy, abc, mgh)."""
    if not _RUN.fullmatch(letters) or len(letters) == 1:
        return False
    if letters.isupper() or "\\text" in text:
        return True
    return len(letters) > 2 and re.search("[aeiouAEIOU]", letters) is not None and list(letters) != sorted(letters)


def _listed(text: str) -> list[str] | None:
    """The members of "Alice, Bob and Carol", sorted; None without an "and"."""
    plain = _plain(text).casefold().strip(". ")
    if not re.search(r"\band\b", plain):
        return None
    return sorted(part.strip() for part in re.split(r",\s*(?:and\b)?|\band\b", plain) if part.strip())


def _plain(text: str) -> str:
    return _TYPOGRAPHY.sub(r"\1", _WRAPPED.sub(r"\1", text)).strip()


def _clock(text: str) -> tuple[bool, tuple[int, int, int]] | None:
    """(whether a.m. or p.m. is given, (hour, minute, second) of the day)."""
    match = _CLOCK.fullmatch(text)
    if match is None or not (match[2] or match[4]):
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if match[4] is None:
        return False, (hour, minute, second)
    return (True, (hour % 12 + 12 * (match[4] in "pP"), minute, second)) if 1 <= hour <= 12 else None
