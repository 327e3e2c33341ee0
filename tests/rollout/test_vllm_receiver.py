"""Weights loaded into a real engine: the same log-probs by every transport, and errors that name both sides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import LearnerConf, ModelConf, RolloutConf, Transport
from learner.worker import LearnerWorker
from rollout.base.errors import BadInput
from rollout.engine import Engine, Request
from rollout.prompt import Prompt
from rollout.request import SamplingParams
from rollout.weight_sync.handshake import Listener
from rollout.weight_sync.weights import Endpoint, Offer, Route, Weights, views, worker_name
from rollout.worker import RolloutWorker
from tests.helpers import leaving
from tests.helpers.engines import MakeWorker, complete, generate, policy_weights, rollout_request
from tests.helpers.handles import InThread
from tests.helpers.prompts import make_prompts

GREEDY = SamplingParams(temperature=1e-3, top_p=1.0, max_response_tokens=12)
transports = pytest.mark.parametrize("transport", [Transport.ipc, Transport.nccl], ids=["buffer", "broadcast"])


@dataclass(frozen=True)
class Trained:
    """A learner rank whose weights are not the folder's."""

    rank: LearnerWorker
    weights: Weights


@pytest.fixture(scope="module")
def trained(tiny_model: Path) -> Iterator[Trained]:
    conf = LearnerConf(weight_sync_bucket_mib=0.25)  # of 3.6 MiB, so that a push takes many buckets
    rank = LearnerWorker(conf, ModelConf(), str(tiny_model), 0, 1.0, 10)
    rank.start("127.0.0.1", rank.address(None)[1], False)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in rank.engine.policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = rank.publish(1)
    assert weights is not None and rank.publisher is not None
    assert sum(entry.name == "lm_head.weight" for entry in weights.entries) == 1
    yield Trained(rank, weights.copy())
    rank.publisher.close()


def sampled(worker: RolloutWorker, prompts: list[Prompt]) -> list[tuple[list[int], list[float]]]:
    request = rollout_request(prompts, 1, GREEDY)
    found = complete(request, worker.sample(request))
    assert all(set(t.versions) == {worker.ready()} for t in found)
    return [(t.token_ids.tolist(), t.behavior_logprobs.tolist()) for t in found]


def offered(rank: LearnerWorker, route: Route, version: int) -> Offer:
    return Offer(version, route, (rank.open_endpoint(route),), worker_name(0))


@transports
def test_every_transport_brings_the_same_bits(
    rollout_worker: RolloutWorker, trained: Trained, in_thread: InThread, transport: Transport
) -> None:
    """The tied head, which vLLM keeps packed on the CPU, among the rest: bit by bit as from the object store."""
    prompts = make_prompts(6)
    original = sampled(rollout_worker, prompts)
    rollout_worker.load(trained.weights)
    expected = sampled(rollout_worker, prompts)
    assert expected != original
    route = Route(transport, 1, timeout_s=60.0)
    offer = offered(trained.rank, route, 5)
    for version in (5, 6):  # the second finds what the first left: a mapped buffer, a group
        rollout_worker.load(views(_folder(trained), 0).copy())
        assert sampled(rollout_worker, prompts) == original
        sending = in_thread(trained.rank.send, version)
        assert rollout_worker.load(replace(offer, version=version)) > 0
        sending.result(60)
        assert rollout_worker.ready() == version
        assert sampled(rollout_worker, prompts) == expected


@transports
def test_every_process_of_a_tensor_parallel_engine_gets_the_weights(
    two_processes: Engine, trained: Trained, in_thread: InThread, transport: Transport
) -> None:
    """Two processes, each with half of every matrix: as from the object store, for which test_tensor_parallel.py is."""
    prompt = [2, *range(40, 60), 3]

    def logprobs(engine: Engine) -> np.ndarray:
        (sample,) = generate(engine, [Request(prompt, 8, 1e-3, 1.0, 1)])
        return sample.behavior_logprobs

    two_processes.load(views(_folder(trained), 0).copy())
    before = logprobs(two_processes)
    offer = offered(trained.rank, Route(transport, 1, timeout_s=60.0), 4)
    sending = in_thread(trained.rank.send, 4)
    two_processes.load(offer)
    sending.result(60)
    after = logprobs(two_processes)
    two_processes.load(trained.weights)
    assert np.array_equal(after, logprobs(two_processes)) and not np.array_equal(after, before)


@pytest.fixture(scope="module")
def two_processes(tiny_model: Path, make_worker: MakeWorker) -> Engine:
    return make_worker(tiny_model, RolloutConf(kv_cache_gib=0.25, tensor_parallel=2)).engine


