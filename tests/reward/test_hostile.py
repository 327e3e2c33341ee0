"""A model's output is hostile input: whatever it contains, grading ends with a truth value and executes no code.

Random text and random mutations (hypothesis), random formulas against exact arithmetic as an independent reference,
time bounds of every text rule, and an audit of what the interpreter does while it grades.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reward.maths.compare.symbolic import worked_out
from reward.maths.equivalence import equivalent, quick, readings
from reward.maths.extraction.answer import boxed, extract
from reward.maths.extraction.prose import unboxed
from reward.maths.parse.grammar import MAX_CHARS, parse
from reward.maths.parse.spelling import tidy
from reward.maths.units import split
from reward.maths.words import same_text

PIECES = st.sampled_from(
    [
        *(
            "\\frac{",
            "}",
            "{",
            "\\sqrt",
            "^",
            "_",
            "!",
            "(",
            ")",
            "[",
            "]",
            "|",
            "\\left",
            "9",
            "99999",
            "e",
            "i",
            "\\pi",
        ),
        *(
            "\\infty",
            "\\pm",
            "\\mp",
            "\\int",
            "\\sum_{k=1}^{",
            "\\lim_{x\\to",
            "\\begin{pmatrix}",
            "\\end{pmatrix}",
            "&",
        ),
        *("\\\\", "\\cup", "\\cap", "<", ">", "=", "\\in", "\\mathbb{R}", ",", ";", "or", "and", "%", "°", "\\text{"),
        *("\\log", "\\sin", "\\binom{", "\\mod", "\\pmod{", ".", "0", "-", "/", "*", "^{", "10^{", "x", "n", "dx"),
        *("\\{", "\\}", "\\mid", ":", "$", "√", "²", "\\det", "\\lfloor", "\\exp", "\\gcd(", "5!", "E9", "\\overline{"),
        *("__import__('os')", ".__class__", "</think>", "<think>", "\\boxed{", "\x00", "９", "9^{9^{9", "\n", "\ud800"),
        *("\\prod_{k=1}^{", "\\begin{cases}", "\\end{cases}", " km", "\\text{ cm}", "million", "p.m.", "_{16}", "FF"),
    ]
)
TEXTS = st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=40)
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(SETTINGS, max_examples=600)
@given(TEXTS, TEXTS)
def test_any_text_gets_a_truth_value(gold: str, answer: str) -> None:
    assert equivalent(answer, gold) in (True, False)
    assert quick(answer, gold) in (True, False, None)


@settings(SETTINGS, max_examples=400)
@given(TEXTS)
def test_any_answer_equals_itself_unless_it_is_empty(text: str) -> None:
    assert equivalent(text, text) is bool(text.strip())


@settings(SETTINGS, max_examples=400)
@given(st.lists(PIECES | st.sampled_from(["\\boxed{42}", "the answer is ", "#### "]), max_size=20).map("".join))
def test_extraction_takes_any_text(text: str) -> None:
    for thinking in (False, True):
        for strict in (True, False):
            answer = extract(text, strict, thinking=thinking)
            assert answer is None or answer == answer.strip() != ""
            if thinking and "</think>" not in text:
                assert answer is None


# ------------------------------------------------------------------ formulas against exact arithmetic


@st.composite
def formulas(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """(LaTeX, value), computed apart from the grader."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 12))
        return str(number), Fraction(number)
    (a, x), (b, y) = draw(formulas(depth - 1)), draw(formulas(depth - 1))
    kind = draw(st.sampled_from("+-*/^f"))
    if kind == "+":
        return f"({a}) + ({b})", x + y
    if kind == "-":
        return f"({a}) - ({b})", x - y
    if kind == "*":
        return rf"({a}) \cdot ({b})", x * y
    if kind == "^":
        power = draw(st.integers(1, 3))
        return f"({a})^{{{power}}}", x**power
    assume(y != 0)
    return (rf"\frac{{{a}}}{{{b}}}", x / y) if kind == "f" else (f"({a}) / ({b})", x / y)


@settings(SETTINGS, max_examples=300)
@given(formulas(), st.integers(1, 5))
def test_a_formula_equals_its_value_and_no_other(formula: tuple[str, Fraction], off: int) -> None:
    text, value = formula
    assert equivalent(text, f"{value.numerator}/{value.denominator}")
    assert equivalent(rf"\frac{{{value.numerator * off}}}{{{value.denominator * off}}}", text)
    wrong = value + Fraction(off, value.denominator)
    assert not equivalent(text, f"{wrong.numerator}/{wrong.denominator}")


@settings(SETTINGS, max_examples=100)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_polynomials_equal_any_order_of_their_terms(coefficients: list[int], rng: random.Random) -> None:
    terms = [f"({c})x^{{{power}}}" for power, c in enumerate(coefficients)]
    shuffled = list(terms)
    rng.shuffle(shuffled)
    assert equivalent("+".join(shuffled), "+".join(terms))
    changed = [f"({coefficients[0] + 1})x^{{0}}", *terms[1:]]
    assert not equivalent("+".join(changed), "+".join(terms))


