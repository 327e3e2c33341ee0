"""Questions and answers on a terminal, or through pipes: one line in, one answer out.

In: lines, an OpenAI-compatible server of an exported model. Out: reasoning and answer as they come, then mode, tokens
and seconds. Must not know: who started the server.

A line that begins with / is a command. Every question is asked by itself, as in training: nothing that was said before
is sent along. The dial is a bias on the logits of the modes that think, each by its effort (docs/evaluate.md). It must
act on the first token alone, and a `logit_bias` acts on all of them: so the first token is asked for by itself, and
then the answer in the mode that it names. Which modes there are the server says: its chat template refuses any other
by naming them.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TextIO

import openai

from orchestrator.base.errors import RunError
from rollout.base.errors import BadInput
from rollout.mode import MODES, Mode, modes_of
from rollout.steering import LIMIT

HELP = """/mode auto|think|short   who chooses the mode: the model, or you (or one between, if the model has more)
/dial <number>           bias on the think token's logit while the mode is auto; 0: none, more: it thinks more
/budget <tokens>|none    thinking that takes more is closed, and the answer follows
/help, /quit"""
REFUSAL = re.compile(r"mode must be auto, (.+?) or short, got")  # of `rollout.data.chat_template`
DIM, PLAIN = "\033[2m", "\033[0m"


@dataclass
class Session:
    client: openai.OpenAI
    model: str
    out: TextIO
    mode: str = "auto"
    dial: float = 0.0
    budget: int | None = None
    temperature: float = 1.0
    max_tokens: int = 2048
    colors: bool = False

    @classmethod
    def at(cls, url: str, out: TextIO, **settings: Any) -> Session:
        """With the one model that is served there. Raises BadInput: nobody answers, there are several, or it has no
        such mode."""
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
        try:
            served = [one.id for one in client.models.list().data]
        except openai.OpenAIError as error:
            raise BadInput(f"{url}: no OpenAI-compatible server answers there ({error})") from error
        if len(served) != 1:
            raise BadInput(f"{url} serves {', '.join(served) or 'no model'}: one is needed")
        found = cls(client, served[0], out, colors=out.isatty(), **settings)
        if found.mode != "auto" and found.mode not in found.choices:
            raise BadInput(f"--mode {found.mode}: {served[0]} takes {', '.join(found.choices)}")
        return found

    def run(self, lines: Iterable[str]) -> None:
        """Until the lines end, or /quit."""
        for line in lines:
            words = line.split()
            if not words:
                continue
            if words[0] == "/quit":
                return
            if words[0].startswith("/"):
                self._command(words)
            else:
                self._ask(line.strip())

    def _command(self, words: list[str]) -> None:
        name, value = words[0], words[1] if len(words) == 2 else ""
        if name == "/mode" and value in self.choices:
            self.mode = value
            self._print(f"mode: {value}")
        elif name == "/dial" and _is_number(value) and abs(float(value)) <= LIMIT:
            self.dial = float(value)
            self._print(f"dial: {self.dial:+g}" + ("" if self.mode == "auto" else f" (mode {self.mode}: not used)"))
        elif name == "/dial":
            self._print(f"/dial takes a number from {-LIMIT:g} to {LIMIT:g}, got {' '.join(words[1:])!r}")
        elif name == "/budget" and (value == "none" or value.isdecimal()):
            self.budget = None if value == "none" else int(value)
            self._print(f"budget: {'none' if self.budget is None else f'{self.budget} tokens of thinking'}")
        elif name == "/budget":
            self._print(f"/budget takes a number of tokens, or none, got {' '.join(words[1:])!r}")
        elif name == "/mode":
            self._print(f"/mode takes {', '.join(self.choices)}, got {' '.join(words[1:])!r}")
        else:
            self._print(HELP)

    def _ask(self, question: str) -> None:
        begin, thinks, answered, tokens = time.monotonic(), False, False, 0
        try:
            dialed = bool(self.dial) and self.mode == "auto"
            chosen = self._chosen(question) if dialed else None
            stream: Any = self._create(
                question,
                chosen.name if chosen else self.mode,
                self.max_tokens - (chosen is not None),
                stream=True,
                stream_options={"include_usage": True},
                **({"logit_bias": self._bias()} if dialed and chosen is None else {}),  # it begins with another token
            )
            for chunk in stream:
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                delta = chunk.choices[0].delta.model_dump() if chunk.choices else {}
                if reasoning := delta.get("reasoning") or delta.get("reasoning_content"):
                    self._write(f"{DIM}{reasoning}{PLAIN}" if self.colors else reasoning)
                    thinks = True
                if content := delta.get("content"):
                    self._write(content if answered or not thinks else f"\n{content.lstrip()}")
                    answered = True
        except openai.OpenAIError as error:
            raise RunError(f"the server gave no answer ({error})") from error
        some = "think" if len(self.modes) == 2 else "thinks"  # the control token itself is not in the answer
        mode = chosen.name if chosen else self.mode if self.mode != "auto" else some if thinks else "short"
        self._print(f"\n[{mode}, {tokens + (chosen is not None)} tokens, {time.monotonic() - begin:.1f} s]")

    def _create(
        self, question: str, mode: str, max_tokens: int, extra: Mapping[str, Any] | None = None, **more: Any
    ) -> Any:
        return self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": question}],
            max_tokens=max_tokens,
            temperature=self.temperature,
            extra_body={"chat_template_kwargs": {"mode": mode}, **self._budget(), **(extra or {})},
            **more,
        )

    def _chosen(self, question: str) -> Mode | None:
        """The mode of one answer under the dial; None: its first token is no control token."""
        found = self._create(question, "auto", 1, {"return_token_ids": True}, logit_bias=self._bias())
        ids = found.choices[0].model_dump().get("token_ids")
        if not ids:
            raise RunError(f"{self.client.base_url}: the dial needs vLLM's return_token_ids, which gave nothing")
        return next((mode for mode, one in self._ids.items() if one == ids[0]), None)

    def _budget(self) -> dict[str, int]:
        return {} if self.budget is None else {"thinking_token_budget": self.budget}

    def _bias(self) -> dict[str, float]:
        return {str(one): mode.effort * self.dial for mode, one in self._ids.items() if mode.thinks}

    @cached_property
    def _ids(self) -> dict[Mode, int]:
        """Of the control tokens."""
        return {mode: self._id(mode) for mode in self.modes}

    @cached_property
    def modes(self) -> tuple[Mode, ...]:
        """In order. A server of an older export, or of another model, has two."""
        try:
            self._tokenized("?")
        except urllib.error.HTTPError as error:
            if found := REFUSAL.search(error.read().decode(errors="replace")):
                return modes_of(["short", *reversed(found[1].split(", "))])
        except (OSError, ValueError, KeyError):
            pass
        return MODES

    @property
    def choices(self) -> tuple[str, ...]:
        return ("auto", *(mode.name for mode in reversed(self.modes)))

    def _id(self, mode: Mode) -> int:
        """Of its control token: the last one of a prompt that asks for the mode. Asks vLLM's own /tokenize."""
        try:
            return self._tokenized(mode.name)[-1]
        except (OSError, ValueError, KeyError, IndexError) as error:
            where = str(self.client.base_url)
            raise RunError(f"{where}: the dial needs vLLM's /tokenize, which does not answer ({error})") from error

    def _tokenized(self, mode: str) -> list[int]:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "?"}],
            "chat_template_kwargs": {"mode": mode},
        }
        address = f"{str(self.client.base_url).rstrip('/').removesuffix('/v1')}/tokenize"
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return [int(one) for one in json.load(answer)["tokens"]]

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    def _print(self, text: str) -> None:
        self._write(f"{text}\n")


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
