"""Training as a person would write it first: sample, grade, learn, push; one thing after the other.

Usage: python -m tests.helpers.reference_loop <run folder of a finished `thinkless train`> <folder for the model>. It
takes the run's settings and first model and does the same steps without Ray, without the rollout worker's mailbox, the
sampler, the run-ahead queue or the learner group. Prints the loss of each step, exactly (`float.hex`; "none" where no
group was informative), and exports the model.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np

from conf.compose import from_file
from learner.data.flops import read_shape
from learner.data.pack import pack
from learner.learner import Learner
from learner.objective import optimizer_steps
from reward.group import group_trajectories
from reward.worker import RewardWorker
from rollout.data.stream import PromptStream
from rollout.data.tokens import control_tokens, generation_prompt, load_tokenizer
from rollout.engine import Engine, Request, Sample
from rollout.mode import ControlTokens
from rollout.prompt import Prompt
from rollout.request import derive_seed
from rollout.trajectory import Finish, Trajectory
from tests.helpers.engines import generate
from tests.helpers.learner_ranks import Ranks


def trajectory(prompt: Prompt, sibling: int, sample: Sample, control: ControlTokens) -> Trajectory:
    finish = Finish.STOP if sample.stopped else Finish.LENGTH
    mode = control.mode_of(int(sample.token_ids[0]))
    return Trajectory(prompt, sibling, sample.token_ids, sample.behavior_logprobs, mode, finish, sample.versions)


def main(run: Path, target: Path) -> None:
    conf = from_file(run / "config.yaml", [])
    path = json.loads((run / "provenance.json").read_text())["model"]
    tokenizer = load_tokenizer(path, conf.model)
    control = control_tokens(tokenizer, conf.model)
    prompts = PromptStream(
        None, functools.partial(generation_prompt, tokenizer, conf=conf.model), conf.data, conf.run.seed
    )
    engine = Engine(conf.rollout, conf.model, path, control.ends)
    updates = conf.run.steps * conf.algorithm.optimizer_steps
    ranks, reference = Ranks(conf.learner.ranks), path if conf.algorithm.kl > 0 else None
    ranks.start(conf.learner, path, reference, conf.rollout.temperature, updates, conf.model)
    grader = RewardWorker(conf.reward, path, control, conf.model)
    cost = Learner([], conf.learner, read_shape(path, conf.model.revision)).cost
    rollout, G = conf.rollout, conf.rollout.group_size

    for step in range(conf.run.steps):
        pairs = [(p, i) for p in prompts.take(rollout.prompts_per_step) for i in range(G)]
        limits = (rollout.max_response_tokens, rollout.temperature, rollout.top_p)
        requests = [
            Request(p.token_ids.tolist(), *limits, derive_seed(conf.run.seed, p.uid, i, step)) for p, i in pairs
        ]
        samples = generate(engine, requests)
        answers = [trajectory(p, i, sample, control) for (p, i), sample in zip(pairs, samples)]
        groups = group_trajectories(answers, grader.grade(answers), conf.reward)
        steps = optimizer_steps(groups, conf.algorithm, rollout.max_response_tokens)
        batches = [pack(sequences, totals, conf.learner.max_tokens, ranks.count, cost) for sequences, totals in steps]
        loss = "none"
        if batches := [batch for batch in batches if not batch.empty]:
            loss = float(ranks.scatter("update", batches, conf.algorithm)[0].loss).hex()
        engine.load(ranks.call("publish", step + 1)[0])
        print(step + 1, loss, int(np.sum([len(a.token_ids) for a in answers])), flush=True)
    target.mkdir()
    ranks.call("export", str(target))
    ranks.close()
    grader.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
