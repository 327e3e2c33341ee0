"""The live page in a real Chromium: charts, a run that dies while it is watched, answers, light and dark, a phone's
width, the keyboard; no error in the console, no request to anywhere else."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.programs import program
from tests.helpers.watched import ROOT, add_timeline, answer, hold, make_run, record, write_lines

EVIL = '<img src="http://192.0.2.1/x" onerror="document.title=1"><script>document.title=1</script>'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched") / "runs"
    live = make_run(root / "live", 40, changes={"think_rate/all": 0.001})
    add_timeline(live, 40)
    lines = [answer(step, "think" if step % 3 else "short") for step in range(1, 41)]
    lines += [answer(41, mode, uid="sum/both", problem=EVIL, level=EVIL) for mode in ("short", "think")]
    write_lines(live / "samples.jsonl", lines)
    make_run(root / "done", 60, of=60)
    make_run(root / "new", 0)
    return root


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "orchestrator", "watch", f"run.root={runs}", "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
    assert found
    yield found[0]
    server.send_signal(signal.SIGINT)
    assert "stopped watching" in server.communicate(timeout=60)[0] and server.returncode == 0


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(program("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """`page(runs, width, dark)` opens it; at the end, nothing must have gone wrong and nothing been asked elsewhere."""

    def opened(chosen: str = "live", width: int = 1280, dark: bool = False) -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.get("about:blank")
        browser.get_log("performance")  # of Chromium's own first page
        browser.get(f"{address}/#runs={chosen}")
        wait(browser, "return document.querySelector('#learning .js-plotly-plot .trace') && Plotly.version")
        wait(browser, "return document.querySelector('#answers-body').innerText")  # they come last
        return browser

    yield opened
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((address, "data:", "about:", "blob:")) for url in asked), asked


def wait(browser: Any, script: str) -> Any:
    """What the script returns as soon as it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(script))


def text(browser: Any, selector: str) -> str:
    found: str = browser.execute_script("return document.querySelector(arguments[0]).innerText", selector)
    return " ".join(found.split())


def test_a_run_is_drawn_and_dies_while_it_is_watched(page: Callable[..., Any], runs: Path) -> None:
    process = hold(runs / "live")
    try:
        browser = page("live")
        wait(browser, "return document.querySelector('[data-run=live]').classList.contains('running')")
        overview = text(browser, "#overview")
        assert "step 40 of 100" in overview and "waiting for answers 60 %" in overview
        assert "Only 0.1 % of the answers think" in overview
        assert "rollout worker 1" in text(browser, "#timeline-body")
        newest = "return document.querySelector('[data-chart=\"learning/Reward\"] .keys').innerText"
        wait(browser, f"{newest}.includes('0.4')")
        write_lines(runs / "live" / "metrics.jsonl", [record(41, **{"reward/mean": 0.97})], "a")
        wait(browser, "return document.querySelector('#overview').innerText.includes('step 41 of 100')")
        wait(browser, f"{newest}.includes('0.97')")
    finally:
        process.kill()
        process.communicate()
    wait(browser, "return document.querySelector('[data-run=live]').classList.contains('died')")
    wait(browser, "return document.querySelector('#said').textContent.includes('live died: no process holds')")
    assert "DIED" in text(browser, "#overview").upper()


def test_runs_side_by_side_have_a_colour_each(page: Callable[..., Any]) -> None:
    browser = page("live,done")
    assert text(browser, "#title") == "2 runs side by side"
    swatches = browser.find_elements("css selector", '[data-chart="learning/Think rate"] .keys i')
    assert len({one.value_of_css_property("background-color") for one in swatches}) == 2
    browser.find_element("css selector", "[data-run=new] input").click()
    wait(browser, "return document.querySelector('#title').textContent === '3 runs side by side'")
    wait(browser, "return document.querySelector('#overview').innerText.includes('No step has been recorded yet')")
    browser.find_element("css selector", "[data-choose=all]").click()
    browser.find_element("css selector", "[data-run=live] input").click()
    wait(browser, "return document.querySelector('#title').textContent === '2 runs side by side'")
    wait(browser, "return !document.querySelector('#overview').innerText.includes('Only 0.1 %')")


def test_many_lines_of_one_colour_are_drawn_as_one_with_a_gap_between_them(page: Callable[..., Any]) -> None:
    browser = page("live,done")
    line = {"name": "a", "color": "--r0", "x": [1, 2], "y": [3, None]}
    lines = [line, line | {"name": "b", "color": "--r1"}, line | {"name": "c", "x": [5], "y": [6]}]
    drawn = browser.execute_script("return [...joined({ lines: arguments[0], markers: false })]", lines)
    first = {"color": "--r0", "x": [1, 2, None, 5, None], "y": [3, None, None, 6, None]}
    second = {"color": "--r1", "x": [1, 2, None], "y": [3, None, None]}
    assert drawn == [first | {"text": ["a", "a", "", "c", ""]}, second | {"text": ["b", "b", ""]}]


