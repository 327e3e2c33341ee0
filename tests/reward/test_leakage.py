"""Reasoning in short answers: what counts as such, and what ordinary answers may say."""

from __future__ import annotations

import pytest

from reward.leakage import PHRASES, Leakage, leakage, usual_length

TALKS_TO_ITSELF = [
    ("wait", r"3*4=12. Wait, 3*5=15. \boxed{15}"),
    ("wait", "So x is 4.\nBut wait, x must be odd."),
    ("wait", "x = 7\nWait no, that leaves out 3."),
    ("wait", "It is 12. Wait a minute."),
    ("hold on", "That gives 5. Hold on, 5 is even?"),
    ("hmm", "Hmm, 17 is prime."),
    ("hmm", "which is 12, hmmm."),
    ("let me check", "Let me double-check: 7*8=56."),
    ("let me check", "Let's recalculate: 7*8=56."),
    ("let me think", "Let me see. 7*8=56."),
    ("double-check", "To double check, 56/8=7."),
    ("on second thought", "4. On second thought, 5."),
    ("alternatively", "Alternatively, maybe x = 3."),
    ("actually", "4. Actually, no: 5."),
    ("that is not right", "x = -1. That doesn’t seem right."),
    ("is that right", "It is 8. Is that correct?"),
    ("mistake", "5. I think I made a mistake above."),
    ("not sure", "I'm not entirely sure, but 5."),
    ("okay, so", "Okay, so I need the sum of both."),
]
ORDINARY = [
    "They wait 5 minutes, then wait for 10 more, so the wait is 15 minutes. He can't wait, so he leaves.",
    "The total wait is 30 minutes.\nwaiting costs $5.\nWaiters earn more.",
    "Alternatively, we could count the pairs: 4*3/2=6.",
    "Actually 40-12=28 students walked, which is the actual number. He is actually 12.",
    "She should double check her change: 10-4=6. The checks cost $6; he held on to them.",
    "A field of 3 hm by 2 hm has 6 square hm.",
    "So I am 15+2=17 years old. I made 3 cakes, and I need 2 more.",
    "Let x be the price. Let us see how many are left: we let 5 go. Let's check out 4 books.",
    "That is right of the origin, so the correct sign is +. If that is not correct change, she gets $2 back.",
    "Okay Corral has 12 horses. It is OK: 3+4=7.",
    r"\boxed{12}",
]


@pytest.mark.parametrize(("phrase", "text"), TALKS_TO_ITSELF)
def test_words_of_a_model_that_talks_to_itself(phrase: str, text: str) -> None:
    assert leakage(text) == leakage(text.upper()) == Leakage(False, phrase, False)
    assert leakage(text).causes == ("phrase",)


def test_every_phrase_has_an_example() -> None:
    assert {phrase for phrase, _ in TALKS_TO_ITSELF} == {*PHRASES}


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_short_answers(text: str) -> None:
    assert not leakage(text).leaked, leakage(text)


def test_a_think_token_within_the_answer() -> None:
    for text in ("<think>3*4</think>12", "3*4</think>12", "12<think>"):
        assert leakage(text).think_block and leakage(text, names=("<|t|>", "<|/t|>")).think_block
    assert leakage("<|t|>12", names=("<|t|>", "<|/t|>")).think_block
    assert not leakage("<|t|>12").leaked


def test_too_long_is_above_twice_what_ordinary_answers_keep_to() -> None:
    usual = [r"\boxed{7}"] * 99 + [r"\boxed{1234567890}" * 10]  # one that is out of the way decides nothing
    longest = usual_length(usual)
    assert longest is not None and 18 <= longest < 40
    assert not leakage(r"  \boxed{12345678}" + "\n" * 50, longest).leaked
    assert leakage("5~2=3;3~4=1;1~1=0;0~3=3" * 2, longest) == Leakage(False, None, True)
    assert usual_length([]) is None and not leakage("x" * 10_000).leaked


def test_all_causes_are_told() -> None:
    found = leakage("Hmm. <think>" + "1" * 50, longest=20)
    assert found.causes == ("think_block", "phrase", "too_long") and found.leaked
