"""A teacher that is sampled by vLLM engines on the cluster: any Hugging Face model with a chat template.

In: what is asked; the teacher's settings, an entered cluster. Out: each answer as soon as its few companions are there.
Must not know: how answers are read, graded and kept.

The teacher has its own tokenizer, chat template and end tokens, and needs none of the control tokens. Where its
template opens the answer with <think> (DeepSeek-R1), that is put in front of the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conf.distill import TeacherConf
from conf.schema import Config, LoraConf
from learner.model.support import context_length, read_config
from orchestrator.base.waiting import waiting
from orchestrator.cluster.cluster import Cluster, started
from orchestrator.cluster.handles import wait_any
from orchestrator.distill.answers import Answer, Ask
from rollout.base.errors import BadInput
from rollout.data.end_tokens import end_tokens
from rollout.data.think_block import OPEN
from rollout.data.tokens import decode_response, load_tokenizer, templated
from rollout.mode import ControlTokens
from rollout.prompt import Prompt
from rollout.request import RolloutRequest, RolloutResult, SamplingParams
from rollout.trajectory import Finish
from rollout.worker import RolloutWorker

WINDOW = 32  # requests under way at one engine; together they fill it twice
Take = Callable[[Answer], None]


class Teacher:
    """One model. Raises BadInput: no such model, no chat template."""

    def __init__(self, conf: Config, teacher: TeacherConf, key: str) -> None:
        """key: of its section in messages, e.g. "distill.think"."""
        assert teacher.model is not None
        self.conf, self.teacher, self.key, self.name = conf, teacher, key, teacher.model
        local = Path(teacher.model).expanduser()  # actors have other working directories
        self.path = str(local.absolute()) if local.is_dir() else teacher.model
        self.model = replace(
            conf.model, path=self.path, revision=teacher.revision, random=None, chat_template=None,
            short_token_from=None, lora=LoraConf(),
        )  # fmt: skip
        try:
            with waiting(f"reading {key}.model={teacher.model}"):
                self.tokenizer = load_tokenizer(self.path, self.model)
                self.positions = context_length(read_config(self.path, teacher.revision) or {})[0]
        except BadInput as error:
            said = str(error).replace("model.path", f"{key}.model")
            raise BadInput(said.replace("; give one as model.chat_template=<file>", "")) from error
        self.ends = sorted(end_tokens(self.tokenizer, self.path, self.model))

    def prompt(self, ask: Ask) -> tuple[Prompt, str]:
        """What an engine gets, and what of the answer is in it already."""
        problem, asked = ask.problem, self.teacher.asked(ask.problem.problem)
        more = {} if self.teacher.thinking is None else {"enable_thinking": self.teacher.thinking}
        text = templated(self.tokenizer, asked, **more)
        ids = np.array(self.tokenizer.encode(text, add_special_tokens=False), np.int32)
        opened = OPEN if text.rstrip().endswith(OPEN) else ""
        return Prompt(f"{problem.uid}/{ask.side}", asked, ids, problem.answer, problem.source), opened

    def prepare(self, asks: Sequence[Ask]) -> None:
        """Tokenize what `answer` is going to sample. Raises BadInput where it does not fit into the model."""
        teacher, rollout = self.teacher, self.conf.rollout
        self.asks = asks
        self.prompts = {ask.problem.uid: self.prompt(ask) for ask in asks}
        longest = max(len(prompt.token_ids) for prompt, _ in self.prompts.values())
        if longest + teacher.max_tokens > self.positions:
            raise BadInput(
                f"{self.key}.max_tokens={teacher.max_tokens} does not fit into the {self.positions:g} positions of "
                f"{teacher.model} beside a prompt of {longest} tokens: lower it"
            )
        self.rollout = replace(
            rollout,
            workers=teacher.workers or rollout.workers,
            tensor_parallel=teacher.tensor_parallel or rollout.tensor_parallel,
            max_model_len=longest + teacher.max_tokens,
        )

    def answer(self, cluster: Cluster, take: Take) -> None:
        """Sample everything; `take` is called with each answer."""
        eos = int(self.tokenizer.eos_token_id)
        none = ControlTokens(-1, -2, -3, eos, tuple(end for end in self.ends if end != eos))  # no id is a control token
        arguments = [self.rollout, self.model, self.path, none, self.conf.run.seed]
        workers = cluster.rollout_workers(self.rollout, RolloutWorker, arguments)
        try:
            with waiting(f"loading {self.teacher.model}"):
                started(workers, "ready", self.conf.rollout.start_timeout_s)
            rest = self._requests()
            running: deque[tuple[int, Any, list[Ask]]] = deque()
            loads = [0] * len(workers)
            while True:
                while min(loads) < WINDOW and (request := next(rest, None)):
                    at = loads.index(min(loads))
                    running.append((at, workers[at].call("sample", request[0]), request[1]))
                    loads[at] += 1
                if not running:
                    return
                ready = set(wait_any([future for _, future, _ in running]))
                for place, (at, future, those) in enumerate(list(running)):
                    if place in ready:
                        loads[at] -= 1
                        self._take(future.wait(), those, take)
                running = deque(one for place, one in enumerate(running) if place not in ready)
        finally:
            cluster.release(workers)

    def _take(self, result: RolloutResult, asks: list[Ask], take: Take) -> None:
        those = [self.prompts[ask.problem.uid] for ask in asks]
        found = result.trajectories([prompt for prompt, _ in those], [ask.sample for ask in asks])
        for ask, (_, opened), one in zip(asks, those, found, strict=True):
            assert one is not None
            text = opened + decode_response(self.tokenizer, one.token_ids, self.ends)
            finish, logprob = "stop" if one.finish is Finish.STOP else "length", float(one.behavior_logprobs.mean())
            take(Answer(ask.problem.uid, ask.side, ask.sample, text, None, finish, len(one.token_ids), logprob))

    def _requests(self) -> Iterator[tuple[RolloutRequest, list[Ask]]]:
        teacher = self.teacher
        sampling = SamplingParams(teacher.temperature, teacher.top_p, teacher.max_tokens)
        size = -(-2 * self.rollout.max_num_seqs // WINDOW)
        for number, first in enumerate(range(0, len(self.asks), size)):
            those = list(self.asks[first : first + size])
            own = {uid: at for at, uid in enumerate(dict.fromkeys(ask.problem.uid for ask in those))}
            siblings = tuple((own[ask.problem.uid], ask.sample) for ask in those)
            prompts = tuple(self.prompts[uid][0] for uid in own)
            yield RolloutRequest(number, 0, 0, prompts, siblings, sampling), those
