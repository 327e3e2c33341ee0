"""A served model: the chat template that takes a mode, the parser that divides an answer, and both in `vllm serve`."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest

from conf.schema import ModelConf
from orchestrator.base.errors import RunError
from orchestrator.chat.server import served
from orchestrator.chat.session import Session
from orchestrator.commands.cli import run
from orchestrator.training.work import export_model
from rollout.base.errors import BadInput
from rollout.base.network import free_ports
from rollout.data.chat_template import served_template
from rollout.data.tokens import load_tokenizer, save_tokenizer, templated
from rollout.mode import MODES, ControlTokens
from rollout.steering import store_dial
from tests.helpers.engines import MakeLearner
from tests.helpers.launched import THINKLESS

TURNS = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
PLAIN = TURNS + "{% if add_generation_prompt %}[a]{% endif %}"
OPENS = TURNS + "{% if add_generation_prompt %}[a]<think>\n{% endif %}"
CLOSES = TURNS + (
    "{% if add_generation_prompt %}[a]{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model, ModelConf())


@pytest.mark.parametrize("template", [PLAIN, OPENS, CLOSES], ids=["plain", "opens thinking", "closes thinking"])
@pytest.mark.parametrize(
    "asked, begun",
    [
        ({}, ""),
        ({"mode": "auto"}, ""),
        ({"mode": None}, ""),
        ({"mode": "think"}, "<think>"),
        ({"mode": "short"}, "<short>"),
        ({"enable_thinking": True}, "<think>"),
        ({"enable_thinking": False}, "<short>"),
        ({"mode": "short", "enable_thinking": True}, "<short>"),
    ],
    ids=str,
)
def test_a_client_chooses_the_mode_in_any_template(
    tokenizer: Any, tmp_path: Path, template: str, asked: dict[str, Any], begun: str
) -> None:
    """Whatever the template itself does with thinking; a saved template that is saved again stays the same."""
    tokenizer.chat_template = template
    for folder in ("once", "twice"):
        save_tokenizer(tokenizer, tmp_path / folder, ModelConf())
        tokenizer = load_tokenizer(tmp_path / folder, ModelConf())
        assert templated(tokenizer, "1+1?", **asked) == f"[user]1+1?[a]{begun}"
        history = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        assert tokenizer.apply_chat_template(history, tokenize=False, **asked) == "[user]q[assistant]a"


def test_an_unknown_mode_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = served_template(PLAIN, ModelConf())
    with pytest.raises(Exception, match="mode must be auto, think or short, got medium"):
        templated(tokenizer, "1+1?", mode="medium")


# ---------------------------------------------------------------- the parser


CASES = [  # mode asked for, the answer's tokens, reasoning, content
    (None, ["<think>", "a", "b", "</think>", "c"], "ab", "c"),
    (None, ["<short>", "a", "b"], None, "ab"),
    (None, ["a", "b"], None, "ab"),
    (None, ["<think>", "a", "b"], "ab", None),
    (None, ["<think>", "</think>", "c"], "", "c"),
    ("think", ["a", "b", "</think>", "c", "d"], "ab", "cd"),
    ("think", ["a", "b"], "ab", None),
    ("short", ["a", "b"], None, "ab"),
    ("short", ["a", "</think>", "b"], None, "a</think>b"),
]


def parsers(tokenizer: Any, mode: str | None) -> Any:
    from rollout.reasoning_parser import ThinklessParser

    return ThinklessParser(tokenizer, chat_template_kwargs={} if mode is None else {"mode": mode})


def streamed(tokenizer: Any, mode: str | None, tokens: Sequence[str], size: int) -> tuple[str, str]:
    """(reasoning, content) of what a client receives in deltas of `size` tokens, as vLLM's server puts it together."""
    from vllm.parser.abstract_parser import DelegatingParser

    class Served(DelegatingParser):
        reasoning_parser_cls = type(parsers(tokenizer, mode))

    class Request:
        tools = None
        messages: list[Any] = []
        tool_choice = "none"
        include_reasoning = True

    parser = Served(tokenizer, chat_template_kwargs={} if mode is None else {"mode": mode})
    given = [] if mode is None else tokenizer.encode(f"<{mode}>", add_special_tokens=False)
    prompt = [*tokenizer.encode("q</think>", add_special_tokens=False), *tokenizer.encode("?"), *given]
    found = ["", ""]
    for first in range(0, len(tokens), size):
        part = tokens[first : first + size]
        ids = [one for token in part for one in tokenizer.encode(token, add_special_tokens=False)]
        delta = parser.parse_delta("".join(part), ids, Request(), prompt, finished=first + size >= len(tokens))
        if delta is not None:
            found[0] += delta.reasoning or ""
            found[1] += delta.content or ""
    return found[0], found[1]