def test_a_run_that_is_deleted_is_said_to_be_gone_and_not_the_connection(
    page: Callable[..., Any], runs: Path, address: str
) -> None:
    make_run(runs / "leaves", 3)
    while b"leaves" not in urllib.request.urlopen(f"{address}/api/runs").read():
        time.sleep(0.1)
    browser = page("%E0%A4%A,leaves")  # no UTF-8
    assert text(browser, "#notice") == "“#runs=%E0%A4%A,leaves” in the address names no runs and is ignored"
    browser.execute_script("location.hash = '#runs=leaves,absent'")
    wait(browser, "return document.querySelector('#title').textContent === 'leaves'")
    assert text(browser, "#notice") == "There is no run absent"
    shutil.rmtree(runs / "leaves")
    wait(browser, "return document.querySelector('#notice').textContent.startsWith('leaves is gone')")
    assert text(browser, "#title") == "No run is chosen" and text(browser, "#live") == "0 running"
    assert text(browser, "main").endswith("Choose a run to see it here.") and "leaves" not in text(browser, "#runs")
    browser.find_element("css selector", "[data-run=done] input").click()
    wait(browser, "return document.querySelector('#title').textContent === 'done'")
    assert browser.execute_script("return document.querySelector('#notice').hidden")
    browser.execute_script("window.kept = fetch; fetch = async () => { throw new TypeError('no answer'); }; refresh()")
    wait(browser, "return document.querySelector('#live').textContent.startsWith('no connection')")
    browser.execute_script("fetch = window.kept; refresh()")
    wait(browser, "return document.querySelector('#said').textContent === 'Connected again'")


def test_answers_are_filtered_paired_and_never_run(page: Callable[..., Any]) -> None:
    browser = page("live")
    wait(browser, "return document.querySelectorAll('#answers-body .sample').length === 12")
    assert text(browser, "#answers-body .found").startswith("42 answers of 42")
    assert EVIL in text(browser, "#answers-body") and "Thinkless" in browser.title
    browser.execute_script("document.querySelector('#answers select[name=mode]').focus()")
    browser.find_element("css selector", "#answers option[value=short]").click()
    wait(browser, "return document.querySelector('#answers-body .found').innerText.startsWith('14 answers')")
    assert browser.execute_script("return document.querySelectorAll('#answers-body .sample:not(.short)').length") == 0
    browser.find_element("css selector", "#answers input[name=both]").click()
    wait(browser, "return document.querySelector('#answers-body .found').innerText.startsWith('1 question')")
    modes = "return [...document.querySelectorAll('#answers-body .pair .sample')].map(one => one.className)"
    assert browser.execute_script(modes) == ["sample think", "sample short"]
    marks = "return [...document.querySelectorAll('#answers-body .sample mark')].map(mark => mark.textContent)"
    assert browser.execute_script(marks) == ["<think>", "</think>", "<short>"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_its_width_in_light_and_dark(page: Callable[..., Any], width: int, dark: bool) -> None:
    browser = page("live", width, dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    ink = "return document.querySelector('#learning .xtick text').style.fill"
    light = browser.execute_script(ink) == "rgb(95, 101, 111)"
    assert light is not dark


def test_the_keyboard_and_a_screen_reader_reach_everything(page: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = page("live")
    seen: list[str] = []
    reached = "const e = document.activeElement; return e === document.body ? '' : "
    while not seen or seen[-1]:
        browser.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(browser.execute_script(f"{reached} e.id || e.name || e.textContent || e.value"))
        style = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none" or not seen[-1], seen[-1]
        assert len(seen) < 200
    assert seen[:5] == ["Skip to the charts", "pause", "All", "Running", "Newest"]
    assert seen[8:14] == ["Overview", "Learning", "Speed", "Timeline", "Answers", "Health"]
    last = ["timeline-run", "timeline-steps", "timeline-body", "answers-run", "level", "mode", "outcome", "from", "to"]
    assert [one for one in seen if one in {*last, "both", "Reset", "older →"}] == [*last, "both", "Reset", "older →"]
    assert browser.execute_script("return document.querySelectorAll('.charts summary').length") == seen.count(
        "Last values"
    )
    browser.execute_script("document.querySelector('.pages button:not(:disabled)').focus()")
    for found in ("page 2 of 4", "page 3 of 4", "page 4 of 4"):  # the focus stays, though the buttons are drawn anew
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        wait(browser, f"return document.querySelector('#said').textContent === '{found}'")
    assert browser.switch_to.active_element.text == "← newer"
    unsaid = """return [...document.querySelectorAll("#learning .plot, #timeline svg, #overview .track")]
        .map(e => e.getAttribute("aria-label")).filter(label => !/: .*[0-9]/.test(label))"""
    assert browser.execute_script(unsaid) == []
    calm = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    moving = "return getComputedStyle(document.querySelector('#dot')).animationName"
    assert browser.execute_script(moving) == "pulse"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", calm)
    assert browser.execute_script(moving) == "none"
    unnamed = """return [...document.querySelectorAll("button, input, select, a, [role=img]")].filter(e =>
        !e.hidden && !e.closest("[hidden]") && !(e.labels && e.labels.length) && !e.textContent.trim()
        && !e.getAttribute("aria-label") && !e.closest(".plot svg")).map(e => e.outerHTML.slice(0, 80))"""
    assert browser.execute_script(unnamed) == []
    heads = browser.execute_script("return [...document.querySelectorAll('main h1, main h2')].map(e => e.textContent)")
    assert heads == ["live", "Overview", "Learning", "Speed", "Timeline", "Answers", "Health"]
    browser.execute_script("document.querySelector('#learning details').open = true")
    wait(browser, "return document.querySelectorAll('#learning details tbody tr').length === 2")
