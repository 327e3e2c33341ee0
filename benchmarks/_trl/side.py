"""TRL's side of benchmarks/trl.py: GRPOTrainer, run by the interpreter of TRL's own environment, asked step by step.

In: a job (first argument: a JSON file) and lines on stdin, {"steps": n, "threads": t}. Out: for each of them a line on
stdout, {"seconds": of those steps, "lengths": tokens of each answer}; "ready" first. Must not know: this project.
`reward` is the only thing that both sides import: each calls it in its own way.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any


def reward(problem: str, response: str, answer: str, mode: str | None) -> float:
    """The share of upper-case letters: any number does that costs nothing and differs within a group."""
    return sum(map(str.isupper, response)) / (len(response) or 1)


class Clock:
    """Lets the trainer run the steps that were asked for, and tells how long they took."""

    def __init__(self, answers: Any):
        self.answers = answers
        self.left, self.begin = 0, 0.0
        self.lengths: list[int] = []

    def before_step(self) -> None:
        """Called by the trainer between two steps: answers what has been done and waits for the next line."""
        if self.left == 0:
            if self.begin:
                seconds = time.perf_counter() - self.begin
                self.tell({"seconds": seconds, "lengths": self.lengths})
                self.lengths = []
            else:
                self.tell("ready")
            line = sys.stdin.readline()
            if not line:
                raise SystemExit(0)
            import torch

            asked = json.loads(line)
            torch.set_num_threads(asked["threads"])
            self.left, self.begin = asked["steps"], time.perf_counter()
        self.left -= 1

    def tell(self, what: Any) -> None:
        self.answers.write(json.dumps(what) + "\n")
        self.answers.flush()


def run(job: dict[str, Any], clock: Clock, folder: str) -> None:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Gate(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.before_step()

    def score(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        clock.lengths += map(len, completion_ids)
        return [reward("", text, "", None) for text in completions]

    torch.set_num_threads(job["threads"])
    arguments = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        max_steps=1_000_000,
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        num_generations=job["group_size"],
        per_device_train_batch_size=job["micro_batch"],
        gradient_accumulation_steps=job["trajectories"] // job["micro_batch"],  # one optimizer step a batch
        max_completion_length=job["max_tokens"],
        temperature=1.0,
        top_p=1.0,
        beta=job["kl"],
        epsilon=0.2,
        loss_type="grpo",
        gradient_checkpointing=False,
        cache_implementation=job.get("cache"),
        disable_dropout=True,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1_000_000,
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=score,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": text} for text in job["prompts"]]),
        callbacks=[Gate()],
    )
    trainer.train()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    sys.path.pop(0)  # this folder: its trl.py is not the package
    with tempfile.TemporaryDirectory() as folder:
        with open(sys.argv[1]) as file:
            job = json.load(file)
        run(job, Clock(answers), folder)


if __name__ == "__main__":
    main()