def _folder(trained: Trained) -> list[tuple[str, torch.Tensor]]:
    named = policy_weights(trained.rank.path)
    return [*named, ("lm_head.weight", dict(named)["model.embed_tokens.weight"])]


def test_weights_that_vllm_cannot_take_are_rejected(make_worker: MakeWorker, tmp_path: Path, trained: Trained) -> None:
    """A mixture of experts is one tensor for transformers, many for vLLM; and another model has other names."""
    from transformers import GPT2Config, GPT2LMHeadModel, OlmoeConfig, OlmoeForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 264,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_size": 64,
    }
    settings = RolloutConf(kv_cache_gib=0.05, max_model_len=64, max_num_seqs=2, max_num_batched_tokens=64)
    experts = OlmoeForCausalLM(OlmoeConfig(**sizes, intermediate_size=32, num_experts=2, num_experts_per_tok=1))
    experts.save_pretrained(tmp_path / "experts")
    GPT2LMHeadModel(GPT2Config(n_positions=64, **sizes)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(BadInput, match="mixture-of-experts models cannot be pushed"):
        make_worker(tmp_path / "experts", settings).load(views(list(experts.named_parameters()), 1).copy())
    with pytest.raises(
        BadInput, match=r"GPT2LMHeadModel cannot take the learner's weights \(.+\): vLLM has this model"
    ):
        make_worker(tmp_path / "gpt2", settings).load(trained.weights)


def test_a_closed_learner_rank_is_named_and_the_engine_is_unchanged(
    rollout_worker: RolloutWorker, trained: Trained
) -> None:
    prompts = make_prompts(2)
    before = sampled(rollout_worker, prompts)
    host = Listener("learner rank 3", "127.0.0.1", "cpu", 3)
    host.close()
    for transport in (Transport.ipc, Transport.nccl):
        offer = Offer(9, Route(transport, 1, timeout_s=0.5), (host.endpoint,), worker_name(0))
        with pytest.raises(ConnectionError, match="rollout worker 0 cannot reach learner rank 3 at"):
            rollout_worker.load(offer)
    assert rollout_worker.ready() == 0 and sampled(rollout_worker, prompts) == before


@transports
def test_a_silent_learner_rank_is_named_and_the_engine_is_unchanged(
    rollout_worker: RolloutWorker, in_thread: InThread, transport: Transport
) -> None:
    prompts = make_prompts(2)
    before = sampled(rollout_worker, prompts)
    host = Listener("learner rank 0", "127.0.0.1", "cpu", 0)
    try:
        offer = Offer(9, Route(transport, 1, timeout_s=0.5), (host.endpoint,), worker_name(0))
        coming = in_thread(host.receive, ["rollout worker 0"], 9, 20.0)
        verb = "hand out" if transport is Transport.ipc else "begin with"
        expected = (
            f"rollout worker 0 timed out after 0.5 s waiting for learner rank 0 to {verb} the weights of version 9"
        )
        with pytest.raises(TimeoutError, match=expected):
            rollout_worker.load(offer)
        coming.result(20)[0].close()
    finally:
        host.close()
    assert rollout_worker.ready() == 0 and sampled(rollout_worker, prompts) == before


def test_a_rank_killed_before_the_group_forms_is_named_and_the_engine_is_unchanged(
    rollout_worker: RolloutWorker, in_thread: InThread
) -> None:
    """The worker has been told which group to join, and waits for a rank that is gone."""
    prompts = make_prompts(2)
    before = sampled(rollout_worker, prompts)
    with leaving.process(leaving.rank_that_announced_a_group, 9) as (rank, pipe):
        offer = Offer(9, Route(Transport.nccl, 1, timeout_s=60.0), (pipe.recv(),), worker_name(0))
        loading = in_thread(rollout_worker.load, offer)
        assert pipe.recv() == "announced"
        rank.kill()
        expected = r"rollout worker 0 timed out after 1 s waiting for learner rank 0 to form the broadcast group"
        with pytest.raises((TimeoutError, ConnectionError), match=expected):
            loading.result(60)
    assert rollout_worker.ready() == 0 and sampled(rollout_worker, prompts) == before


def test_joining_a_group_leaves_the_current_stream_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's NCCL group computes on the stream that was set last, and makes a new one current where none was set."""
    import vllm.platforms
    import vllm.utils.torch_utils as vllm_streams

    from rollout.weight_sync import broadcast_group

    calls: list[Any] = []
    mine = object()
    monkeypatch.setattr(type(vllm.platforms.current_platform), "is_cuda", lambda self: True)
    monkeypatch.setattr(vllm_streams, "_current_stream_tls", threading.local())  # of a thread that has set none
    monkeypatch.setattr(vllm_streams, "prev_set_stream", calls.append)  # torch's own
    monkeypatch.setattr(torch.cuda, "set_stream", vllm_streams._patched_set_stream)  # a CPU engine takes it away
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: mine)
    broadcast_group._keep_stream()
    assert calls == [mine]
    assert vllm_streams.current_stream() is mine and calls == [mine]  # what vLLM's group asks for as it is formed


