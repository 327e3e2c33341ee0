"""Run folders followed while they grow, are torn, resumed, replaced; the page's parts made from them; its server."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from conf.errors import BadConfig
from orchestrator.commands.cli import main
from orchestrator.commands.watch import folders, told
from orchestrator.report import figures
from orchestrator.report.read import read_run
from orchestrator.sweeps.state import MemberState, SweepState
from orchestrator.tracking.rules import RULES, Advisory, Rule
from orchestrator.watch.answers import Answers, Wanted
from orchestrator.watch.charts import charts
from orchestrator.watch.curves import MOST, Curves
from orchestrator.watch.index import Followed, Index, runs_in
from orchestrator.watch.server import Server, free_port
from orchestrator.watch.tail import Tail
from orchestrator.watch.terminal import screen
from orchestrator.watch.views import CARDS, marked, overview, templates, timeline, warned
from orchestrator.watch.waits import actor_bars, end_of_timeline, step_bar
from rollout.base.errors import BadInput
from tests.helpers.watched import BEGAN, ROOT, add_timeline, answer, hold, make_run, record, write_lines

TOKENS = {"think": "<think>", "short": "<short>", "end": "</think>"}


def followed(folder: Path) -> Followed:
    run = Followed("run", folder)
    run.read(1 << 20)
    return run


def rewards(run: Followed) -> list[tuple[float, float | None]]:
    return [(step, value) for step, value in run.curve("reward/mean")]


# ---------------------------------------------------------------- files that grow


def test_a_torn_last_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = Tail(path)
    assert tail.read().lines == []  # not there yet
    path.write_bytes(b"one\ntwo\nthr")
    assert tail.read().lines == [b"one", b"two"]
    assert tail.read().lines == []
    with path.open("ab") as file:
        file.write(b"ee\n")
    found = tail.read()
    assert (found.lines, found.start, found.anew) == ([b"three"], 8, False)


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_read_is_bounded_and_the_next_goes_on(tmp_path: Path, most: int) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d\n" % k for k in range(50)))
    tail, lines, more = Tail(path), [], True
    while more:
        found = tail.read(most)
        lines += found.lines
        more = found.more
    assert lines == [b"%d" % k for k in range(50)]


def cut(path: Path) -> None:
    path.write_bytes(b"one\n")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"one\ntwo\nthree\nfour\n")
    os.replace(other, path)


def write_anew_and_grow(path: Path) -> None:
    """As a resumed run does while nobody looks: longer than before, in the same file."""
    path.write_bytes(b"one\nother\nthree\nfour\n")


def take_away(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [cut, replace, write_anew_and_grow, take_away])
def test_a_file_that_was_written_anew_is_read_from_its_beginning(tmp_path: Path, change: object) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\nthree\n")
    tail = Tail(path)
    tail.read()
    assert callable(change)
    change(path)
    found = tail.read()
    assert found.anew and found.start == 0
    assert found.lines == (path.read_bytes().splitlines() if path.exists() else [])


# ---------------------------------------------------------------- runs


def test_curves_equal_the_reports_while_bins_are_single_steps(tmp_path: Path) -> None:
    """The live page and the report draw the same panels."""
    folder = make_run(tmp_path / "run", 40)
    write_lines(folder / "metrics.jsonl", [{"step": 40, "time": BEGAN + 80, "validation/accuracy": 0.75}], "a")
    run, read = followed(folder), read_run(folder)
    for part in (figures.learning, figures.machinery, figures.health):
        mine, theirs = part(run), part(read)
        assert [panel.title for panel in mine] == [panel.title for panel in theirs]
        for a, b in zip(mine, theirs, strict=True):
            assert [(line.name, line.last) for line in a.lines] == [(line.name, line.last) for line in b.lines]
            assert [list(line.points) for line in a.lines] == [list(line.points) for line in b.lines]


def test_long_curves_are_means_of_bins() -> None:
    curves, count = Curves(), 5 * MOST + 7
    for step in range(1, count + 1):
        curves.add({"step": step, "a": float(step), "b": None if step < count else 3.0})
    points = curves.curve("a")
    assert curves.width == 8 and len(points) == -(-count // 8) and points[-1][0] == count
    assert points[0] == (8.0, 4.5) and points[1] == (16.0, 12.5)
    assert points[-1][1] == sum(range(5 * MOST + 1, count + 1)) / 7
    assert [point for point in curves.curve("b") if point[1] is not None] == [(count, 3.0)]
    few = curves.curve("a", 100)
    assert len(few) <= 100 and few[-1][0] == count and few[0] == (56.0, 28.5)
    assert curves.curve("absent") == [(step, None) for step, _ in points]


@pytest.mark.parametrize("chunk", [200, 1 << 20])
def test_a_run_is_followed_through_a_cut_a_resume_and_repeated_steps(tmp_path: Path, chunk: int) -> None:
    folder = make_run(tmp_path / "run", 6)
    path = folder / "metrics.jsonl"
    index = Index([folder])
    index.refresh(None, chunk)
    (run,) = index.runs
    with path.open("a") as file:
        file.write('{"step": 7, "reward/me')
    index.refresh(None, chunk)
    assert run.last_step == 6
    write_lines(path, [record(step) for step in range(1, 5)])  # resumed from step 4: later steps are dropped
    index.refresh(None, chunk)
    assert [step for step, _ in rewards(run)] == [1, 2, 3, 4] and run.recent[-1]["step"] == 4
    write_lines(path, [record(step, **{"reward/mean": 9.0}) for step in (5, 6)], "a")
    write_lines(path, [record(step, **{"reward/mean": 8.0}) for step in (6, 7)], "a")  # repeated, as older runs did
    write_lines(path, [{"step": 7, "time": 1.0, "validation/accuracy": 0.5}], "a")
    index.refresh(None, chunk)
    assert rewards(run)[-3:] == [(5, 9.0), (6, 8.0), (7, 8.0)]
    assert run.curve("validation/accuracy")[-1] == (7, 0.5) and run.training.count == 7
    assert [line["step"] for line in run.recent] == sorted(line["step"] for line in run.recent)


def test_many_runs_are_read_in_slices_and_found_as_they_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.watch.index.DISCOVER_S", 0.0)
    for k in range(50):
        make_run(tmp_path / f"run-{k:02}", 5 + k)
    index, slices = Index([tmp_path]), 1
    while index.refresh(0.0, 2000) < 1:
        slices += 1
    assert slices > 50 and {run.last_step for run in index.runs} == set(range(5, 55))
    before = index.version
    assert index.refresh() == 1.0 and index.version == before  # nothing is new
    write_lines(tmp_path / "run-07" / "metrics.jsonl", [record(13)], "a")
    index.refresh(None)
    assert [run.id for run in index.runs if run.changed > before] == ["run-07"]
    make_run(tmp_path / "sweep" / "run-07", 3)
    index.refresh(None)
    assert len(index.runs) == 51 and {"run-07", "sweep/run-07"} <= {run.id for run in index.runs}
    since = charts(index.runs, before)
    assert not since["complete"] and {line["run"] for line in since["charts"][0]["lines"]} == {"run-07", "sweep/run-07"}


def test_a_run_that_cannot_be_read_takes_no_other_along(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("run: {steps: 2}\n")
    (tmp_path / "mine" / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5, "seconds/step": 1.0}\n')
    (tmp_path / "theirs" / "metrics.jsonl").mkdir()  # opening it fails, as that of another user's file
    (tmp_path / "loop").symlink_to("loop")
    index = Index([tmp_path])
    assert index.refresh(None) == 1.0
    mine, theirs = index.find("mine"), index.find("theirs")
    assert mine is not None and mine.last_step == 1
    assert theirs is not None and theirs.state(0.0).words == "cannot be read (Is a directory)"


def test_lines_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 3)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\nnull\n{"step": "x"}\n{"reward/mean": 1}\n{"step": 4, "entropy": NaN, "lr": true}\n')
    run = followed(folder)
    assert run.last_step == 4 and run.curve("entropy")[-1] == (4, None) and run.recent[-1]["entropy"] is None
    assert "lr" not in run.training.keys


def test_a_runs_state_is_told_by_its_lock(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 5)
    now = BEGAN + 10_000
    assert followed(folder).state(now).words == "stopped at step 5"
    process = hold(folder)
    try:
        state = followed(folder).state(now)
        assert state.name == "running" and f"process {process.pid}" in state.words
        silent = folder / "metrics.jsonl"
        silent.rename(folder / "kept")
        assert followed(folder).state(now).name == "starting"
        (folder / "kept").rename(silent)
    finally:
        process.kill()
        process.communicate()
    assert followed(folder).state(now).name == "died"
    (folder / ".lock").unlink()
    make_run(tmp_path / "whole", 10, of=10)
    assert followed(tmp_path / "whole").state(now).name == "finished"
    make_run(tmp_path / "fresh", 3)
    (tmp_path / "fresh" / "provenance.json").write_text("{}")
    assert followed(tmp_path / "fresh").state(BEGAN + 20).name == "running"  # where there are no locks
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.yaml").write_text("run: [")
    assert followed(tmp_path / "bare").state(now).words == "stopped before its first step; damaged: config.yaml"


# ---------------------------------------------------------------- what is shown


def test_who_waits_is_shares_of_the_last_steps(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 30)
    add_timeline(folder, 30)
    bar = step_bar(followed(folder))
    assert bar is not None
    assert {share.name: round(share.share, 3) for share in bar.shares} == {
        "waiting for answers": 0.6,
        "waiting for verdicts": 0.05,
        "waiting for the learner": 0.25,
        "waiting for the weight push": 0.05,
        "other": 0.05,
    }
    recorded = end_of_timeline(folder / "timeline.json")
    assert recorded is not None
    bars = {one.title: {share.name: round(share.share, 3) for share in one.shares} for one in actor_bars(recorded, 20)}
    assert bars == {
        "samplers": {"sampling": 0.6, "idle": 0.4},
        "graders": {"grading": 0.05, "idle": 0.95},
        "learner": {"learning": 0.25, "idle": 0.75},
    }
    page = timeline(templates(), followed(folder), 3)
    assert "step 30" in page and "step 28" in page and "step 27" not in page and "rollout worker 1" in page


def test_the_end_of_a_long_timeline_names_all_its_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.watch.waits.TAIL", 3000)
    folder = make_run(tmp_path / "run", 200)
    add_timeline(folder, 200)
    recorded = end_of_timeline(folder / "timeline.json")
    assert recorded is not None and len(recorded.spans) == 5
    assert [step for step, *_ in recorded.steps][-2:] == [199, 200] and len(recorded.steps) < 20
    assert end_of_timeline(tmp_path / "absent") is None


def test_advisories_are_those_of_the_rules_and_silence_counts_only_while_it_runs(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 30, changes={"think_rate/all": 0.001})
    now = BEGAN + 100_000
    assert [one.name for one in warned(followed(folder), now)] == ["ModeCollapseToShort"]
    process = hold(folder)
    try:
        assert {one.name for one in warned(followed(folder), now)} == {"ModeCollapseToShort", "NoProgress"}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_every_advisory_is_shown_with_what_to_do(tmp_path: Path, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(rule.meaning) > 20 and len(rule.action) > 20
    for shown in ("views", "terminal"):
        monkeypatch.setattr(f"orchestrator.watch.{shown}.warned", lambda *of: [Advisory(rule, "words", 1)])
    run = followed(make_run(tmp_path / "run", 5))
    for among in (1, CARDS + 1):  # at length, and as rows
        page = unescape(overview(templates(), [run] * among, BEGAN))
        assert page.count("words") >= among and page.count(rule.action) >= among
    text = " ".join(" ".join(screen([run], BEGAN, 100, None)).split())
    assert f"{rule.severity.upper()}: words {rule.action}" in text


def test_answers_are_filtered_and_paired(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    lines = [answer(step, mode) for step in range(6) for mode in ("think", "short", None)[: 1 + step % 3]]
    write_lines(path, lines)
    found = Answers(path)
    found.refresh()
    assert (found.levels, found.outcomes, len(found.places)) == (["2", "7"], ["correct", "wrong"], 12)

    def steps(**wanted: object) -> list[list[int]]:
        return [[place.step for place in group] for group in found.find(Wanted(**wanted))]  # type: ignore[arg-type]

    assert steps()[:3] == [[5], [5], [5]] and len(steps()) == 12
    assert steps(mode="short") == [[5], [4], [2], [1]] and steps(mode="none") == [[5], [2]]
    assert steps(level="2", outcome="wrong") == [[4], [2]]
    assert steps(first_step=2, last_step=3) == [[3], [2], [2], [2]]
    pairs = found.find(Wanted(both_modes=True))
    assert [place.mode for place in pairs[0]] == ["think", "short", "none"] and len(pairs) == 4
    assert [record["mode"] for record in found.load(pairs[1])] == ["think", "short"]
    write_lines(path, [answer(9, "think")], "a")
    found.refresh()
    assert found.places[-1].step == 9 and len(found.places) == 13
    write_lines(path, lines[:1])
    found.refresh()
    assert [place.step for place in found.places] == [0]


def test_control_tokens_are_marked_where_they_fell() -> None:
    assert str(marked("<think>a<b</think>4", TOKENS)) == (
        '<mark class="think" title="control token: the answer is thinking">&lt;think&gt;</mark>a&lt;b'
        '<mark class="think" title="end of thinking after 53 % of the text">&lt;/think&gt;</mark>4'
    )
    stray = '<mark class="stray" title="a control token out of place">'
    assert str(marked("<short>4<think>", TOKENS)).count(stray) == 1
    assert str(marked("4<short></think>", TOKENS)).count(stray) == 2
    assert str(marked("<think>1</think>2</think>", TOKENS)).count(stray) == 1
    assert str(marked("<img src=x>", TOKENS)) == "&lt;img src=x&gt;"


def test_control_tokens_of_a_long_answer_are_marked_by_their_place_in_the_whole() -> None:
    said = str(marked("<think>" + "a" * 20000 + "</think>" + "b" * 380, TOKENS))
    assert "end of thinking after 98 % of the text" in said and "18,600 characters left out" in said
    assert len(said) < 3000


def test_the_terminal_shows_every_run_in_its_width_and_height(tmp_path: Path) -> None:
    make_run(tmp_path / "first", 30, changes={"think_rate/all": 0.001})
    make_run(tmp_path / "second\x1b[2J", 0)
    index = Index([tmp_path])
    index.refresh(None)
    lines = screen(index.runs, BEGAN + 100, 100, None)
    text = "\n".join(lines)
    for words in ("2 interrupted", "30/100", "+0.", "waiting for answers 60 %", "WARNING: Only 0.1 %", "no step has"):
        assert words in text, words
    assert all(len(line) <= 100 for line in lines) and "\x1b" not in text
    short = screen(index.runs, BEGAN + 100, 60, 8)
    assert len(short) == 8 and "more lines" in short[-1]


class Terminal:
    """A pseudo-terminal in which `thinkless watch --terminal` runs."""

    def __init__(self, root: Path, wide: int, high: int):
        self.end, inner = pty.openpty()
        self.before = termios.tcgetattr(inner)
        self.resize(wide, high)
        command = [sys.executable, "-m", "orchestrator", "watch", "--terminal", f"run.root={root}"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=inner,
            stdout=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.inner, self.written = inner, ""

    def resize(self, wide: int, high: int) -> None:
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", high, wide, 0, 0))

    def until(self, words: str, wide: int, high: int) -> list[str]:
        """The screen, as soon as the words are on it; it must fit."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([self.end], [], [], 0.1)[0]:
                self.written += os.read(self.end, 65536).decode()
            *_, screen = re.findall(r"\x1b\[H(.*?)\x1b\[J", self.written, re.DOTALL) or [""]
            lines = [re.sub(r"\x1b\[\d*[a-zA-Z]", "", line) for line in screen.replace("\r", "").split("\n")]
            if words in screen and max(map(len, lines)) <= wide:
                assert len(lines) <= high
                return lines
        raise AssertionError(f"{words!r} is not on the screen: {self.written[-2000:]}")