@settings(SETTINGS, max_examples=100)
@given(st.sets(st.integers(-50, 50), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_sets_have_no_order_and_tuples_have_one(members: set[int], rng: random.Random) -> None:
    ordered = [str(one) for one in sorted(members)]
    shuffled = list(ordered)
    rng.shuffle(shuffled)
    join = ", ".join
    assert equivalent(join(shuffled), join(ordered))
    assert equivalent(rf"\left\{{ {join(shuffled)} \right\}}", rf"\{{{join(ordered)}\}}")
    assert equivalent(f"({join(shuffled)})", f"({join(ordered)})") is (ordered == shuffled)
    assert not equivalent(join(ordered[1:]), join(ordered))
    assert not equivalent(rf"\{{{join(ordered)}\}}", f"({join(ordered)})")


# ------------------------------------------------------------------ time


RUNS = [
    *(
        "a",
        "a ",
        "1",
        "1 ",
        "1,",
        "1.",
        "1{,}",
        "\\,",
        "1\\,",
        "\\text{",
        "\\text{a",
        "\\text{a}",
        "{",
        "}",
        "{}",
        "{a}",
    ),
    *(
        "(",
        "^{",
        "_{",
        "$",
        "\\",
        "\\\\",
        "\\frac",
        "\\mathrm{",
        "all real ",
        "and ",
        "AB ",
        "\\angle A",
        "A_1",
        "\t",
        " ",
    ),
    *(
        "\n",
        "I",
        "1 million ",
        "1 to ",
        "x10^",
        "=",
        "a=",
        "per ",
        "m^2 ",
        "\\prime",
        "^{\\prime",
        ". ",
        "1st",
        "0.\\dot",
    ),
    *(
        "square ",
        "\\boxed{",
        "#### a",
        "the answer is ",
        "$a",
        "$ a ",
        "$$a",
        "\\[a",
        "5 or ",
        "<answer>",
        "1/2 ",
        "1e",
    ),
    *("<|a", "word word ", "abcd: ", "\\{", "\\begin{", "'", "|", "-", "+", "!", "°", "1°", "\\pm", "[1,", "]1,"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", RUNS, ids=[ascii(run) for run in RUNS])
def test_long_repetitions_are_parsed_in_linear_time(run: str) -> None:
    """Hours, were a rule to backtrack; the limit catches that without timing anything."""
    for tail in ("", "!", "}", "a", "1"):
        text = (run * MAX_CHARS)[: MAX_CHARS - 1] + tail
        tidy(text), split(text), same_text(text, text + "a"), readings(text)
    long = (run * 100_000)[:100_000]
    boxed(long), unboxed(long)


# ------------------------------------------------------------------ no code

AUDIT = """
import sys, json
from reward.maths.equivalence import equivalent, warm
from reward.maths import verify
warm()
for gold, answer in (("\\\\sqrt{2}", "x"), ("[1,2]", "1<x"), ("\\\\int_0^1 x dx", "1/2"), ("5 km", "5 m")):
    equivalent(answer, gold)
events = []
def hook(event, args):
    if event in ("exec", "compile", "open", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
                 "socket.connect", "socket.__new__", "ctypes.dlopen", "code.__new__", "builtins.input", "import"):
        if event != "import" or str(args[0]).split(".")[0] not in ALLOWED:
            events.append((event, str(args)[:200]))
ALLOWED = ("mpmath", "reward", "sympy")
sys.addaudithook(hook)
for text in json.loads(sys.argv[1]):
    verify("\\\\boxed{" + text + "}", "3")
    verify(text, "3")
    equivalent("\\\\frac{1}{3}", text)
print(json.dumps(events))
"""
CODE = [
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "eval('1+2')",
    "exec(\"open('/tmp/x','w')\")",
    "lambda: 3",
    "open('/etc/passwd').read()",
    "\\operatorname{__import__}(os)",
    "\\text{__import__('os')}",
    "Symbol('x', positive=True).func",
    "sympify('3')",
    "x.__dict__",
    "f\"{3}\"",
    "\\input{/etc/passwd}",
    "\\write18{true}",
    "3; import os",
    "getattr(int, 'real')",
]  # fmt: skip


def test_no_text_runs_code() -> None:
    """After a warm-up, grading hostile text compiles, opens, starts and connects to nothing.

    (Calculus is left out: sympy compiles helpers of its own for polynomials, from templates without any text of ours.)
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, json.dumps(CODE)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\int_0^1 x \cdot 4! \, dx", 12),
        (r"\int_0^1 x (3!)! \, dx", None),
        (r"\int_0^1 x (2^9)! \, dx", None),
        (r"\int_0^1 x \cdot 2^{3^{2}} \, dx", None),
    ],
)
def test_calculus_with_towers_or_factorials_of_factorials_is_not_worked_out(text: str, value: int | None) -> None:
    """sympy would write such numbers out, however large they are."""
    expected = None if value is None else ("num", Fraction(value))
    assert worked_out(parse(tidy(text))) == expected
