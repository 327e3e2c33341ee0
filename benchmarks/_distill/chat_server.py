"""An OpenAI-compatible endpoint in this process that fails on purpose.

It answers questions such as "12+30?" by rule, so that what it said can be worked out again.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = dict[str, Any]  # of a choice: content, reasoning_content, finish_reason
Fault = str | None  # "429", "500", "401", "400", "drop", "half", "garbage", "slow"


def question_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"]).partition("\n\n")[0]


def total(question: str) -> int:
    return sum(map(int, question.rstrip("?").split("+")))


def long_answer(body: dict[str, Any]) -> Reply:
    """Longer for larger seeds, so that samples differ."""
    result, steps = total(question_of(body)), "hm, " * (body["seed"] % 7)
    return {"content": f"<think>\n{steps}{result}\n</think>\n\n\\boxed{{{result}}}"}


def short_answer(body: dict[str, Any]) -> Reply:
    return {"content": f"It is{' indeed' * (body['seed'] % 5)} \\boxed{{{total(question_of(body))}}}."}


def by_model(body: dict[str, Any]) -> Reply:
    return long_answer(body) if body["model"] == "long" else short_answer(body)


def flaky(body: dict[str, Any], attempt: int) -> Fault:
    """Half of all requests fail, in every way, up to three times each."""
    rng = random.Random(f"{body['model']}/{question_of(body)}/{body['seed']}/{attempt}")
    fails = attempt < 3 and rng.random() < 0.5
    return rng.choice(["429", "500", "503", "drop", "half", "garbage", "slow"]) if fails else None


@dataclass
class ChatServer:
    answer: Callable[[dict[str, Any]], Reply] = by_model
    fault: Callable[[dict[str, Any], int], Fault] = lambda body, attempt: None  # attempt: 0, 1, ... of the same request
    models: tuple[str, ...] | None = ("long", "short")  # None: it does not list them
    retry_after: str | None = "0.01"
    url: str = ""
    served: list[dict[str, Any]] = field(default_factory=list)  # requests that were answered
    attempts: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # (model, question, seed) -> requests
    faults: Counter[str] = field(default_factory=Counter)
    keys: set[str | None] = field(default_factory=set)  # Authorization headers
    hold_after: int | None = None  # answers; further requests wait until this is changed, and are dropped then
    busy: int = 0  # requests under way
    most: int = 0  # of them at a time
    lock: Any = field(default_factory=threading.Lock)

    def asked(self) -> Counter[tuple[str, str, int]]:
        """How often each request was answered."""
        return Counter((body["model"], question_of(body), body["seed"]) for body in self.served)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chat: ChatServer

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the console."""

    def do_GET(self) -> None:
        if self.chat.models is None or self.path != "/v1/models":
            return self._send(404, {"error": {"message": "no such page"}})
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in self.chat.models]
        self._send(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat, key = self.chat, (body["model"], question_of(body), body["seed"])
        with chat.lock:
            attempt = chat.attempts[key]
            chat.attempts[key] += 1
            chat.keys.add(self.headers.get("Authorization"))
            chat.busy += 1
            chat.most = max(chat.most, chat.busy)
            fault = chat.fault(body, attempt)
            if fault:
                chat.faults[fault] += 1
        try:
            self._reply(body, fault)
        finally:
            with chat.lock:
                chat.busy -= 1

    def _reply(self, body: dict[str, Any], fault: Fault) -> None:
        if fault == "drop":
            self.close_connection = True
            return None
        if fault is not None and fault.isdigit():
            return self._send(int(fault), {"error": {"message": f"fault {fault}", "code": None}})
        if fault == "garbage":
            return self._send(200, {"choices": []})
        if fault == "slow":
            time.sleep(0.2)
        reply = self.chat.answer(body)
        message = {"role": "assistant", **{k: v for k, v in reply.items() if k in ("content", "reasoning_content")}}
        choice = {"index": 0, "message": message, "finish_reason": reply.get("finish_reason", "stop")}
        if body.get("logprobs"):
            each = {"token": "x", "logprob": reply.get("logprob", -1.0), "bytes": None, "top_logprobs": []}
            choice["logprobs"] = {"content": [each], "refusal": None}
        found: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        found |= {"choices": [choice]}
        if not reply.get("untold"):
            words = len(f"{reply.get('reasoning_content', '')} {reply['content']}".split())
            found["usage"] = {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": words + 1}
        if fault != "half" and not self._serve(body):
            self.close_connection = True
            return None
        self._send(200, found, half=fault == "half")

    def _serve(self, body: dict[str, Any]) -> bool:
        """Whether it may be answered."""
        chat, limit = self.chat, self.chat.hold_after
        while chat.hold_after == limit:
            with chat.lock:
                if limit is None or len(chat.served) < limit:
                    chat.served.append(body)
                    return True
            time.sleep(0.01)
        return False

    def _send(self, status: int, body: dict[str, Any], half: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429 and self.chat.retry_after is not None:
            self.send_header("Retry-After", self.chat.retry_after)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection = self.close_connection or half


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error."""


@contextmanager
def serving(chat: ChatServer) -> Iterator[ChatServer]:
    handler = type("Handler", (_Handler,), {"chat": chat})
    server = _Server(("127.0.0.1", 0), handler)
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
