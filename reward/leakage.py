r"""Whether reasoning leaked into a short answer.

In: the text of a short answer, without its control token and end token. Out: `Leakage`, what of it looks like thinking.
Must not know: gold answers, tokenizers, who wrote the text.

Three signs, each told by itself:

    think_block  a think token, opening or closing: thinking begins again within the answer (`reward.grade` never
                 rewards it)
    phrase       words with which a reasoning model talks to itself (`PHRASES`)
    too_long     more characters than `longest`, which the caller takes from ordinary short answers (`usual_length`)

A phrase counts where it is one: "Wait, that is wrong" at the start of a sentence does, "they wait 5 minutes" does not.
The list is English, and short on purpose: it shows that there is reasoning, not how much. Of 10,714 worked solutions by
people it finds none (docs/method.md). Reasoning without such words, in formulas say, shows in `too_long` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reward.grade import THINK, think_token_in_text
from rollout.mode import Mode

QUANTILE, LONGER = 0.99, 2.0  # too long: above LONGER times what QUANTILE of ordinary short answers keep to

_BEGIN = r"(?:^|[.!?:;)\]…])\s{0,3}(?:(?:oh|but|no|hmm+|and|so),?\s+)?"  # of a sentence or a line
_PAUSE = r"(?=\s?(?:[,.!?…—–]|--|$))"
_AGAIN = r"(?:double|triple)[- ]?check|re-?(?:check|verify|think|consider|calculate|compute|read|examine)"
PHRASES = {  # name -> pattern, without regard to case
    "wait": rf"{_BEGIN}wait(?:{_PAUSE}| (?:no|maybe|actually|let|i|that's|a (?:minute|second|moment|sec))\b)",
    "hold on": rf"{_BEGIN}hold on{_PAUSE}",
    "hmm": r"\bhm{2,}\b",
    "let me check": rf"\blet(?:'s| me| us) (?:just |now |quickly )?(?:{_AGAIN}|try again|start over)\b",
    "let me think": r"\blet me (?:think|see|try|verify|check)\b",
    "double-check": r"\b(?:to|i(?:'ll| will| should| need to| want to)) (?:double|triple)[- ]?check\b",
    "on second thought": r"\bon second thoughts?\b",
    "alternatively": rf"{_BEGIN}alternatively, (?:maybe|perhaps|i|let me|let's|is|could|what if)\b",
    "actually": rf"{_BEGIN}actually,? (?:no|wait|let me|i (?:think|made|need)|that's (?:not|wrong))\b",
    "that is not right": r"\bthat (?:doesn't|does not|can't|cannot|isn't|is not) (?:seem |look |sound |be |quite )?"
    r"(?:right|correct|make sense|add up)(?=[.,!?;:]|$)",
    "is that right": r"\bis (?:that|this) (?:right|correct)\?",
    "mistake": r"\bi (?:think i |must have |may have |might have )?(?:made|make) (?:a|an|some) (?:mistake|error)\b",
    "not sure": r"\bi(?:'m| am) not (?:\w+ )?sure\b",
    "okay, so": r"\A\s*(?:okay|ok|alright|all right),? (?:so |let me |i )",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE | re.MULTILINE) for name, pattern in PHRASES.items()}

THINK_BLOCK, PHRASE, TOO_LONG = "think_block", "phrase", "too_long"
CAUSES = (THINK_BLOCK, PHRASE, TOO_LONG)


@dataclass(frozen=True, slots=True)
class Leakage:
    """What of a short answer looks like thinking. Example: "12. Wait, 3*5=15. \\boxed{15}" has phrase "wait"."""

    think_block: bool
    phrase: str | None  # the first of `PHRASES` that it holds, by name
    too_long: bool

    @property
    def causes(self) -> tuple[str, ...]:
        """Of `CAUSES`."""
        found = (self.think_block, self.phrase is not None, self.too_long)
        return tuple(cause for cause, is_there in zip(CAUSES, found, strict=True) if is_there)

    @property
    def leaked(self) -> bool:
        return bool(self.causes)


def leakage(text: str, longest: int | None = None, names: Sequence[str] = THINK) -> Leakage:
    """longest: characters of a short answer at most, spaces around it apart; None: any length. names: of the model's
    think tokens, opening ones and the closing one; <think> and </think> count with any."""
    block = any(think_token_in_text(text, Mode.SHORT, pair) for pair in {tuple(names), THINK})
    plain = text.replace("’", "'")
    phrase = next((name for name, pattern in _PATTERNS.items() if pattern.search(plain)), None)
    return Leakage(block, phrase, longest is not None and len(text.strip()) > longest)


def usual_length(answers: Iterable[str]) -> int | None:
    """`longest` for `leakage`, from short answers that are in order: twice what 99 % of them keep to, so that an
    ordinary long one is not taken for reasoning. None: there are no answers."""
    lengths = [len(answer.strip()) for answer in answers]
    return int(LONGER * float(np.quantile(lengths, QUANTILE))) if lengths else None
