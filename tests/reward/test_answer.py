"""Extraction: what counts as the final answer, by the rules stated in `reward.maths.extraction.answer`."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from reward.grade import find_answer
from reward.maths import extract
from reward.verdict import Outcome
from rollout.mode import Mode
from rollout.trajectory import Finish


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"so it is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"first \boxed{wrong}, final \boxed{42}", "42"),
        (r"\boxed{9} \boxed{9} \boxed{42}", "42"),
        (r"\boxed{10} and then \boxed{42}", "42"),
        (r"\boxed{2} and \boxed{3}", "2, 3"),
        (r"$\boxed{2}$, $\boxed{3}$", "2, 3"),
        (r"\boxed{1} or \boxed{2}", "1, 2"),
        (r"$\boxed{1}$, and $\boxed{1}$", "1"),
        (r"\(y_1 = \boxed{a}\) and \(y_2 = \boxed{b}\)", "a, b"),
        (r"\boxed{1} no \boxed{2} no \boxed{3} no \boxed{4}", "1, 2, 3, 4"),  # an enumeration is no answer
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\boxed{4} but \boxed{never closes", "4"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"There are \boxed{4} red tiles and \boxed{9} blue tiles", "4, 9"),
        (r"\boxed{4} for m, and \boxed{9} for n", "4, 9"),
        (r"\boxed{4} is too small and \boxed{9}", "9"),  # words that count nothing join nothing
        (r"\boxed{4}<|im_end|>" "\n" r"<|im_start|>user: what of \boxed{9}?", "4"),
        (r"Not <s>\boxed{4}</s> but \boxed{9}", "9"),  # struck out
        (r"\boxed{4}</s>\boxed{9}", "4"),
    ],
)
def test_the_last_complete_box_is_the_answer(text: str, answer: str) -> None:
    assert extract(text, strict=True) == answer


@pytest.mark.parametrize("text", ["", "5", r"\boxed{", r"\boxed{5", r"\boxed{}", r"\boxed{ }", "#### 5", "boxed{5}"])
def test_strict_extraction_needs_a_box_that_is_not_empty(text: str) -> None:
    assert extract(text, strict=True) is None


@pytest.mark.parametrize(
    ("text", "mode", "answer", "outcome"),
    [
        (r"\boxed{1}</think>\boxed{2}", Mode.THINK, "2", None),
        (r"\boxed{1}</think>so two", Mode.THINK, None, Outcome.NO_ANSWER),  # the answer in the thinking only
        (r"\boxed{1}", Mode.THINK, None, Outcome.CUT_OFF),
        (r"a</think>\boxed{1}</think>\boxed{2}", Mode.THINK, "2", None),
        (r"<think>\boxed{1}</think>\boxed{2}", None, "2", None),
        (r"<think>\boxed{1}", None, None, Outcome.CUT_OFF),
        (r"<think>\boxed{1}", Mode.SHORT, None, Outcome.CUT_OFF),
        (r"\boxed{1}</think>", Mode.SHORT, None, Outcome.NO_ANSWER),
        (r"\boxed{3}", None, "3", None),
    ],
)
def test_only_what_follows_the_first_think_end_counts(
    text: str, mode: Mode | None, answer: str | None, outcome: Outcome | None
) -> None:
    assert find_answer(text, mode, Finish.STOP, strict=True, needs_mode=False) == (outcome, answer)
    assert extract(text, strict=True, thinking=mode == Mode.THINK) == answer


def test_the_end_of_thinking_may_have_another_name() -> None:
    assert extract(r"\boxed{1}[/R]\boxed{2}", strict=True, think_end="[/R]") == "2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>Hello123</answer>", "Hello123"),
        ("so 3 + 4\n#### 1,234", "1,234"),
        ("The answer is 42", "42"),
        ("The answer is 42 because geometry proves it.", "42"),
        ("The final answer is $\\frac{5}{6}$. I hope it is correct.", r"\frac{5}{6}"),
        ("Answer: $34$", "34"),
        ("Answer \\[ 9 \\]", " 9 "),
        ("Final Answer: The maximum of $f(x)$ is 19.", "19"),
        ("Therefore $x \\geq 5$ is the solution.", "x \\geq 5"),
        ("First compute 6*7.\n42", "42"),
        ("it is 1,000.99€", "1,000.99"),
        ("Therefore the answer is -3", "-3"),
        (r"The answer is 7, or rather \boxed{8}", "8"),
        ("so it costs 140 cents, or 140 cents", "140"),  # said twice
        ("5 + 9 = 14 notes of $20 and $50.", "14"),
        ("14 are left, between 20 and 50", "50"),
        ("Week 3:210 pages", "210"),
        ("Thus 3Y/3 = 120/3 or Y = 40 minutes", "40"),
        ("Either x = 4 or x = 9.", "4 or 9"),
        ("The roots are 4 and 9.", "4, 9"),
        ("In 2010, 40 people", "40"),
        (r"Thus we get (-8, -3] \cup (0, 4].", r"(-8, -3] \cup (0, 4]"),
        (r"The answer is therefore 4\sqrt{7}.", r"4\sqrt{7}"),
        (r"We conclude: z^4 + 9", "z^4 + 9"),
        (r"m = \frac{4}{9}", r"m = \frac{4}{9}"),
        ("3z^2 + 5z - 8", "3z^2 + 5z - 8"),
        ("The pair is (4, 9).", "(4, 9)"),
        ("The answer is (4, -9, 1)", "(4, -9, 1)"),
    ],
)
def test_lenient_extraction_finds_answers_without_a_box(text: str, answer: str) -> None:
    assert extract(text) == answer.strip()


@pytest.mark.parametrize("marker", ["<end_of_turn>", "<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>", "<eos>"])
def test_the_turn_ends_at_its_marker(marker: str) -> None:
    for text in ("The answer is 8", "#### 8", "8", "<think>9</think>so it is 8."):
        assert extract(text + marker) == "8"
        assert extract(f"{text}{marker}\n17 + 2 = 19") == "8"


def test_the_first_answer_counts_where_a_text_runs_on_with_another_question() -> None:
    for text in (
        "2 + 6 = 8\n#### 8\n\nMia has 3 pens.\n#### 3",
        "The answer is 8.\n\nQ: Mia has 3 pens. How many?\nA: The answer is 3.",
        r"So \boxed{8}." "\n\nProblem 2: " r"Mia has \boxed{3}",
    ):
        assert extract(text) == "8"
    assert extract("#### 1. Set-up\nMia has 3.\n#### 8") == "8"


def test_a_text_without_an_answer_has_none() -> None:
    assert extract("I don't know.") is None


def test_extraction_from_huge_texts_is_fast() -> None:
    pieces = [
        "\\boxed{",
        "{",
        "$",
        "1,111",
        "\\(",
        "\\[",
        "<answer>",
        " is ",
        "\\boxed{1}",
        "answer: ",
        "\\frac{",
        " ",
        "\\",
        "\nQuestion: ",
        "#### 1\nQuestion: ",
        "1 or ",
        "(A) or ",
    ]
    start = time.perf_counter()
    for piece in pieces:
        for text in (piece * 50_000, "\\boxed{" + piece * 50_000, "answer is " + piece * 50_000):
            for strict in (True, False):
                extract(text, strict)
    assert time.perf_counter() - start < 30  # 102 texts of up to half a megabyte, not quadratic


def test_the_library_imports_neither_mpmath_nor_sympy_before_they_are_needed() -> None:
    loaded = 'print({"sympy", "mpmath", "ray", "torch"} & {*sys.modules})'
    code = f"import sys, reward.maths; {loaded}"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )
