"""Memory and time of log-probs and their backward pass: the learner's head, plain logits, DeepSpeed's tiled loss; and
of scoring by the learner's head, without entropies and backward pass.

In: nothing but `small`; a measurement as a child process's argument. Out: figures. Must not know: batches, rewards.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks._figures import figure, say
from benchmarks._learner.setup import LONGEST, QWEN
from conf.schema import LearnerConf
from learner.metrics.memory import reset_resident_peak, resident_peak

COUNTS = (1024, 2048, 4096, 8192, 16_384, LONGEST)  # tokens
KINDS = ("own", "score", "full", "tiled")
SHRINK = 64  # of tokens and vocabulary in the small form


def logprob(small: bool) -> None:
    """Each measurement in a fresh process: a high-water mark of what came before would hide it. The small form has one
    such process, for the longest; the others it makes here."""
    for count in COUNTS[::5] if small else COUNTS:
        for kind in KINDS:
            infix = "" if kind == "own" else f"{kind}_"
            free = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
            if kind == "full" and 4 * 4 * count * QWEN.vocab > min(20e9, free - 2e9):
                say(f"plain logits of {count} tokens are left out: 4 x {4 * count * QWEN.vocab / 1e9:.0f} GB")
                continue
            if (kind == "tiled" and count > 4096) or (kind == "score" and small and count == LONGEST):
                continue
            shrink = SHRINK if small else 1
            if small and count != LONGEST:
                extra, seconds = measure(kind, count, shrink)
            else:
                child = [sys.executable, str(Path(__file__).parents[1] / "learner.py")]
                child += ["--logprob", json.dumps([kind, count, shrink])]
                done = subprocess.run(child, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    say(f"log-probs of {count} tokens, {kind}: failed with exit code {done.returncode}")
                    if small:
                        raise SystemExit(1)
                    continue  # most likely for want of memory
                extra, seconds = json.loads(done.stdout.splitlines()[-1])
            if count == LONGEST and kind == "own":
                figure("logprob_extra_gb", extra / 1e9, "GB", 1.5)
            else:
                figure(f"logprob_extra_gb_{infix}{count}", extra / 1e9, "GB")
            figure(f"logprob_seconds_{infix}{count}", seconds, "s")


def measure(kind: str, count: int, shrink: int = 1, hidden_size: int = 64) -> tuple[int, float]:
    """(bytes that log-probs and their backward pass add over hidden states and the head's gradient, seconds) of
    `count` tokens; shrink: of count and vocabulary."""
    import torch

    torch.set_num_threads(1)
    count, vocab = count // shrink, QWEN.vocab // shrink
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, hidden_size, generator=generator).requires_grad_()
    weight = torch.nn.Parameter(0.1 * torch.randn(vocab, hidden_size, generator=generator))
    ids = torch.randint(0, vocab, (count,), generator=generator)
    advantages = torch.randn(count, generator=generator)
    run = {"own": own_logprobs, "score": scored_logprobs, "full": full_logprobs, "tiled": tiled_logprobs}[kind]
    run(hidden[:8], weight, ids[:8], advantages[:8])  # libraries' own buffers
    weight.grad = hidden.grad = None
    gc.collect()
    if not reset_resident_peak():
        say("this kernel does not let processes reset their high-water mark: too high a figure is possible")
    before, begin = psutil.Process().memory_info().rss, time.perf_counter()
    run(hidden, weight, ids, advantages)
    seconds = time.perf_counter() - begin
    gradient = 0 if weight.grad is None else weight.grad.nbytes
    assert (kind == "score") == (weight.grad is None) == (hidden.grad is None)
    return resident_peak() - before - gradient, seconds


def own_logprobs(hidden: Any, weight: Any, ids: Any, advantages: Any) -> None:
    """`_ChunkedLogProbs` as the learner calls it, with its default chunk."""
    new = _own(hidden, weight, ids, entropy=True)
    (-(new - new.detach()).exp() * advantages).sum().backward()


def scored_logprobs(hidden: Any, weight: Any, ids: Any, advantages: Any) -> None:
    """As for the reference."""
    import torch

    with torch.no_grad():
        _own(hidden, weight, ids, entropy=False)


def _own(hidden: Any, weight: Any, ids: Any, entropy: bool) -> Any:
    import torch

    from learner.model.logprob import LogProbHead

    states = torch.cat([hidden, hidden[-1:]])  # entry i of the answer speaks of token i: one token before the first
    tokens = torch.cat([ids[:1], ids])
    response = torch.arange(len(tokens)) > 0
    chunk = LearnerConf().logprob_chunk
    return LogProbHead(weight)(states, tokens, response, 1.0, chunk, entropy=entropy)[0][1:]


def full_logprobs(hidden: Any, weight: Any, ids: Any, advantages: Any) -> None:
    """Without entropies: those would add two tables more."""
    new = (hidden @ weight.T).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    (-(new - new.detach()).exp() * advantages).sum().backward()


def tiled_logprobs(hidden: Any, weight: Any, ids: Any, advantages: Any) -> None:
    """DeepSpeed's TiledFusedLogitsLoss. It gives a sum, not a value for each token; those, and entropies, leave by the
    side. The loss is computed inside, so that everything it needs must be known before."""
    import torch
    from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledFusedLogitsLoss

    taken = []

    def loss(_: Any, states: Any, packed: Any) -> Any:
        table = (states @ weight.T).log_softmax(-1)
        new = table.gather(-1, packed[:, 0].long()[:, None])[:, 0]
        taken.append((new.detach(), -(table.detach().exp() * table.detach()).sum(-1)))
        return (-(new - new.detach()).exp() * packed[:, 1]).sum()

    packed = torch.stack([ids.double(), advantages.double()], 1)[None]
    shards = -(-len(ids) // LearnerConf().logprob_chunk)
    TiledFusedLogitsLoss.apply(loss, None, hidden[None], packed, None, shards, [weight], "sum").backward()
