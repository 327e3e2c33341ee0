"""Published weights: the same bits by every transport, in buckets of every size, from every layout of ranks."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conf.schema import AlgorithmConf, Dtype, LearnerConf, LoraConf, ModelConf, RandomModelConf, Transport
from learner.model.policy import load_policy
from learner.model.prepare_model import random_model
from rollout.weight_sync import broadcast_group, transport
from rollout.weight_sync.handshake import connect
from rollout.weight_sync.sender import StagingBuffer
from rollout.weight_sync.weights import ALIGNMENT, Endpoint, Offer, Route, Weights, worker_name
from tests.helpers import leaving
from tests.helpers.engines import MakeLearner
from tests.helpers.handles import InThread, LocalHandle
from tests.helpers.learner_ranks import Ranks, train_batch
from tests.helpers.seldom import seldom

CONF = LearnerConf(lr=0.02, logprob_chunk=16)
ALGORITHM = AlgorithmConf(optimizer_steps=1, kl=0.0)
PLAIN, BFLOAT = ModelConf(), ModelConf(dtype=Dtype.bfloat16)
RANK, ALPHA = 4, 6.0
LORA = LoraConf(rank=RANK, alpha=ALPHA)
ADAPTED, BFLOAT_ADAPTED = ModelConf(lora=LORA), ModelConf(lora=LORA, dtype=Dtype.bfloat16)
LAYOUTS = [
    (1, 1, BFLOAT, "tied"),
    (1, 0, ADAPTED, "untied"),
    (2, 0, PLAIN, "untied"),
    (2, 2, BFLOAT, "untied"),
    (2, 3, PLAIN, "tied"),
    (2, 3, BFLOAT_ADAPTED, "untied"),
]
IDS = [f"{n}-zero{z}-{m.dtype.value}-{'lora-' if m.lora.rank else ''}{folder}" for n, z, m, folder in LAYOUTS]
ALWAYS = [(2, 2, BFLOAT, "untied"), (2, 3, PLAIN, "tied"), (2, 3, BFLOAT_ADAPTED, "untied")]
every_layout = pytest.mark.parametrize(
    ("count", "stage", "model", "folder"), [one if one in ALWAYS else seldom(*one) for one in LAYOUTS], ids=IDS
)
KIB = 1 / 1024  # in MiB
SHORT = 0.5  # seconds


def update(ranks: Ranks, seed: int) -> None:
    """So that B is not zero, and the weights are not those of the folder."""
    ranks.scatter("update", [train_batch(seed, ranks.count // ranks.sharing, ALGORITHM)], ALGORITHM)


def begin(ranks: Ranks, folder: str, stage: int, model: ModelConf, bucket_mib: float) -> None:
    conf = replace(CONF, ranks=ranks.count, zero_stage=stage, weight_sync_bucket_mib=bucket_mib)
    ranks.start(conf, folder, model=model)
    update(ranks, 1)


def stored(ranks: Ranks, version: int = 1) -> Weights:
    first, *others = ranks.call("publish", version)
    assert others == [None] * (ranks.count - 1)
    return first


def same(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == tensor.dtype and torch.equal(mine[name], tensor) for name, tensor in theirs.items()
    )


def _set_bucket(state: dict[str, Any], mib: float) -> None:
    worker = state["worker"]
    worker.engine.conf.weight_sync_bucket_mib = mib
    worker.publisher.bucket = int(mib * 2**20)
    worker.publisher._stage = None


def _one_by_one(state: dict[str, Any]) -> dict[str, Tensor]:
    """Every whole tensor as the optimizer left it; adapters added by the formula, in float32."""
    held = {name: tensor.detach().clone() for name, tensor in state["worker"].engine.parameters()}
    if not state["worker"].model.lora.rank:
        return held
    plain = {name.replace(".base_layer.", "."): t for name, t in held.items() if ".lora_" not in name}
    for name in held:
        if name.endswith(".lora_B.default.weight"):
            layer = name.removesuffix(".lora_B.default.weight")
            change = held[name].float() @ held[f"{layer}.lora_A.default.weight"].float()
            base = held[f"{layer}.base_layer.weight"]
            plain[f"{layer}.weight"] = torch.add(base.float(), change, alpha=ALPHA / RANK).to(base.dtype)
    return plain


@every_layout
def test_every_bucket_size_gives_the_same_bits(
    groups_of_ranks: dict[int, Ranks],
    models: dict[str, str],
    count: int,
    stage: int,
    model: ModelConf,
    folder: str,
) -> None:
    """Everything at once, a few tensors at a time, one at a time: bit by bit what the ranks hold."""
    ranks = groups_of_ranks[count]
    begin(ranks, models[folder], stage, model, 1000.0)
    expected = ranks.each(_one_by_one)[0]
    tied = folder == "tied"
    if tied:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    for mib in (1000.0, 8 * KIB, 1e-6):
        ranks.each(_set_bucket, mib)
        weights = stored(ranks)
        found = dict(weights.tensors())
        assert same(found, expected), mib
        assert not tied or found["lm_head.weight"].data_ptr() == found["model.embed_tokens.weight"].data_ptr()
        assert weights.version == 1
    original = dict(load_policy(models[folder], model.dtype.value).named_parameters())
    moved = [name for name, tensor in original.items() if not torch.equal(tensor, expected[_public(name)])]
    assert moved, "the update changed nothing"


def _public(name: str) -> str:
    return name.replace("body.", "model.").replace("head.weight", "lm_head.weight")


@pytest.mark.parametrize("model", [BFLOAT, ADAPTED], ids=["bfloat16", "lora"])
def test_memory_kept_between_syncs_holds_no_old_weights(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], model: ModelConf
) -> None:
    """Memory kept from one push to the next holds nothing of the last."""
    ranks = groups_of_ranks[2]
    begin(ranks, models["untied"], 3, model, 8 * KIB)
    before = dict(stored(ranks).tensors())
    update(ranks, 2)
    after = dict(stored(ranks, 2).tensors())
    assert same(after, ranks.each(_one_by_one)[0]) and not same(before, after)


# ---------------------------------------------------------------------- what exists besides the shards

WIDE = RandomModelConf(hidden_size=384, layers=2, heads=4, kv_heads=4, ffn_size=640)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Matrices above ZeRO-3's threshold of 1e5 elements, below which it keeps them whole everywhere."""
    return random_model(tmp_path_factory.mktemp("wide"), WIDE, ModelConf(), 7)