@pytest.mark.parametrize("mode, tokens, reasoning, content", CASES)
def test_an_answer_is_divided_whole_or_streamed(
    tokenizer: Any, mode: str | None, tokens: list[str], reasoning: str | None, content: str | None
) -> None:
    parser = parsers(tokenizer, mode)
    assert parser.extract_reasoning("".join(tokens), None) == (reasoning, content)
    ids = [one for token in tokens for one in tokenizer.encode(token, add_special_tokens=False)]
    assert parser.count_reasoning_tokens(ids) == len(reasoning or "")
    for size in (1, 2, 5):
        assert streamed(tokenizer, mode, tokens, size) == (reasoning or "", content or "")


# ---------------------------------------------------------------- vllm serve


@pytest.fixture(scope="module")
def server(
    tiny_model: Path, control: ControlTokens, make_learner: MakeLearner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The base URL of a real server of the tiny model, exported as a run does at its end and started as `thinkless
    chat` does; with a stored dial it always thinks."""
    model = tmp_path_factory.mktemp("served") / "model"
    export_model(make_learner(tiny_model), load_tokenizer(tiny_model, ModelConf()), ModelConf(), model)
    store_dial(model, control, 20.0)
    config = {"rollout": {"max_model_len": 256, "device": "cpu", "kv_cache_gib": 0.25}, "model": {"dtype": "float32"}}
    with served(model, config) as url:
        yield url


@pytest.mark.heavy
def test_a_client_of_vllm_serve_switches_modes_and_turns_the_dial(server: str, control: ControlTokens) -> None:
    """The official client, in all modes, whole and streamed; a bias on a control token's logit is the dial."""
    client = openai.OpenAI(base_url=server, api_key="none", max_retries=0, timeout=300)

    def ask(
        bias: dict[str, int] | None = None, stream: bool = False, seed: int = 1, budget: int | None = None, **asked: Any
    ) -> tuple[str | None, str | None]:
        more = {"chat_template_kwargs": asked} | ({} if budget is None else {"thinking_token_budget": budget})
        found: Any = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "1+1="}], max_tokens=12, seed=seed, stream=stream,
            logit_bias={**(bias or {}), str(control.eos): -100}, extra_body=more,
        )  # fmt: skip
        if not stream:
            message = found.choices[0].message.model_dump()
            return message.get("reasoning"), message["content"]
        deltas = [chunk.choices[0].delta.model_dump() for chunk in found if chunk.choices]
        parts = [[one.get(key) for one in deltas if one.get(key)] for key in ("reasoning", "content")]
        return "".join(parts[0]) or None, "".join(parts[1]) or None

    (name,) = [one.id for one in client.models.list().data]
    never = {str(control.think_end): -100}
    for stream in (False, True):
        for thinking in ({"mode": "think"}, {"enable_thinking": True}):
            reasoning, content = ask(never, stream, **thinking)
            assert reasoning and not content
        for short in ({"mode": "short"}, {"enable_thinking": False}):
            reasoning, content = ask(None, stream, **short)
            assert not reasoning and content and content.count("<think>") < 6
        _, content = ask({str(control.think): 100, **never}, stream, mode="auto")
        assert not content
        reasoning, content = ask({str(control.short): 100}, stream)
        assert not reasoning and content is not None and not content.startswith("<think>")
        for seed in range(4):  # the stored dial, on the first token alone
            reasoning, content = ask(never, stream, seed=seed)
            assert reasoning and not content and reasoning.count("<think>") < 6
        reasoning, content = ask(None, stream, mode="think", budget=3)
        assert reasoning is not None and len(reasoning) <= 3 and content
    with pytest.raises(openai.BadRequestError, match="mode must be auto, think or short, got medium"):
        ask(mode="medium")


