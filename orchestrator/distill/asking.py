"""Asks the teachers for what is missing, and has it graded meanwhile.

In: configuration, questions, the journals of answers and verdicts. Out: both journals complete. Must not know: which
answer is taken, the data set.

Teachers behind endpoints are asked side by side; then those that the cluster samples, one after the other, since each
may need all GPUs. Grading is done by reward actors while a cluster is up, else in processes of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conf.choices import LongAnswer
from conf.schema import Config
from orchestrator.base.journal import Journal
from orchestrator.cluster.cluster import Cluster
from orchestrator.distill.answers import SIDES, Answer, Ask
from orchestrator.distill.endpoint import Endpoint, ask_all
from orchestrator.distill.engines import Teacher
from orchestrator.distill.questions import Questions
from orchestrator.distill.verdicts import Grade, Verifier
from orchestrator.tracking.console import progress
from reward.verdict import Verdict
from reward.worker import Response, RewardWorker
from rollout.data.problems import Problem

Teachers = Mapping[str, Endpoint | Teacher]  # by side


def make_teachers(conf: Config) -> Teachers:
    """Raises BadInput: an endpoint that cannot be reached, an unknown model, no key, no chat template."""
    distill = conf.distill
    found: dict[str, Endpoint | Teacher] = {}
    for side in SIDES:
        teacher, key = getattr(distill, side), f"distill.{side}"
        if teacher.endpoint is None:
            found[side] = Teacher(conf, teacher, key)
            continue
        best = side == "think" and distill.long_answer is LongAnswer.best
        found[side] = Endpoint(teacher, key, distill.retries, distill.backoff_s, conf.run.seed, best)
    for one in found.values():
        if isinstance(one, Endpoint):
            one.resolve()
    return found


def ask_missing(conf: Config, questions: Questions, teachers: Teachers, answers: Journal, verdicts: Journal) -> None:
    """Raises RunError when an endpoint fails for good; what came before that is in the journals."""
    problems = {problem.uid: problem for problem in questions.problems}
    wanted = [
        Ask(problem, side, sample)
        for sample in range(conf.distill.samples)  # one answer to everything first
        for problem in questions.problems
        for side in questions.sides[problem.uid]
    ]
    missing = [ask for ask in wanted if ask.key not in answers.kept]
    by_side = {side: [ask for ask in missing if ask.side == side] for side in SIDES}
    sampled = {side: one for side, one in teachers.items() if isinstance(one, Teacher) and by_side[side]}
    ungraded = [ask for ask in wanted if ask.key in answers.kept and ask.key not in verdicts.kept]
    if not missing and not ungraded:
        return
    for side, one in sampled.items():  # before an endpoint costs anything
        one.prepare(by_side[side])

    with progress(len(wanted), "distill", conf.tracker.console, start=len(wanted) - len(missing)) as bar:
        with RewardWorker(conf.reward) as worker, _verifier(conf, worker.grade_batch, verdicts) as verifier:
            _again(ungraded, answers, verifier)
            asked = [(one, by_side[side]) for side, one in teachers.items() if isinstance(one, Endpoint)]
            ask_all([pair for pair in asked if pair[1]], _Take(answers, verifier, problems, bar))
        if not sampled:
            return
        with Cluster(conf.cluster) as cluster:
            actors = cluster.reward_actors(conf.reward, RewardWorker, [conf.reward])

            def grade(responses: list[Response]) -> list[Verdict]:
                size = -(-len(responses) // len(actors))
                parts = [responses[first : first + size] for first in range(0, len(responses), size)]
                futures = [actor.call("grade_batch", part) for actor, part in zip(actors, parts)]
                return [verdict for future in futures for verdict in future.wait()]

            with _verifier(conf, grade, verdicts) as verifier:
                for one in sampled.values():
                    one.answer(cluster, _Take(answers, verifier, problems, bar))


def _verifier(conf: Config, grade: Grade, verdicts: Journal) -> Verifier:
    return Verifier(grade, verdicts, conf.distill.over_length, conf.reward.strict)


def _again(asks: Sequence[Ask], answers: Journal, verifier: Verifier) -> None:
    """Answers of an earlier process that have no verdict (of these settings)."""
    for ask in asks:
        verifier.put(ask.problem, Answer(**answers.read(ask.key)))


class _Take:
    """Keeps an answer, hands it on to be graded, and shows how it goes."""

    def __init__(self, answers: Journal, verifier: Verifier, problems: Mapping[str, Problem], bar: progress):
        self.answers, self.verifier, self.problems, self.bar = answers, verifier, problems, bar

    def __call__(self, answer: Answer) -> None:
        record: dict[str, Any] = {name: getattr(answer, name) for name in Answer.__slots__}
        self.answers.add(record)
        self.verifier.put(self.problems[answer.uid], answer)
        shares = {f"{side}_correct": self.verifier.share(side) for side in SIDES}
        self.bar.advance(1, **{name: share for name, share in shares.items() if share is not None})