def test_the_terminal_follows_a_run_that_dies_fits_each_size_and_is_left_as_it_was(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "live", 40, changes={"think_rate/all": 0.001})
    process = hold(folder)
    terminal = Terminal(tmp_path, 80, 24)
    try:
        lines = terminal.until("live: running", 80, 24)
        assert len(lines) == 24 and "more lines" in lines[-1] and any("Compare the think rate" in one for one in lines)
    finally:
        process.kill()
        process.communicate()
    terminal.resize(120, 40)  # looked at again at once
    lines = terminal.until("live: died: no process holds its lock", 120, 40)
    assert len(lines) < 40 and max(map(len, lines)) > 80 and "Tokens/s" in lines[2]
    terminal.resize(40, 10)
    assert len(terminal.until("1 died", 40, 10)) == 10
    os.write(terminal.end, b"\x03")
    assert terminal.process.wait(60) == 0
    rest = os.read(terminal.end, 65536).decode()
    assert rest.endswith("\x1b[?25h\x1b[?1049l") and termios.tcgetattr(terminal.inner) == terminal.before
    os.close(terminal.end)
    os.close(terminal.inner)


# ---------------------------------------------------------------- the command and its server


def test_runs_that_are_not_there_and_words_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "first", 3)
    root = f"run.root={tmp_path / 'runs'}"
    assert folders(["first", root]) == [tmp_path / "runs" / "first"]
    assert folders([root]) == [tmp_path / "runs"] == folders([str(tmp_path / "runs")])
    with pytest.raises(BadInput, match=r"no run 'frist'.*runs there: first"):
        folders(["frist", root])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="is no run's folder and holds none"):
        folders([str(tmp_path / "empty")])
    with pytest.raises(BadInput, match="does not exist"):
        folders([f"run.root={tmp_path / 'absent'}"])
    with pytest.raises(BadConfig, match=r"takes runs and run.root"):
        folders(["run.rot=x"])