def _most_gathered(state: dict[str, Any]) -> tuple[int, int, int]:
    """Bytes of large weights that were whole at one time, at most; of the largest one; of all."""
    engine, most = state["worker"].engine, 0
    large = [p for p in engine.policy.parameters() if p.ds_numel > 1e5]
    assert all(p.numel() == 0 for p in large), "ZeRO-3 keeps them whole: this shows nothing"
    for _ in engine.parameters():
        most = max(most, sum(p.numel() * p.element_size() for p in large))
    sizes = [p.ds_numel * p.element_size() for p in large]
    return most, max(sizes), sum(sizes)


def test_zero_3_weights_are_gathered_bucket_by_bucket(groups_of_ranks: dict[int, Ranks], wide: str) -> None:
    ranks = groups_of_ranks[2]
    ranks.start(replace(CONF, ranks=2, zero_stage=3), wide)
    for mib in (4.0, 1.0, 1e-6):
        ranks.each(_set_bucket, mib)
        for most, largest, total in ranks.each(_most_gathered):
            assert largest <= most <= max(int(mib * 2**20), largest) < total / 2


# ---------------------------------------------------------------------- ipc and nccl, over a CPU's wires


@pytest.fixture
def started(groups_of_ranks: dict[int, Ranks], models: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """`started(count, stage, model, folder, route)`: the ranks and their endpoints."""
    used = []

    def start(
        count: int, stage: int, model: ModelConf, folder: str, route: Route
    ) -> tuple[Ranks, tuple[Endpoint, ...]]:
        ranks = groups_of_ranks[count]
        begin(ranks, models[folder], stage, model, 8 * KIB)
        used.append(ranks)
        return ranks, tuple(ranks.call("open_endpoint", route))

    yield start
    for ranks in used:
        ranks.each(_close_endpoint)


def _close_endpoint(state: dict[str, Any]) -> None:
    state["worker"].publisher.close()


class Fetcher:
    """A worker that only fetches: the receiving side without an engine."""

    def __init__(self, index: int):
        self.name, self.group, self.joined = worker_name(index), None, 0
        self.broadcast_group: Any = None
        self.inbox = transport.Inbox(torch.device("cpu"))
        self.largest = 0  # bytes that came at once

    def fetch(self, offer: Offer) -> dict[str, Tensor]:
        ipc = offer.route.transport is Transport.ipc
        more = {"group": self.group, "processes": 1}
        connection = connect(offer.endpoints[0], self.name, offer.version, offer.route.timeout_s, **more)
        with contextlib.closing(connection):
            return self._handed_out(connection) if ipc else self._broadcast(connection)

    def _handed_out(self, connection: Any) -> dict[str, Tensor]:
        got: dict[str, Tensor] = {}
        while (message := connection.receive("to hand out"))[0] == "chunk":
            chunk, aliases = message[1]
            part = dict(self.inbox.take(chunk))
            self.largest = max(self.largest, sum(chunk.sizes))
            got |= part | {alias: part[name] for alias, name in aliases.items() if name in part}
            connection.send("taken")
        self.inbox.close()
        connection.send("taken")
        return got

    def _broadcast(self, connection: Any) -> dict[str, Tensor]:
        kind, content = connection.receive("to begin")
        if kind == "join":
            self.group, where = content
            self.broadcast_group = broadcast_group.join(torch.device("cpu"), **where)
            self.joined += 1
            kind, content = connection.receive("to begin")
        got: dict[str, Tensor] = {}

        def load(named: list[tuple[str, Tensor]]) -> None:
            self.largest = max(self.largest, sum(t.numel() * t.element_size() for _, t in named))
            got.update(named)

        transport.receive(self.broadcast_group, content["manifest"], content["bucket"], torch.device("cpu"), load)
        connection.send("taken")
        return got | {alias: got[name] for alias, name in content["aliases"].items()}


transports = pytest.mark.parametrize("transport", [Transport.ipc, Transport.nccl], ids=["buffer", "broadcast"])


@transports
@every_layout
def test_fetched_weights_equal_those_of_the_object_store(
    started: Callable[..., Any],
    in_thread: InThread,
    transport: Transport,
    count: int,
    stage: int,
    model: ModelConf,
    folder: str,
) -> None:
    """Two workers, two syncs with an update between; neither gets more than a bucket, or one tensor, at a time."""
    route = Route(transport, 2, timeout_s=60.0)
    ranks, endpoints = started(count, stage, model, folder, route)
    fetchers = [Fetcher(0), Fetcher(1)]
    for version in (1, 2):
        offer = Offer(version, route, endpoints)
        fetching = [in_thread(fetcher.fetch, offer) for fetcher in fetchers]
        sent = ranks.call("send", version)
        assert sent == [None] * count
        expected = dict(stored(ranks).tensors())
        largest = max(t.numel() * t.element_size() for t in expected.values())
        for fetcher, answer in zip(fetchers, fetching, strict=True):
            assert same(answer.result(60), expected)
            assert fetcher.largest <= max(8 * 1024, largest) + 64
        update(ranks, 1 + version)
    assert [fetcher.joined for fetcher in fetchers] == [int(transport is Transport.nccl)] * 2


def test_a_restarted_worker_joins_in_a_new_group(started: Callable[..., Any], in_thread: InThread) -> None:
    route = Route(Transport.nccl, 2, timeout_s=60.0)
    ranks, endpoints = started(1, 0, PLAIN, "tied", route)
    survivor, killed, again = Fetcher(0), Fetcher(1), Fetcher(1)
    for version, other in ((1, killed), (2, again), (3, again)):
        offer = Offer(version, route, endpoints)
        fetching = [in_thread(fetcher.fetch, offer) for fetcher in (survivor, other)]
        ranks.call("send", version)
        assert all(same(answer.result(60), dict(stored(ranks).tensors())) for answer in fetching)
    assert (survivor.joined, killed.joined, again.joined) == (2, 1, 1)


@transports
def test_a_copy_is_kept_if_requested(started: Callable[..., Any], in_thread: InThread, transport: Transport) -> None:
    """For a worker that starts later: it goes to the object store with the answer of rank 0."""
    route = Route(transport, 1, timeout_s=60.0, keep=True)
    ranks, endpoints = started(2, 3, ADAPTED, "tied", route)
    fetching = in_thread(Fetcher(0).fetch, Offer(5, route, endpoints))
    kept, other = ranks.call("send", 5)
    assert other is None and kept.version == 5
    assert same(dict(kept.tensors()), fetching.result(60))
    assert same(dict(kept.tensors()), dict(stored(ranks).tensors()))


@transports
def test_the_manifest_lists_what_is_sent(started: Callable[..., Any], transport: Transport) -> None:
    """Names, dtypes, shapes and order, of whole and merged tensors, without a gather."""
    ranks, _ = started(2, 3, BFLOAT_ADAPTED, "untied", Route(transport, 1))
    manifest = ranks.each(_manifest)[0]
    announced = list(zip(manifest.names, manifest.dtypes, manifest.shapes, strict=True))
    sent = [(entry.name, entry.dtype, entry.shape) for entry in stored(ranks).entries]
    assert announced == sent and not any("lora" in name for name, *_ in sent)
    assert sum(manifest.sizes()) == sum(entry.size for entry in stored(ranks).entries)


def _manifest(state: dict[str, Any]) -> transport.Manifest:
    return state["worker"].publisher.manifest


def test_a_stream_unlike_its_manifest_is_rejected() -> None:
    named = [("a", torch.ones(2, 3)), ("b", torch.ones(4))]
    manifest = transport.Manifest.of(named)
    assert [name for name, _ in transport.checked(named, manifest)] == ["a", "b"]
    for wrong, message in [
        (named[:1], "end after 1 of 2 entries"),
        (named[::-1], "entry 0 is"),
        ([*named, ("c", torch.ones(1))], "entry 2 is"),
        ([named[0], ("b", torch.ones(4, dtype=torch.bfloat16))], "entry 1 is .*bfloat16"),
    ]:
        with pytest.raises(ValueError, match=message):
            list(transport.checked(wrong, manifest))


def test_a_worker_that_dies_half_way_costs_the_others_nothing_where_a_copy_is_kept(
    started: Callable[..., Any], in_thread: InThread
) -> None:
    route = Route(Transport.ipc, 2, timeout_s=60.0, keep=True, deferred=True)
    ranks, endpoints = started(1, 0, PLAIN, "tied", route)
    sending = in_thread(ranks.call, "send", 4)
    dying = connect(endpoints[0], worker_name(0), 4, 60.0, group=None, processes=1)
    fetching = in_thread(Fetcher(1).fetch, Offer(4, route, endpoints))
    dying.receive("to hand out")
    dying.close()
    (kept,) = sending.result(60)
    assert same(fetching.result(60), dict(stored(ranks).tensors())) and same(dict(kept.tensors()), fetching.result(60))
    again = [in_thread(Fetcher(index).fetch, Offer(5, route, endpoints)) for index in (0, 1)]
    ranks.call("send", 5)
    assert all(same(answer.result(60), dict(stored(ranks).tensors())) for answer in again)


# ---------------------------------------------------------------------- time-outs


@transports
def test_workers_that_do_not_connect_are_named(
    started: Callable[..., Any], in_thread: InThread, transport: Transport
) -> None:
    route = Route(transport, 3, timeout_s=SHORT)
    ranks, endpoints = started(1, 0, PLAIN, "tied", route)
    coming = in_thread(Fetcher(1).fetch, Offer(4, route, endpoints))
    missing = "rollout worker 0, rollout worker 2"
    expected = f"learner rank 0 timed out after 0.5 s waiting for {missing} to fetch the weights of version 4"
    with pytest.raises(TimeoutError, match=expected):
        ranks.call("send", 4)
    with pytest.raises((TimeoutError, ConnectionError), match=r"rollout worker 1 .*learner rank 0"):
        coming.result(10)


@transports
def test_a_worker_that_stops_half_way_is_named(
    started: Callable[..., Any], in_thread: InThread, transport: Transport
) -> None:
    """Then the next push goes through, with a worker that comes anew."""
    route = Route(transport, 1, timeout_s=SHORT)
    ranks, endpoints = started(1, 0, PLAIN, "tied", route)
    sending = in_thread(ranks.call, "send", 4)
    connection = connect(endpoints[0], worker_name(0), 4, 30.0, group=None, processes=1)
    connection.receive("to begin")  # the first chunk, or the group's address; and no more
    with (
        connection.connection,
        pytest.raises(TimeoutError, match=r"learner rank 0 timed out after 0.5 s waiting for rollout worker 0 to"),
    ):
        sending.result(30)
    longer = replace(route, timeout_s=60.0)
    endpoints = tuple(ranks.call("open_endpoint", longer))
    assert_a_new_worker_gets_the_weights(ranks, endpoints, longer, in_thread)


def assert_a_new_worker_gets_the_weights(
    ranks: Ranks, endpoints: tuple[Endpoint, ...], route: Route, in_thread: InThread
) -> None:
    """In the sync after one that failed."""
    fetching = in_thread(Fetcher(0).fetch, Offer(5, route, endpoints))
    ranks.call("send", 5)
    assert same(fetching.result(60), dict(stored(ranks).tensors()))


def test_a_worker_that_leaves_the_broadcast_is_named(started: Callable[..., Any], in_thread: InThread) -> None:
    """It is in the group, and takes no part."""
    route = Route(Transport.nccl, 1, timeout_s=2.0)
    ranks, endpoints = started(1, 0, PLAIN, "tied", route)
    sending = in_thread(ranks.call, "send", 4)
    connection = connect(endpoints[0], worker_name(0), 4, 30.0, group=None, processes=1)
    _, (_, where) = connection.receive("to begin")
    group = broadcast_group.join(torch.device("cpu"), **where)
    connection.receive("to begin")
    connection.close()
    group.destroy()
    with pytest.raises((TimeoutError, ConnectionError), match=r"learner rank 0 .*rollout worker 0"):
        sending.result(30)


def test_a_worker_killed_before_it_joins_the_group_is_named_at_once(
    started: Callable[..., Any], in_thread: InThread
) -> None:
    """Not as one that takes too long; and the next sync goes through, with a worker that comes anew."""
    route = Route(Transport.nccl, 1, timeout_s=20.0)
    ranks, endpoints = started(1, 0, PLAIN, "tied", route)
    sending = in_thread(ranks.call, "send", 4)
    with leaving.process(leaving.worker_told_to_join, endpoints[0], 4) as (worker, pipe):
        assert pipe.recv() == "join"
        assert not sending.done()
        worker.kill()
        expected = "learner rank 0 waited for rollout worker 0 to join the broadcast group, but it hung up or died"
        with pytest.raises(ConnectionError, match=expected):
            sending.result(60)
    assert_a_new_worker_gets_the_weights(ranks, endpoints, route, in_thread)


def test_the_buffer_is_released_when_the_worker_has_let_go(started: Callable[..., Any], in_thread: InThread) -> None:
    """A sync ends for the rank when its buffer is nobody's any more, and twenty leave nothing behind."""
    route = Route(Transport.ipc, 1, timeout_s=60.0)
    ranks, endpoints = started(1, 0, PLAIN, "tied", route)
    gc.collect()
    others = _mapped()  # by what other tests have left in this process
    sending = in_thread(ranks.call, "send", 1)
    connection = connect(endpoints[0], worker_name(0), 1, 60.0, group=None, processes=1)
    inbox = transport.Inbox(torch.device("cpu"))
    while (message := connection.receive("to hand out"))[0] == "chunk":
        inbox.take(message[1][0])
        connection.send("taken")
    assert not sending.done() and _mapped() == others + 1  # it loads what it took, and has not let go yet
    inbox.close()
    connection.send("taken")
    sending.result(60)
    fetcher, before = Fetcher(0), ranks.each(_open_files)
    for version in range(2, 22):
        fetching = in_thread(fetcher.fetch, Offer(version, route, endpoints))
        ranks.call("send", version)
        assert _mapped() <= others
        fetching.result(60)
    assert ranks.each(_open_files) == before and _mapped() <= others


def _mapped() -> int:
    """Senders' buffers that this process maps."""
    return Path("/proc/self/maps").read_text().count("memfd:thinkless-weights")


def _open_files(state: dict[str, Any]) -> tuple[int, int]:
    """Of a rank's process: open files, and buffers that it maps."""
    return len(os.listdir("/proc/self/fd")), _mapped()


def test_a_receiver_times_out_if_no_broadcast_comes() -> None:
    """Rank 0 is in the group and sends nothing."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cpu, message = torch.device("cpu"), "rollout worker 0 waited for learner rank 0"
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(broadcast_group.join, cpu, "127.0.0.1", port, 0, 2, 1.0)
        group = broadcast_group.join(cpu, "127.0.0.1", port, 1, 2, 1.0)
        silent = joining.result(10)
    manifest = transport.Manifest.of([("a", torch.ones(4))])
    with pytest.raises(TimeoutError, match=message), broadcast_group.bounded(1.0, group.destroy, message):
        transport.receive(group, manifest, 10, cpu, lambda named: None)
    silent.destroy()


# ---------------------------------------------------------------------- memory to copy into


def test_the_staging_buffer_is_reused() -> None:
    sizes = [3, 40, 200, 7, 64, 0, 150]  # of floats; a bucket holds 128 of them
    stage, seen = StagingBuffer(512, page_locked=False), []
    for round_ in range(3):
        stage.begin()
        tensors = [(f"t{i}", torch.full((size,), float(round_ * 10 + i))) for i, size in enumerate(sizes)]
        for name, tensor in tensors:
            stage.put(name, tensor)
        weights = stage.weights(round_, {"again": "t2"})
        assert same(dict(weights.tensors()), dict(tensors) | {"again": tensors[2][1]})
        apart = {(e.buffer, e.offset): e.size for e in weights.entries if e.name != "again"}
        assert all(offset % ALIGNMENT == 0 for _, offset in apart)
        for (buffer, offset), size in apart.items():
            assert not any(b == buffer and offset < at < offset + size for b, at in apart)
        seen.append([buffer.ctypes.data for buffer in weights.buffers])
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 4


def test_live_weights_are_not_copied(make_learner: MakeLearner, tiny_model: Path) -> None:
    """On the CPU without ZeRO-3 or adapters, the object store's copy is the only one."""
    learner = make_learner(tiny_model)
    (rank,) = learner.ranks
    assert isinstance(rank, LocalHandle)
    engine = rank.body.engine
    found = dict(rank.call("publish", 1).wait().tensors())
    held = {engine.policy.public_name(name): p.data_ptr() for name, p in engine.policy.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in found.items() if name in held} == held
