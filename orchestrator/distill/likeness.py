r"""Questions that are alike: repeated ones in a data set, and copies of evaluation questions.

In: texts. Out: what is left of a question that is repeated; the evaluation question that a text is a copy of. Must not
know: files, settings, answers.

A text is compared as words: letters in lower case, numbers, and the signs that carry meaning in a formula; punctuation,
LaTeX's dollars and braces, drawings ([asy]) and spaces are left out. Texts are alike in runs of `ngram` words in a row
(13, as in GPT-3's report and after), a shorter evaluation question in all its words, which may stand within the text.
One run alone is often a phrase of all competitions ("where m and n are relatively prime positive integers"), so `SHARE`
of the evaluation question has to lie in such runs. A copy with other numbers is alike where every number, in digits or
spelt out, is the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHARE = 0.6  # of an evaluation question's words, in runs that the text has too, that make it a copy
BEGINNING = 3  # words by which a short evaluation question is looked up within a text
WITHIN = 0.25  # of the text's words, that a short evaluation question has to be
ALONE = 8  # words, from which on it need not
NUMBER = "0"  # in the place of every number
_WORDS = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[-+*/=<>^|~%!]")
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL)
_SPELT = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|billion|dozen"
)
# LaTeX's, which copies change
_LAYOUT = {"left", "right", "displaystyle", "dfrac", "tfrac", "frac", "text", "mathrm"}


def plain_text(text: str) -> str:
    """What is left of a question that is the same but for spaces, capitals and LaTeX's dollars."""
    return re.sub(r"[\s$]+", "", unicodedata.normalize("NFKC", text).casefold())


def words_of(text: str) -> tuple[str, ...]:
    r"""Example: "Compute $\frac{1}{2}+3$." is ("compute", "1", "2", "+", "3")."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    found = _WORDS.findall(_DRAWING.sub(" ", plain)) or _WORDS.findall(plain)
    return tuple(word for word in found if word not in _LAYOUT)


def without_numbers(words: Iterable[str]) -> tuple[str, ...]:
    """Every number, and every row or sum of them, is one `NUMBER`: 1/2, 1+2+3 or "twenty five" as much as 3."""
    found: list[str] = []
    for word in words:
        plain = NUMBER if word[0].isdigit() or _SPELT.fullmatch(word) else word
        if plain == NUMBER and found[-1:] == [NUMBER]:
            continue
        if plain == NUMBER and len(found) > 1 and found[-1] in "+-*/" and found[-2] == NUMBER:
            found.pop()
            continue
        found.append(plain)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Match:
    """What a question is a copy of."""

    kind: str  # "exact" or "renumbered"
    source: str  # of the evaluation question
    text: str


class EvaluationQuestions:
    """The questions of all evaluation sets, by their words."""

    def __init__(self, ngram: int, renumbered: bool = True) -> None:
        """renumbered: whether copies with other numbers are looked for."""
        self.counts: dict[str, int] = {}  # source -> questions
        self._texts: list[tuple[str, str]] = []  # source and text of each
        self._exact, self._renumbered = _Runs(ngram), _Runs(ngram) if renumbered else None
        self._short = _Short(ngram)

    def add(self, text: str, source: str) -> None:
        self.counts[source] = self.counts.get(source, 0) + 1
        self._texts.append((source, text))
        words = words_of(text)
        self._exact.add(words)
        self._short.add(words, len(self._texts) - 1)
        if self._renumbered is not None:
            self._renumbered.add(without_numbers(words))

    def match(self, text: str) -> Match | None:
        """The evaluation question that `text` is a copy of, if any."""
        words = words_of(text)
        if (number := self._exact.likest(words)) is not None or (number := self._short.within(words)) is not None:
            return Match("exact", *self._texts[number])
        if self._renumbered is None or (number := self._renumbered.likest(without_numbers(words))) is None:
            return None
        return Match("renumbered", *self._texts[number])


class _Short:
    """Sequences of fewer than `ngram` words, to be found within a longer one."""

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self._beginning: dict[tuple[str, ...], list[tuple[tuple[str, ...], int]]] = {}  # first words -> words, number

    def add(self, words: tuple[str, ...], number: int) -> None:
        if BEGINNING <= len(words) < self.ngram:
            self._beginning.setdefault(words[:BEGINNING], []).append((words, number))

    def within(self, words: tuple[str, ...]) -> int | None:
        """The first sequence that `words` contains as a whole, and that is `WITHIN` of it or long enough alone."""
        for at in range(len(words) - BEGINNING + 1):
            for one, number in self._beginning.get(words[at : at + BEGINNING], ()):
                telling = len(one) >= ALONE or len(one) >= WITHIN * len(words)
                if telling and words[at : at + len(one)] == one:
                    return number
        return None


class _Runs:
    """Word sequences by their runs of `ngram` words; one that is shorter is a single run."""

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self._sizes: list[int] = []  # words of each sequence
        self._having: dict[int, list[int]] = {}  # hash of a run -> the sequences that have it

    def add(self, words: Sequence[str]) -> None:
        for run in dict.fromkeys(self._hashes(words)):
            self._having.setdefault(run, []).append(len(self._sizes))
        self._sizes.append(len(words))

    def likest(self, words: Sequence[str]) -> int | None:
        """The sequence with the largest share of its words in runs that `words` has; None below `SHARE`."""
        covered: dict[int, tuple[int, int]] = {}  # sequence -> (words of `words` in its runs, where the last run ends)
        length = min(self.ngram, len(words))
        for at, run in enumerate(self._hashes(words)):
            for number in self._having.get(run, ()):
                count, end = covered.get(number, (0, 0))
                covered[number] = count + at + length - max(at, end), at + length
        best = max(covered, key=lambda number: covered[number][0] / self._sizes[number], default=None)
        return None if best is None or covered[best][0] < SHARE * self._sizes[best] else best

    def _hashes(self, words: Sequence[str]) -> list[int]:
        if not words:
            return []
        length = min(self.ngram, len(words))
        return [hash(tuple(words[at : at + length])) for at in range(len(words) - length + 1)]
