"""A teacher behind an OpenAI-compatible API: many requests under way at a time, retried until they are answered.

In: what is asked; the endpoint's settings. Out: each answer as soon as it is there. Must not know: how answers are
read, graded and kept.

A request that is limited (429), failed (5xx), dropped or timed out is made again after the time that Retry-After says,
else after distill.backoff_s, doubled each time. After a 429 no other request to that endpoint begins before that time.
One that fails more often than distill.retries ends everything, unless others were answered meanwhile: then it is left
for the next time. A request that is refused for what it contains (400, 413, 422) counts as an answer that is unfit.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

import openai

from conf.distill import TeacherConf
from conf.masking import remember
from orchestrator.base.errors import RunError
from orchestrator.distill.answers import Answer, Ask
from rollout.base.errors import BadInput, in_one_line
from rollout.request import derive_seed

LONGEST_WAIT_S = 600.0  # whatever an endpoint or doubling says
FIRST_RETRIES = 3  # at most, of the request that asks for the models: whoever waits has just started
MANY_REJECTED = 5  # requests that an endpoint refused, and none answered: the settings are wrong, not the questions
REJECTED = (400, 413, 422)
Take = Callable[[Answer], None]
T = TypeVar("T")


class _GivenUp(Exception):
    """A request failed once more than distill.retries."""


class Endpoint:
    """One teacher. `failures`: how often what went wrong; `left_out`: requests that were given up."""

    def __init__(
        self, conf: TeacherConf, key: str, retries: int, backoff_s: float, seed: int = 0, logprobs: bool = False
    ):
        """key: of its section in messages, e.g. "distill.think"; logprobs: ask for those of the answers, too.

        Raises BadInput where the environment lacks its key.
        """
        assert conf.endpoint is not None
        self.conf, self.key, self.retries, self.backoff_s = conf, key, retries, backoff_s
        self.seed, self.logprobs = seed, logprobs
        self.name = conf.name or ""  # `resolve` sets it where it is not given
        self.failures: Counter[str] = Counter()
        self.answered = 0
        self.left_out = 0
        self._not_before = 0.0  # of time.monotonic(): a limit for all requests
        self._rejected: list[Answer] = []  # until the first answer shows that not all are
        self._secret = "none"
        if conf.key_env is not None:
            self._secret = os.environ.get(conf.key_env, "")
            if not self._secret:
                raise BadInput(f"{key}.key_env={conf.key_env}: this environment variable holds no key; set it")
            remember(self._secret)

    def resolve(self) -> str:
        """The model's name, checked with the endpoint where that lists its models.

        Raises BadInput: unreachable, the key refused, the model unknown or not the only one.
        """
        try:
            listed = asyncio.run(self._list())
        except _GivenUp as error:
            raise BadInput(
                f"{self._where()}: cannot be reached ({error}); is the server up, and the URL right?"
            ) from error
        if listed is None:  # it does not tell
            if not self.name:
                raise BadInput(f"{self._where()}: it does not list its models: give {self.key}.name=<model>")
        elif not self.name and len(listed) == 1:
            self.name = listed[0]
        elif self.name not in listed:
            near = get_close_matches(self.name, listed, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            known = ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
            said = f"no model {self.name!r}" if self.name else f"it has {len(listed)} models, choose {self.key}.name"
            raise BadInput(f"{self._where()}: {said} (there are: {known or 'none'}){hint}")
        return self.name

    async def answer(self, asks: Sequence[Ask], take: Take) -> None:
        """Ask everything; `take` is called with each answer, in the order in which they come."""
        rest = iter(asks)
        async with self._client() as client, asyncio.TaskGroup() as group:
            for _ in range(min(self.conf.concurrency, len(asks))):
                group.create_task(self._worker(client, rest, take))
        if self._rejected and not self.answered:
            raise self._all_rejected()

    # ------------------------------------------------------------------ one request

    async def _worker(self, client: openai.AsyncOpenAI, asks: Iterator[Ask], take: Take) -> None:
        for ask in asks:
            before = self.answered
            try:
                found = await self._until_answered(partial(self._ask, client, ask), self.retries)
            except _GivenUp as error:
                self.left_out += 1
                if self.answered == before:
                    raise RunError(
                        f"{self._where()}: {error}; failures so far: {self.told()}; every answer that is there is "
                        "kept, and the same command goes on from there"
                    ) from error
                continue
            if found.finish == "rejected" and not self.answered:
                self._rejected.append(found)
                if len(self._rejected) >= MANY_REJECTED:
                    raise self._all_rejected()
                continue
            self.answered += found.finish != "rejected"
            for one in (*self._rejected, found):
                take(one)
            self._rejected.clear()

    async def _ask(self, client: openai.AsyncOpenAI, ask: Ask) -> Answer:
        conf, uid = self.conf, ask.problem.uid
        text = conf.asked(ask.problem.problem)
        more: dict[str, Any] = {"logprobs": True} if self.logprobs else {}
        if conf.thinking is not None:
            more["extra_body"] = {"chat_template_kwargs": {"enable_thinking": conf.thinking}}
        try:
            reply: Any = await client.chat.completions.create(
                model=self.name,
                messages=[{"role": "user", "content": text}],
                temperature=conf.temperature,
                top_p=conf.top_p,
                max_tokens=conf.max_tokens,
                seed=derive_seed(self.seed, f"{uid}/{ask.side}", ask.sample, 0) >> 32,  # 31 bits: all servers take them
                **more,
            )
        except openai.APIStatusError as error:
            if error.status_code in REJECTED:
                return Answer(uid, ask.side, ask.sample, _said(error), None, "rejected", None, None)
            raise
        choices = getattr(reply, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _Malformed("an answer without choices")
        message, finish = choices[0].message, choices[0].finish_reason
        reasoning = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        usage, listed = getattr(reply, "usage", None), getattr(choices[0].logprobs, "content", None)
        return Answer(
            uid=uid,
            side=ask.side,
            sample=ask.sample,
            text=message.content or "",
            reasoning=reasoning if isinstance(reasoning, str) else None,
            finish={"length": "length", "content_filter": "rejected"}.get(str(finish), "stop"),
            tokens=getattr(usage, "completion_tokens", None),
            logprob=sum(one.logprob for one in listed) / len(listed) if listed else None,
        )

    async def _until_answered(self, request: Callable[[], Awaitable[T]], retries: int) -> T:
        tried = 0
        while True:
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait * (1 + random.random() / 10))  # not all at the same moment
            try:
                return await request()
            except (openai.APIError, _Malformed, ValueError) as error:
                kind, wait_s = self._failed(error)
                self.failures[kind] += 1
                tried += 1
                if tried > retries:
                    raise _GivenUp(f"a request failed {tried} times, at last: {in_one_line(error, 200)}") from error
            if wait_s is None:
                wait_s = self.backoff_s * 2 ** (tried - 1) * (0.5 + random.random() / 2)
            wait_s = min(wait_s, LONGEST_WAIT_S)
            if kind == "429":
                self._not_before = max(self._not_before, time.monotonic() + wait_s)
            await asyncio.sleep(wait_s)

    def _failed(self, error: Exception) -> tuple[str, float | None]:
        """(what went wrong, seconds that the endpoint asks to wait). Raises BadInput for what no retry mends."""
        if isinstance(error, openai.APITimeoutError):
            return "timed out", None
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status == 429 and getattr(error, "code", None) == "insufficient_quota":
                raise BadInput(f"{self._where()}: the quota of its key is used up ({_said(error)})") from error
            if status in (408, 409, 429) or status >= 500:
                return str(status), retry_after(error.response.headers)
            if status in (401, 403):
                sent = f"the key in {self.conf.key_env}" if self.conf.key_env else f"no key; give {self.key}.key_env"
                raise BadInput(
                    f"{self._where()}: access refused (HTTP {status}, {_said(error)}), with {sent}"
                ) from error
            raise BadInput(f"{self._where()}: HTTP {status} for model {self.name!r} ({_said(error)})") from error
        if isinstance(error, openai.APIConnectionError):
            return "dropped", None
        return "malformed", None

    # ------------------------------------------------------------------ the rest

    @contextlib.asynccontextmanager
    async def _client(self) -> Any:
        client = openai.AsyncOpenAI(
            base_url=self.conf.endpoint,
            api_key=self._secret,
            max_retries=0,
            timeout=openai.Timeout(self.conf.timeout_s, connect=min(30.0, self.conf.timeout_s)),
        )
        try:
            yield client
        finally:
            await client.close()

    async def _list(self) -> list[str] | None:
        async def models(client: openai.AsyncOpenAI) -> list[str] | None:
            try:
                return sorted([model.id async for model in client.models.list()])
            except (openai.NotFoundError, AttributeError):
                return None
            except openai.APIStatusError as error:
                if error.status_code in (405, *REJECTED):
                    return None
                raise

        async with self._client() as client:
            return await self._until_answered(lambda: models(client), min(self.retries, FIRST_RETRIES))

    def _all_rejected(self) -> BadInput:
        return BadInput(f"{self._where()}: every request is refused ({self._rejected[-1].text[:300]})")

    def _where(self) -> str:
        return f"{self.key}.endpoint={self.conf.endpoint}"

    def told(self) -> str:
        """What failed, and how often. Example: "429: 12, dropped: 3"."""
        return ", ".join(f"{kind}: {count}" for kind, count in sorted(self.failures.items()))

    def summary(self) -> str:
        """One line about requests that failed; empty if none did."""
        if not self.failures:
            return ""
        given_up = (
            f"; {self.left_out} requests failed {self.retries + 1} times and were given up" if self.left_out else ""
        )
        return f"{self._where()}: failures that were tried again: {self.told()}{given_up}"


class _Malformed(Exception):
    """A reply that is no chat completion."""


def retry_after(headers: Any) -> float | None:
    """Seconds that `Retry-After` (seconds or a date) or `retry-after-ms` says; None without either."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            return max(0.0, float(text) * unit)
        except ValueError:
            with contextlib.suppress(ValueError, TypeError):
                return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _said(error: openai.APIStatusError) -> str:
    """The server's message in one line."""
    body = error.body
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or in_one_line(error, 300)).split())[:300]


def ask_all(asked: Sequence[tuple[Endpoint, Sequence[Ask]]], take: Take) -> None:
    """Ask several endpoints side by side. Raises the first error of one of them."""

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for endpoint, asks in asked:
                group.create_task(endpoint.answer(asks, take))

    try:
        asyncio.run(all_of_them())
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