def test_a_sweeps_folder_stands_for_its_members(tmp_path: Path) -> None:
    found = SweepState(tmp_path / "seeds", "thinkless train --multirun ...", "validation_reward", True)
    for number in range(3):
        found.members[str(number)] = MemberState(number, f"seeds-{number}", [f"run.seed={number}"])
    make_run(tmp_path / "seeds-1", 3)
    make_run(tmp_path / "another", 3)
    (tmp_path / "seeds").mkdir()
    found.save()
    index = Index(folders([str(tmp_path / "seeds")]))
    index.refresh(None)
    assert [run.id for run in index.runs] == ["seeds-1"]
    make_run(tmp_path / "seeds-0", 3)  # begins later
    assert [path.name for path in runs_in(tmp_path / "seeds")] == ["seeds-0", "seeds-1"]


def test_a_taken_port_is_refused_with_one_that_is_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"^port {port} of 127.0.0.1 is taken; free: --port (\d+)$"):
            Server(Index([tmp_path]), "127.0.0.1", port)
        assert free_port("127.0.0.1", port) != port
        with pytest.raises(SystemExit) as ended:
            main(["watch", f"run.root={tmp_path}", "--port", str(port)])
        said = capsys.readouterr().err.splitlines()
        assert ended.value.code == 1 and len(said) == 1 and f"port {port} of 127.0.0.1 is taken" in said[0]
    with pytest.raises(BadInput, match=r"--port must be from 0 .* got 65536"):
        Server(Index([tmp_path]), "127.0.0.1", 65536)
    with pytest.raises(BadInput, match=r"cannot listen at 203\.0\.113\.9"):
        Server(Index([tmp_path]), "203.0.113.9", 0)


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("127.0.0.2", False), ("0.0.0.0", True)]
)
def test_what_others_could_read_is_said(tmp_path: Path, host: str, warned: bool) -> None:
    with Server(Index([tmp_path]), host, 0) as server:
        said = told(server, server.site.index)
    assert ("WARNING" in said and "no password" in said) is warned
    assert (f"ssh -L {server.server_port}:{host}:{server.server_port} " in said) is not warned
    assert server.knows("evil.example") is warned and server.knows("127.0.0.2") and server.knows("[::1]:80")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    evil = "<script>alert(1)</script>"
    folder = make_run(tmp_path / "first", 30)
    write_lines(folder / "samples.jsonl", [answer(1, "think", problem=evil, response=evil, level=evil, answer=evil)])
    make_run(tmp_path / "new", 0)
    with Server(Index([tmp_path]), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: Server, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(server.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_every_part_of_the_page_is_served_and_escaped(server: Server) -> None:
    runs = json.loads(get(server, "/api/runs")[1])
    assert {run["id"]: (run["state"], run["step"], run["steps"]) for run in runs["runs"]} == {
        "first": ("interrupted", 30, 100),
        "new": ("interrupted", 0, 100),
    }
    made = json.loads(get(server, "/api/charts?run=first")[1])
    assert {chart["section"] for chart in made["charts"]} == {"learning", "speed", "health"}
    both = json.loads(get(server, "/api/charts?run=first&run=new")[1])
    assert [len(chart["lines"]) for chart in both["charts"][:1]] == [2] and both["complete"]
    assert json.loads(get(server, "/api/charts")[1])["charts"][0]["lines"] == []
    assert "Of the last 20 steps’ time, 60 % went to waiting for answers" in get(server, "/api/overview?run=first")[1]
    assert "No step has been recorded yet" in get(server, "/api/overview?run=new")[1]
    page = get(server, "/api/answers?run=first")[1]
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "No answer fits" in get(server, "/api/answers?run=first&mode=short")[1]
    assert "no timeline yet" in get(server, "/api/timeline?run=first&steps=3")[1]
    assert json.loads(get(server, "/api/choices?run=first")[1])["count"] == 1
    for path in ("/", "/page.js", "/page.css", "/plotly.js"):
        assert get(server, path)[0] == 200
    assert "cdn" not in get(server, "/")[1] + get(server, "/page.js")[1]


def test_only_its_own_name_and_pages_are_answered(server: Server) -> None:
    assert get(server, "/", Host="evil.example")[0] == 404
    assert get(server, "/", Host=f"localhost:{server.server_port}")[0] == 200
    for path in ("/etc/passwd", "/../config.yaml", "/api/answers?run=absent", "/report?run=first"):
        assert get(server, path)[0] == 404, path
    assert get(server, "/api/timeline?run=first&steps=x")[0] == 400


def test_a_run_or_the_whole_folder_may_go_away(server: Server, tmp_path: Path) -> None:
    assert len(json.loads(get(server, "/api/runs")[1])["runs"]) == 2
    assert "1 answer" in get(server, "/api/answers?run=first")[1]
    shutil.rmtree(tmp_path / "first")
    for path in ("runs?", "overview?run=first", "charts?run=first", "timeline?run=first", "answers?run=first"):
        assert get(server, f"/api/{path}")[0] == 200, path  # it is still listed
    server.site.index._discovered = -1e9
    assert [run["id"] for run in json.loads(get(server, "/api/runs")[1])["runs"]] == ["new"]
    assert get(server, "/api/timeline?run=first") == (404, "there is no run first")


def test_the_options_have_the_documented_defaults() -> None:
    from orchestrator.commands.arguments import read

    options: Namespace = read("watch", ["a", "run.root=b", "--port", "9000"])
    assert (options.runs, options.port, options.host, options.terminal) == (
        ["a", "run.root=b"],
        9000,
        "127.0.0.1",
        False,
    )
