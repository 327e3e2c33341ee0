"""`thinkless verify` as its own process behind real pipes: order, streaming, hostile lines, and ends that leave nothing
behind. Nothing is timed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.commands import verify
from orchestrator.commands.verify_io import Case, Unreadable, read_case
from rollout.mode import Mode
from tests.helpers.launched import THINKLESS

pytestmark = pytest.mark.timeout(300)

HARD = {"response": r"\boxed{\frac{\sqrt{%d}}{2}}", "gold": r"\sqrt{%d}/2"}  # wants a process


def case(id: int | str, response: str, gold: Any, **more: Any) -> dict[str, Any]:
    return {"id": id, "response": response, "gold": gold, **more}


def boxed(id: int | str, answer: str, gold: Any) -> dict[str, Any]:
    return case(id, rf"\boxed{{{answer}}}", gold)


def hard(id: int, n: int = 2) -> dict[str, Any]:
    return case(id, HARD["response"] % n, HARD["gold"] % n)


class Command:
    """A running `thinkless verify` with open pipes."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [THINKLESS, "verify", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def tell(self, *rows: Any) -> None:
        self.stdin.write(
            b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
        )
        self.stdin.flush()

    def hear(self) -> dict[str, Any]:
        line = self.stdout.readline()
        assert line.endswith(b"\n"), self.stderr.read()
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, row: Any) -> dict[str, Any]:
        self.tell(row)
        return self.hear()

    def sandboxes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str]:
        """Exit code and what stands on standard error."""
        code = self.process.wait()
        return code, self.stderr.read().decode()


@pytest.fixture
def started() -> Iterator[Callable[..., Command]]:
    running: list[Command] = []

    def start(*arguments: str) -> Command:
        running.append(Command(*arguments))
        return running[-1]

    yield start
    for command in running:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait()
        for pipe in (command.stdin, command.stdout, command.stderr):
            try:
                pipe.close()
            except BrokenPipeError:
                pass