def test_a_group_is_formed_on_the_workers_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread, which has the first GPU until it is told otherwise."""
    from rollout.weight_sync import broadcast_group

    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(broadcast_group, "_keep_stream", lambda: None)
    monkeypatch.setattr(broadcast_group, "_group", lambda *where: list(chosen))
    formed = broadcast_group.join(torch.device("cuda", 3), "127.0.0.1", 1, 1, 2, 30.0)
    assert formed == [3] and chosen == [3]


def test_ipc_without_a_rank_on_the_workers_device_is_an_error(rollout_worker: RolloutWorker) -> None:
    """Shared devices only: weights do not go from one GPU's memory to another's by ipc."""
    endpoint = Endpoint(0, ("127.0.0.1", 1), b"", "GPU-1234")
    offer = Offer(9, Route(Transport.ipc, 1), (endpoint,), worker_name(2))
    expected = r"rollout worker 2: no learner rank is on its device cpu \(they are on GPU-1234\)"
    with pytest.raises(ConnectionError, match=expected):
        rollout_worker.load(offer)


def test_ipc_across_hosts_is_an_error() -> None:
    from rollout.weight_sync import transport

    manifest = transport.Manifest(("a",), ("float32",), ((1,),))
    chunk = transport.Chunk(manifest, (64,), {"cpu": (2**22 + 1, 3, 64)})  # no such process on this host
    with pytest.raises(ConnectionError, match=r"needs sampler and learner on one host.*choose object_store"):
        transport.Inbox(torch.device("cpu")).take(chunk)


def test_a_mapped_buffer_carries_every_chunk() -> None:
    """Every dtype, odd sizes, a tensor larger than the others; what was taken stays when the buffer is filled anew."""
    from rollout.weight_sync import transport

    cpu = torch.device("cpu")
    outbox, inbox = transport.Outbox(cpu, 4096), transport.Inbox(cpu)
    kinds = [torch.float32, torch.bfloat16, torch.int8, torch.float64, torch.float16]
    tensors = [(f"t{i}", (torch.arange(1 + 13 * i) % 100).to(kinds[i % 5])) for i in range(40)]
    taken: list[tuple[str, torch.Tensor]] = []
    counts = []
    for _ in range(2):
        taken.clear()
        chunks = 0
        for chunk in outbox.chunks(tensors):
            assert sum(chunk.sizes) <= 4096
            taken += inbox.take(chunk)
            chunks += 1
        counts.append(chunks)
        assert [name for name, _ in taken] == [name for name, _ in tensors]
        assert all(a.dtype == b.dtype and torch.equal(a, b) for (_, a), (_, b) in zip(taken, tensors, strict=True))
    assert counts[0] == counts[1] > 5
    outbox.close()


def test_a_hanging_call_is_stopped_with_the_message() -> None:
    """As NCCL hangs when a neighbour is gone: `stop` lets it return, and the message is raised."""
    from rollout.weight_sync.broadcast_group import bounded

    stopped = threading.Event()
    with pytest.raises(TimeoutError, match="rank 0 waited"), bounded(0.2, stopped.set, "rank 0 waited"):
        assert stopped.wait(20)

    def fail() -> None:
        stopped.wait(20)
        raise RuntimeError("NCCL communicator was aborted")

    stopped.clear()
    with pytest.raises(TimeoutError, match="rank 0 waited"), bounded(0.2, stopped.set, "rank 0 waited"):
        fail()
    with pytest.raises(RuntimeError, match="shape"), bounded(20.0, stopped.set, "rank 0 waited"):
        raise RuntimeError("shape mismatch")  # what has nothing to do with waiting goes through
    with pytest.raises(ConnectionError, match="rank 0 waited: gone"), bounded(20.0, stopped.set, "rank 0 waited"):
        raise ConnectionResetError("gone")
    with bounded(20.0, stopped.set, "rank 0 waited"):
        assert np.float32(1) == 1