def said(url: str, *lines: str) -> list[str]:
    """What a person who types these lines reads."""
    out = io.StringIO()
    Session.at(url, out, max_tokens=6).run(lines)
    return out.getvalue().splitlines()


@pytest.mark.heavy
def test_a_person_switches_modes_and_turns_the_dial(server: str, control: ControlTokens) -> None:
    assert Session.at(server, io.StringIO()).modes == MODES
    typed = said(server, "", "/mode short", "1+1=", "/mode think", "1+1=", "/dial 3", "/mode auto", "/quit", "1+1=")
    stats = [line for line in typed if line.startswith("[")]
    assert re.fullmatch(r"\[short, [1-6] tokens, [0-9.]+ s\]", stats[0]) and stats[1].startswith("[think, ")
    assert len(stats) == 2 and typed[0] == "mode: short" and "dial: +3 (mode think: not used)" in typed
    always, never = (said(server, f"/dial {dial}", *["1+1="] * 4) for dial in (100, -100))
    for lines, mode in ((always, "think"), (never, "short")):  # on the first token: none of the others is a mode's
        assert [line.partition(",")[0] for line in lines if line.startswith("[")] == [f"[{mode}"] * 4
        assert "".join(lines).count(f"<{mode}>") < 6
    brief = said(server, "/mode think", "/budget 2", "1+1=", "/budget none", "/budget -3")
    thought, answer = brief[brief.index("budget: 2 tokens of thinking") + 1 :][:2]  # reasoning, then the answer's line
    assert len(thought) <= 2 and answer and not answer.startswith("[")
    assert brief[-2:] == ["budget: none", "/budget takes a number of tokens, or none, got '-3'"]
    wrong = said(server, "/mode long", "/dial x", "/dial 1000", "/what")
    assert (
        wrong[0] == "/mode takes auto, think, short, got 'long'" and "/dial takes a number from -100 to 100" in wrong[1]
    )
    assert "got '1000'" in wrong[2] and "/help, /quit" in wrong


@pytest.mark.heavy
def test_the_command_asks_what_comes_through_a_pipe(server: str) -> None:
    words = [THINKLESS, "chat", "--url", server, "--budget", "2", "--max-tokens", "6"]
    done = subprocess.run(words, input="1+1=\n/mode short\n1+1=\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and re.findall(r"^\[(\w+), [1-6] tokens, ", done.stdout, re.M) == ["think", "short"]
    for wrong, said in ((("--budget", "-3"), "--budget=-3 must be"), (("--dial", "900"), "--dial=900 is beyond")):
        with pytest.raises(BadInput, match=said):
            run("chat", ["--url", server, *wrong])


def test_a_server_that_is_not_there_or_ends_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    with pytest.raises(BadInput, match="no OpenAI-compatible server answers there"):
        Session.at(f"http://127.0.0.1:{port}/v1", io.StringIO())
    fails = shlex.join([sys.executable, "-c", "raise ValueError('no such model')"])
    monkeypatch.setattr("orchestrator.chat.server.serve_command", lambda model, config: fails)
    with (
        pytest.raises(RunError, match=r"the server ended \(exit code 1\): ValueError: no such model"),
        served(tmp_path, {}),
    ):
        pytest.fail("nothing is served")