def ran(rows: list[Any], *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, verdicts, standard error) of all rows at once."""
    given = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    done = subprocess.run([THINKLESS, "verify", *arguments], input=given, capture_output=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def outcomes(rows: list[Any], *arguments: str) -> list[str]:
    code, verdicts, err = ran(rows, *arguments)
    assert (code, err) == (0, "")
    assert [verdict["id"] for verdict in verdicts] == [row["id"] for row in rows]
    assert all(verdict["correct"] is (verdict["outcome"] == "correct") for verdict in verdicts)
    return [verdict["outcome"] for verdict in verdicts]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=30)[1]


# ------------------------------------------------------------------ verdicts


def test_every_line_gets_a_verdict_in_input_order() -> None:
    rows = [
        boxed(1, "5", "5"),
        boxed("two", "x+1", "1+x"),
        boxed(3, "6", "5"),
        case(4, "I do not know.", "5"),
        boxed(5, r"\frac{x}{2}", "2x"),
        boxed(6, "3", ["2", "3"]),
        case(7, r"\boxed{3, 2}", ["2", "3"], all_answers=True),
        case(8, r"\boxed{3}", ["2", "3"], all_answers=True),
        case(9, "<think>and so on", "5"),
        boxed(10, "1,000", "1000"),
    ]
    code, verdicts, err = ran(rows, "--processes", "2")
    assert (code, err) == (0, "")
    assert [verdict["id"] for verdict in verdicts] == [row["id"] for row in rows]
    outcome = ["correct", "correct", "wrong", "no_answer", "wrong", "correct", "correct", "wrong", "cut_off", "correct"]
    assert [verdict["outcome"] for verdict in verdicts] == outcome
    assert [verdict["extracted"] for verdict in verdicts][3:6] == [None, r"\frac{x}{2}", "3"]
    for verdict in verdicts:
        assert set(verdict) == {"id", "outcome", "correct", "extracted", "seconds"}
        assert verdict["correct"] is (verdict["outcome"] == "correct") and verdict["seconds"] >= 0


def test_order_holds_over_thousands_of_plain_and_slow_lines() -> None:
    rows = [hard(n, n) if n % 7 == 0 else boxed(n, str(n), str(n + n % 2)) for n in range(2, 9000)]
    found = outcomes(rows)
    assert found == ["wrong" if n % 7 and n % 2 else "correct" for n in range(2, 9000)]


def test_strict_accepts_boxed_answers_only() -> None:
    rows = [case(1, "The answer is 5.", "5"), case(2, "#### 5", "5"), boxed(3, "5", "5")]
    assert outcomes(rows) == ["correct"] * 3
    assert outcomes(rows, "--strict") == ["no_answer", "no_answer", "correct"]


def test_modes_follow_from_control_tokens_or_the_mode_column() -> None:
    rows = [
        case(1, r"<think>2+3</think>\boxed{5}", "5"),
        case(2, r"<think>\boxed{5}", "5"),
        case(3, r"<short>\boxed{5}", "5"),
        case(4, r"2+3</think>\boxed{5}", "5"),
        case(5, r"\boxed{6}</think>\boxed{5}", "5", mode="think"),
        case(6, r"<think>\boxed{6}</think>\boxed{5}", "5", mode="think"),
        case(7, r"\boxed{5}", "5", mode="think"),
        case(8, r"<short>\boxed{5}", "5", mode="short"),
        case(9, r"\boxed{5}", "5", mode="short"),
        case(10, r"\boxed{5}", "5", mode=None),
    ]
    expected = ["correct", "cut_off", "correct", "correct", "correct", "correct", "cut_off", *["correct"] * 3]
    assert outcomes(rows) == outcomes(rows, "--strict") == expected


@pytest.mark.parametrize(
    ("more", "response", "mode"),
    [
        ({}, "<think>a", Mode.THINK),
        ({}, "<short>a", Mode.SHORT),
        ({}, "a", None),
        ({"mode": "think"}, "<think>a", Mode.THINK),
        ({"mode": "short"}, "a", Mode.SHORT),
    ],
)
def test_a_leading_control_token_is_not_part_of_the_answer(
    more: dict[str, str], response: str, mode: Mode | None
) -> None:
    line = json.dumps(case(1, response, ["4"], **more)).encode()
    assert read_case(line) == Case(1, "a", mode, ("4",), False)


def test_a_control_token_of_the_other_mode_is_text() -> None:
    line = json.dumps(case(1, "<short>a", "4", mode="think")).encode()
    assert read_case(line) == Case(1, "<short>a", Mode.THINK, "4", False)


# ------------------------------------------------------------------ streaming


def test_verdicts_are_written_while_the_input_is_open(started: Callable[..., Command]) -> None:
    command = started()
    for n in range(20):
        assert command.ask(boxed(n, str(n), str(n)))["correct"]
    for n in range(2, 12):
        assert command.ask(hard(n, n)) | {"seconds": 0} == {
            "id": n, "outcome": "correct", "correct": True, "extracted": HARD["response"][7:-1] % n, "seconds": 0,
        }  # fmt: skip
    assert command.ask(b"{")["line"] == 31
    command.stdin.write(b'{"id": "torn", "response": "\\\\box')
    command.stdin.flush()
    command.tell(b'ed{7}", "gold": "7"}')
    assert command.hear()["id"] == "torn"
    command.stdin.write(json.dumps(boxed("unended", "8", "8")).encode())
    command.stdin.close()
    assert command.hear()["id"] == "unended"
    assert command.end() == (1, "thinkless: 1 of 33 lines could not be read\n")


def test_a_stopped_grading_process_costs_only_its_line(started: Callable[..., Command]) -> None:
    """What comes after it waits for it to time out, and is not lost: more than the window holds."""
    command = started("--processes", "1", "--timeout", "1")
    assert command.ask(hard(0))["correct"]
    (sandbox,) = command.sandboxes()
    sandbox.suspend()
    command.tell(hard(1, 3))
    rows = [boxed(n, str(n), str(n)) if n % 1000 else hard(n, n) for n in range(2, verify.WINDOW + 2000)]
    writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=command.stdin)  # writes while we read
    assert writer.stdin
    writer.stdin.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    writer.stdin.close()
    command.stdin.close()
    assert command.hear() | {"seconds": 0, "extracted": ""} == {
        "id": 1, "outcome": "timed_out", "correct": False, "extracted": "", "seconds": 0,
    }  # fmt: skip
    for row in rows:
        verdict = command.hear()
        assert (verdict["id"], verdict["outcome"]) == (row["id"], "correct")
    assert writer.wait() == 0 and command.end() == (0, "")
    assert all_gone([sandbox])


def test_killing_an_idle_or_a_busy_grading_process_loses_no_line(started: Callable[..., Command]) -> None:
    command = started("--processes", "1", "--timeout", "100")
    assert command.ask(hard(0))["correct"]
    (idle,) = command.sandboxes()
    idle.kill()
    assert command.ask(hard(1, 3))["correct"]
    (busy,) = command.sandboxes()
    busy.suspend()
    command.tell(hard(2, 5), hard(3, 7), boxed(4, "4", "4"))
    busy.kill()
    assert [command.hear()["outcome"] for _ in range(3)] == ["correct"] * 3
    assert all_gone([idle, busy])


def test_hostile_lines_cost_only_themselves() -> None:
    hostile = [
        "9^{9^{9^9}}",
        r"\int \frac{\sqrt{x^3+x+1}}{x^5+1} dx",
        r"\sum_{n=1}^{999999} \frac{1}{n}",
        "(" * 5000,
        "9" * 100_000,
        "\ud800\x00",
        r"\frac{1}{" * 400 + "2" + "}" * 400,
    ]
    responses = [
        "x" * 10_000_000,
        "\\boxed{" * 100_000,
        "{" * 500_000 + "}" * 500_000,
        "$" * 500_000,
        "answer is " * 50_000,
    ]
    rows = [boxed(f"h{at}", answer, "y+1") for at, answer in enumerate(hostile)]
    rows += [case(f"r{at}", response, "y+1") for at, response in enumerate(responses)]
    rows += [boxed("g", "y", "z+" * 1_000_000)]
    between = [row for at, hostile in enumerate(rows) for row in (hostile, hard(at, at + 2), boxed(f"b{at}", "4", "4"))]
    found = outcomes(between, "--timeout", "1")
    assert "correct" not in found[::3]
    assert found[1::3] == found[2::3] == ["correct"] * len(rows)


# ------------------------------------------------------------------ lines that cannot be read


@pytest.mark.parametrize(
    ("line", "id", "said"),
    [
        (b"not json", None, "not JSON (Expecting value, column 1); expected an object like"),
        (b'{"id": 1, "response": "a", "gold": "4"', None, "not JSON"),
        (b'{"id": 1, "response": "a", "gold": "4"} x', None, "not JSON (Extra data"),
        (b'{"id": 1, "response": "\xff", "gold": "4"}', None, "not UTF-8 text (byte 23)"),
        (b"[" * 100_000, None, "not JSON that can be read"),
        (b'{"id": ' + b"1" * 5000 + b', "response": "a", "gold": "4"}', None, "not JSON that can be read"),
        (b'{"id": NaN, "response": "a", "gold": "4"}', None, "NaN is not JSON"),
        (b"[1, 2]", None, "a list, not an object; expected an object like"),
        (b'"text"', None, "'text', not an object"),
        (b"{}", None, "no id"),
        (b'{"response": "a", "gold": "4"}', None, "no id"),
        (b'{"id": 1, "gold": "4"}', 1, "no response"),
        (b'{"id": "a", "response": "a", "answer": "4"}', "a", "no gold"),
        (b'{"id": 1.5, "response": "a", "gold": "4"}', None, "id is a number; expected a string or an integer"),
        (b'{"id": true, "response": "a", "gold": "4"}', None, "id is true"),
        (b'{"id": 1, "response": null, "gold": "4"}', 1, "response is null; expected a string"),
        (b'{"id": 1, "response": "a", "gold": 4}', 1, "gold is a number; expected a string, or a list of strings"),
        (b'{"id": 1, "response": "a", "gold": {}}', 1, "gold is an object"),
        (b'{"id": 1, "response": "a", "gold": []}', 1, "gold is an empty list"),
        (b'{"id": 1, "response": "a", "gold": ["4", 5]}', 1, "gold is a list with a number"),
        (b'{"id": 1, "response": "a", "gold": "4", "mode": "long"}', 1, "mode is 'long'; expected \"think\" or"),
        (b'{"id": 1, "response": "a", "gold": "4", "mode": 1}', 1, "mode is a number"),
        (b'{"id": 1, "response": "a", "gold": "4", "all_answers": "yes"}', 1, "all_answers is 'yes'; expected true or"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_line(line: bytes, id: int | str | None, said: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read_case(line)
    assert said in str(refused.value) and refused.value.id == id and "\n" not in str(refused.value)


def test_unreadable_lines_do_not_stop_the_rest() -> None:
    rows = [
        b"\xef\xbb\xbf" + json.dumps(hard(1)).encode(),
        b"not json",
        b"",
        b"  ",
        boxed(2, "2", "2"),
        {"id": 7},
        b"[]",
    ]
    code, found, err = ran(rows)
    assert code == 1 and err == "thinkless: 3 of 5 lines could not be read\n"
    assert [row.get("id") for row in found] == [1, None, 2, 7, None]
    assert [row.get("line") for row in found] == [None, 2, None, 6, 7]
    assert set(found[1]) == {"line", "error"} and set(found[3]) == {"id", "line", "error"}
    assert found[0]["correct"] and found[2]["correct"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_in_pieces_are_joined(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "LONGEST", 10)
    data = b"one\n\ntwo\nmuch longer than ten\nthree\nalso longer than ten"
    found = list(verify.complete_lines(data[at : at + size] for at in range(0, len(data), size)))
    assert found == [b"one", b"", b"two", None, b"three", None]
    assert list(verify.complete_lines([])) == []


# ------------------------------------------------------------------ files and options


def test_input_and_output_may_be_files(tmp_path: Path) -> None:
    one, two, out = tmp_path / "one.jsonl", tmp_path / "two.jsonl", tmp_path / "out.jsonl"
    one.write_text(json.dumps(boxed(1, "1", "1")) + "\nx\n")
    two.write_text(json.dumps(hard(2)))  # no end of line
    code, found, err = ran([], str(one))
    assert code == 1 and found[0]["correct"] and "file" not in found[1] and "1 of 2 lines" in err
    code, found, _ = ran([boxed(3, "3", "3")], str(one), "-", str(two))
    assert code == 1 and [row.get("id") for row in found] == [1, None, 3, 2]
    assert (found[1]["file"], found[1]["line"]) == (str(one), 2)
    assert ran([], str(two), "--output", str(out)) == (0, [], "")
    assert json.loads(out.read_text())["id"] == 2
    code, _, err = ran([], str(two), "--output", str(two))
    assert code == 1 and "would overwrite" in err and two.read_text() == json.dumps(hard(2))


def test_empty_input_gives_empty_output() -> None:
    assert ran([]) == (0, [], "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nothing.jsonl", "nothing.jsonl: no such file"),
        ("--processes 0", "--processes must be in [1, 1024], got 0"),
        ("--processes two", "invalid int value: 'two'"),
        ("--timeout 0", "--timeout must be in [0.01, 1e5], got 0"),
        ("--timeout nan", "--timeout must be"),
        ("--timeout 1e-300", "--timeout must be in [0.01, 1e5], got 1e-300"),
        ("--memory-mib -1", "--memory-mib"),
        ("--tiemout 3", "unrecognized arguments: --tiemout; all options: "),
    ],
)
def test_mistakes_in_options_are_one_line(arguments: str, said: str) -> None:
    code, found, err = ran([], *arguments.split())
    assert code == 1 and not found and err.startswith("thinkless: ") and err.count("\n") == 1
    assert said in err


def test_too_little_memory_is_reported() -> None:
    code, found, err = ran([hard(1)], "--memory-mib", "16")
    assert code == 1 and not found and "memory" in err and err.splitlines()[-1].startswith("thinkless: ")


def test_the_summary_counts_every_outcome() -> None:
    code, found, err = ran([boxed(1, "1", "1"), hard(2), boxed(3, "3", "4")], "--summary", "--progress")
    assert code == 0 and len(found) == 3
    assert "3 answers in" in err and "66.7% correct" in err and "outcomes: correct 2, wrong 1" in err
    assert err.count("slowest: ") == 3


def test_a_plain_answer_imports_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps(boxed(1, "1", "2")))
    script = (
        "import sys\nfrom orchestrator.commands.cli import main\n"
        f"try: main(['verify', {str(tmp_path / 'one.jsonl')!r}])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = ('torch', 'ray', 'hydra', 'omegaconf', 'sympy', 'mpmath', 'numpy', 'tqdm', 'transformers', 'vllm')\n"
        "assert not [name for name in heavy if name in sys.modules], sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["outcome"] == "wrong"


# ------------------------------------------------------------------ ends


def test_a_closed_output_ends_the_command_quietly(started: Callable[..., Command]) -> None:
    command = started()
    assert command.ask(hard(1))["correct"]
    sandboxes = command.sandboxes()
    command.stdout.close()
    try:
        while command.process.poll() is None:
            command.tell(boxed(2, "2", "2"))
    except BrokenPipeError:
        pass
    assert command.end() == (141, "")
    assert sandboxes and all_gone(sandboxes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_it_while_waiting_and_while_working(
    started: Callable[..., Command], number: signal.Signals
) -> None:
    """As a terminal does on Ctrl-C: the whole process group gets it."""
    command = started("--processes", "2", "--timeout", "100")
    assert command.ask(hard(1))["correct"]
    sandboxes = command.sandboxes()
    for sandbox in sandboxes:
        sandbox.suspend()
    command.tell(hard(2, 3), hard(3, 5), boxed(4, "4", "4"))
    os.killpg(command.process.pid, number)
    assert command.end() == (128 + number, "")
    assert sandboxes and all_gone(sandboxes) and command.stdout.read() == b""


def test_an_interruption_ends_it_while_its_output_is_blocked(started: Callable[..., Command]) -> None:
    """It is stuck in writing to a full pipe, and its writer in writing to it."""
    command = started()
    assert command.ask(hard(1))["correct"]
    sandboxes = command.sandboxes()
    os.set_blocking(command.stdin.fileno(), False)
    line = json.dumps(boxed(2, "2", "2")).encode() + b"\n"
    full = 0
    while full < 2:  # both pipes are full when it takes nothing more even after it had time to work
        try:
            os.write(command.stdin.fileno(), line)
        except BlockingIOError:
            full = full + 1 if psutil.Process(command.process.pid).status() == psutil.STATUS_SLEEPING else 0
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.process.wait() == 130
    assert command.stderr.read() == b"" and all_gone(sandboxes)
