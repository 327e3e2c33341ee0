"""Bare vLLM, in its own process, given the same requests as ours: what throughput is compared with.

Same settings, thread count and niceness (Ray lowers its workers' priority). Its time is that of `vllm.LLM.generate`
alone. Run by `Bare`; not a benchmark by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Asked = tuple[list[int], int, int]  # prompt's ids, most tokens, seed


def serve(model: str, threads: int) -> None:
    """Reads a line of requests (a list of `Asked`), answers [ids of each, seconds]."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.nice(int(os.environ.get("RAY_worker_niceness", "15")))  # noqa: SIM112  as Ray's workers
    from vllm import LLM, SamplingParams

    from conf.schema import RolloutConf

    conf = RolloutConf(threads=threads)
    llm = LLM(
        model=model,
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=conf.max_model_len,
        max_num_seqs=conf.max_num_seqs,
        max_num_batched_tokens=conf.max_num_batched_tokens,
        kv_cache_memory_bytes=int(conf.kv_cache_gib * 2**30),
        enforce_eager=True,
        logprobs_mode="processed_logprobs",
        distributed_executor_backend="uni",
    )
    answers.write("[[], 0]\n")
    for line in sys.stdin:
        prompts: list[Any] = []
        parameters = []
        for ids, longest, seed in json.loads(line):
            prompts.append({"prompt_token_ids": ids})
            parameters.append(
                SamplingParams(
                    temperature=1.0, seed=seed, max_tokens=longest, stop_token_ids=[1], logprobs=0, flat_logprobs=True,
                    detokenize=False,
                )
            )  # fmt: skip
        begin = time.perf_counter()
        outputs = llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.perf_counter() - begin
        answers.write(json.dumps([[list(output.outputs[0].token_ids) for output in outputs], seconds]) + "\n")


class Bare:
    """The process. Called with requests: their ids, and the seconds that they took."""

    def __init__(self, model: str, threads: int):
        environment = {
            **os.environ,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            "TORCHDYNAMO_DISABLE": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        command = [sys.executable, __file__, "--model", model, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._answer()

    def __call__(self, requests: Sequence[Asked]) -> tuple[list[list[int]], float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(requests) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the bare engine ended with exit code {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    sys.path[0] = str(ROOT)  # instead of this folder
    serve(given.model, given.threads)
