"""Samples and grades the answers of an evaluation, as far as its journal lacks them.

In: samplers, graders, prompts, a journal. Out: an `Answer` for every problem, way and sample, in the journal as soon as
it is graded. Must not know: what is made of them.

Prompts of all ways are requested in one stream, so that the engines stay full from the first answer to the last: about
twice as many answers as may run at a time are under way. A problem of which an answer is missing is sampled whole
again; its answers are the same, since an answer's seed comes from (run.seed, evaluate.seed, problem, sample).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from conf.schema import Config
from orchestrator.base.journal import Journal
from orchestrator.evaluation.answers import Answer
from orchestrator.training.evaluation import forced_modes
from reward.grader import Grader, PendingVerdicts
from reward.leakage import leakage
from reward.reward_function import reward_of
from reward.verdict import Verdict
from rollout.data.tokens import decode_response
from rollout.mode import ControlTokens, Mode, think_names
from rollout.prompt import Prompt
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory

Asked = tuple[str, dict[str, PendingVerdicts]]  # way, and the verdicts of each grader


class Collector:
    """graders: {"strict", "lenient"}, or {"own"} with a reward function; the first is the configuration's own.
    longest: characters of a short answer at most, see `leakage`."""

    def __init__(
        self,
        conf: Config,
        sampler: Sampler,
        graders: Mapping[str, Grader],
        tokenizer: Any,
        control: ControlTokens,
        longest: int | None = None,
    ) -> None:
        self.conf, self.sampler, self.graders = conf, sampler, graders
        self.tokenizer, self.control, self.longest = tokenizer, control, longest
        self.names = think_names(conf.model)
        self.ways = forced_modes(control.modes)
        self.failed: dict[str, list[Verdict]] = {way: [] for way in self.ways}  # without a verdict, by way

    def collect(self, prompts: Sequence[Prompt], journal: Journal, advance: Callable[[int], None]) -> None:
        """Returns when every answer is in the journal. advance: called with the number of new ones."""
        rollout, samples = self.conf.rollout, self.conf.evaluate.samples
        room = 2 * rollout.workers * rollout.max_num_seqs
        size = max(1, room // (8 * samples))
        running: deque[Asked] = deque()
        under_way = 0
        for way, part in self._missing(prompts, journal, size):
            while running and under_way + len(part) * samples > room:
                under_way -= self._take(*running.popleft(), journal, advance)
            running.append((way, self._ask(way, part)))
            under_way += len(part) * samples
        while running:
            self._take(*running.popleft(), journal, advance)

    def _missing(self, prompts: Sequence[Prompt], journal: Journal, size: int) -> Iterator[tuple[str, list[Prompt]]]:
        samples = range(self.conf.evaluate.samples)
        for way in self.ways:
            lacking = [one for one in prompts if any((one.uid, way, sample) not in journal.kept for sample in samples)]
            for first in range(0, len(lacking), size):
                yield way, lacking[first : first + size]

    def _ask(self, way: str, prompts: list[Prompt]) -> dict[str, PendingVerdicts]:
        conf = self.conf.evaluate
        longest = conf.max_response_tokens or self.conf.rollout.max_response_tokens
        sampling = SamplingParams(conf.temperature, conf.top_p, longest, self.ways[way])
        batch = self.sampler.sample(prompts, conf.samples, conf.seed, sampling, urgent=True)
        return {name: grader.ask(batch) for name, grader in self.graders.items()}

    def _take(
        self, way: str, asked: dict[str, PendingVerdicts], journal: Journal, advance: Callable[[int], None]
    ) -> int:
        """Wait for a part and write it down. Returns how many answers it has."""
        own, *_ = asked
        trajectories = asked[own].batch.wait()
        verdicts = {name: pending.wait() for name, pending in asked.items()}
        new = 0
        for place, trajectory in enumerate(trajectories):
            answer = self._answer(way, trajectory, {name: found[place] for name, found in verdicts.items()}, own)
            if (answer.uid, way, answer.sample) not in journal.kept:
                new += 1
                journal.add(answer.as_json())
        self.failed[way] += [verdict for verdict in verdicts[own] if not verdict.outcome.judged]
        advance(new)
        return len(trajectories)

    def _answer(self, way: str, one: Trajectory, verdicts: Mapping[str, Verdict], own: str) -> Answer:
        verdict, judged = verdicts[own], verdicts[own].outcome.judged
        return Answer(
            uid=one.prompt.uid,
            way=way,
            sample=one.sibling,
            mode=None if one.mode is None else one.mode.name,
            outcome=verdict.outcome.value,
            strict=verdicts["strict"].correct if "strict" in verdicts else None,
            lenient=verdicts["lenient"].correct if "lenient" in verdicts else None,
            reward=reward_of(self.conf.reward, verdict, one.mode, len(one.token_ids)) if judged else None,
            extracted=verdict.extracted,
            tokens=len(one.token_ids),
            logprob=float(one.behavior_logprobs[0]),
            leaks=self._leaks(one),
        )

    def _leaks(self, one: Trajectory) -> tuple[str, ...]:
        if one.mode != Mode.SHORT:
            return ()
        text = decode_response(self.tokenizer, one.token_ids[1:], self.control.ends)
        return leakage(text, self.longest, self.names).causes
