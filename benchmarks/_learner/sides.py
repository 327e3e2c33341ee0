"""The same optimizer step by several hands: the learner, a bare PyTorch loop, TRL's trainer.

In: a packed batch (TRL: the groups it was packed from). Out: one step, and the weights after it. Must not know: clocks.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._figures import say
from benchmarks._learner.setup import GRPO, LONGEST
from benchmarks._trl.environment import trl_packages
from conf.schema import LearnerConf, ModelConf
from learner.data.batch import TrainBatch
from learner.data.shared_prefix import origins


class Bare:
    """What one would write by hand: forward, backward, clip, AdamW. plain: whole logits; else the learner's head."""

    def __init__(self, path: str, conf: LearnerConf, plain: bool):
        import torch

        from learner.model.policy import load_policy

        self.policy, self.conf, self.plain = load_policy(path, "float32").train(), conf, plain
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=conf.lr,
            betas=(conf.betas[0], conf.betas[1]),
            eps=conf.eps,
            weight_decay=conf.weight_decay,
        )

    def __call__(self, batch: TrainBatch) -> None:
        import torch

        self.optimizer.zero_grad()
        for mb in batch.ranks[0]:
            weights, advantages = torch.from_numpy(mb.weights), torch.from_numpy(mb.advantages)
            new = self._logprobs(mb)
            ratio = (new - new.detach()).exp()
            surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            (-weights * surrogate).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.conf.max_grad_norm)
        self.optimizer.step()

    def weights(self) -> dict[str, Any]:
        return weights_of(self.policy.causal_lm)

    def _logprobs(self, mb: Any) -> Any:
        import torch

        from learner.model.attention import Layout

        ids, places, response = map(torch.from_numpy, (mb.token_ids, mb.position_ids, mb.response))
        layout = Layout(list(mb.lengths), origins=None if self.plain else origins(mb))
        if not self.plain:
            return self.policy(ids, places, response, layout, 1.0, self.conf.logprob_chunk)[0]
        states = self.policy.body(
            input_ids=ids[None], position_ids=places[None], use_cache=False, layout=layout
        ).last_hidden_state[0]
        at = response.nonzero()[:, 0]
        table = (states[at - 1] @ self.policy.head.weight.T).log_softmax(-1)
        return torch.zeros(len(ids)).index_put((at,), table.gather(-1, ids[at, None])[:, 0])


class Ours:
    def __init__(self, worker: Any):
        self.worker = worker

    def __call__(self, batch: TrainBatch) -> None:
        self.worker.update([batch.ranks[0]], GRPO)

    def weights(self) -> dict[str, Any]:
        return {name: parameter.detach().clone() for name, parameter in self.worker.engine.parameters()}


class Trl:
    """TRL's GRPOTrainer from the loss to the optimizer's step, on tensors padded as it pads them."""

    def __init__(self, path: str, conf: LearnerConf, folder: Path, size: int, groups: list[Any]):
        import torch
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import GRPOConfig, GRPOTrainer
        from trl.trainer.utils import pad, split_tensor_dict

        from rollout.data.tokens import load_tokenizer

        trajectories = [t for group in groups for t in group.trajectories]
        parts = len(trajectories) // size
        arguments = GRPOConfig(
            output_dir=str(folder / "trl"), use_cpu=True, bf16=False, report_to="none",
            per_device_train_batch_size=size, gradient_accumulation_steps=parts, num_generations=8,
            temperature=1.0, beta=0.0, epsilon=0.2, loss_type="grpo", gradient_checkpointing=False,
            learning_rate=conf.lr, lr_scheduler_type="constant", weight_decay=conf.weight_decay,
            adam_beta1=conf.betas[0], adam_beta2=conf.betas[1], adam_epsilon=conf.eps, max_grad_norm=conf.max_grad_norm,
            max_completion_length=LONGEST,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer = load_tokenizer(path, ModelConf())
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda **_: [0.0],
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": "?"}] * 8),
            processing_class=tokenizer,
        )
        trainer = self.trainer
        trainer.create_optimizer()
        trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.current_gradient_accumulation_steps = parts
        trainer._prepare_inputs = lambda inputs: inputs  # they are ready: no generation, no rewards
        advantages = np.concatenate([g.rewards - g.rewards.mean() for g in groups]).astype(np.float32)
        prompts = [torch.from_numpy(t.prompt.token_ids).long() for t in trajectories]
        answers = [torch.from_numpy(t.token_ids).long() for t in trajectories]
        everything = {
            "prompt_ids": pad(prompts, padding_value=tokenizer.pad_token_id, padding_side="left"),
            "prompt_mask": pad([torch.ones_like(p) for p in prompts], padding_value=0, padding_side="left"),
            "completion_ids": pad(answers, padding_value=tokenizer.pad_token_id, padding_side="right"),
            "completion_mask": pad([torch.ones_like(a) for a in answers], padding_value=0, padding_side="right"),
            "advantages": torch.from_numpy(advantages),
        }
        order = torch.randperm(len(trajectories), generator=torch.Generator().manual_seed(0))  # as it shuffles them
        self.inputs = split_tensor_dict({k: v[order] for k, v in everything.items()}, parts)
        cells = everything["prompt_ids"].numel() + everything["completion_ids"].numel()
        self.padding = 1 - sum(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) / cells

    def __call__(self, _: TrainBatch) -> None:
        trainer = self.trainer
        for inputs in self.inputs:
            trainer.training_step(trainer.model_wrapped, inputs, None)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()

    def weights(self) -> dict[str, Any]:
        return weights_of(self.trainer.model)


def make_trl(*arguments: Any) -> Trl | None:
    """None where TRL is not installed."""
    if (packages := trl_packages()) is not None and str(packages) not in sys.path:
        sys.path.append(str(packages))  # the last: only what the project does not have comes from there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Trl(*arguments)
    except ImportError as error:
        say(f"update_vs_trl is left out ({error}): make TRL's environment with benchmarks/trl.py --setup")
        return None


def weights_of(causal_lm: Any) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in causal_lm.named_parameters()}


def check_same(start: dict[str, Any], sides: dict[str, Any]) -> None:
    """After one step from the same weights all sides have moved alike, or they do not do the same work."""
    import torch

    def moved(side: Any) -> Any:
        end = side.weights()
        return torch.cat([(end[name] - start[name]).flatten() for name in start]).double()

    ours = moved(sides["learner"])
    for name, side in sides.items():
        error = float((moved(side) - ours).norm() / ours.norm())
        if error > 0.02:  # AdamW's first step is the gradient's sign: rounding shows where it is near zero
            raise SystemExit(f"{name} does another step than the learner: {error:.1e} apart")
