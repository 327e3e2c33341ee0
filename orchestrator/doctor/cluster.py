"""The Ray cluster that runs would join: a small actor on every node tells what it sees and measures the way to others.

In: the cluster's address, cluster.network_interface, model.path, data.path. Out: findings. Must not know: runs. Every
wait has an end: a node that does not answer is a finding.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray._private.state import state
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from conf.schema import ClusterConf
from conf.shell import command_line
from orchestrator.base.errors import RunError
from orchestrator.cluster.network import environment, host_address
from orchestrator.cluster.ray_connection import connect, disconnect
from orchestrator.doctor.findings import GIB, Finding, note, problem
from orchestrator.doctor.machine import DISK_GIB, FILES, SHM_GIB
from orchestrator.doctor.probe import Probe
from rollout.base.errors import BadInput

START_S, CALL_S, COLLECTIVE_S = 45.0, 20.0, 30.0
MEGABYTES = 64  # of a connection's measurement
SLOW = 1e8  # bytes/s: below it a push of a 1.5B model takes half a minute
SKEW_S = 0.5  # between two hosts' clocks, above what the round trip leaves open


@dataclass(frozen=True, slots=True)
class _Node:
    id: str
    name: str
    gpus: float


def cluster(address: str, interface: str | None, model: str | None, data: str | None) -> Iterator[Finding]:
    try:
        token = connect(ClusterConf(address=address, network_interface=interface))
    except (BadInput, RunError) as error:
        yield problem(str(error).removesuffix(f"; and {command_line('doctor')}"))
        return
    probes: dict[_Node, Any] = {}
    try:
        yield from _nodes()
        yield from dead_runs()
        yield from _start(probes, interface)
        facts: dict[_Node, dict[str, Any]] = {}
        for node, answer in _answers({n: p.facts.remote(model, data) for n, p in probes.items()}, CALL_S).items():
            if isinstance(answer, Exception):
                yield problem(f"node {node.name} does not tell what it has: {_brief(answer)}")
            else:
                facts[node] = answer
        probes = {node: probe for node, probe in probes.items() if node in facts}
        yield from describe(_one_each(facts), model, data)
        yield from _clocks(probes)
        yield from _connections(probes, facts)
        yield from _collectives(probes, facts, interface)
    finally:
        for probe in probes.values():
            ray.kill(probe)
        disconnect(token)


def _nodes() -> Iterator[Finding]:
    nodes = ray.nodes()
    alive = [node for node in nodes if node["Alive"]]
    total = ray.cluster_resources()
    yield Finding(
        f"the cluster has {len(alive)} node(s), {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs; free: "
        f"{ray.available_resources().get('CPU', 0):g} and {ray.available_resources().get('GPU', 0):g}"
    )
    for node in nodes:
        if not node["Alive"]:
            yield note(f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) has left the cluster")


def dead_runs() -> Iterator[Finding]:
    """Actors and placement groups of drivers that have ended, which hold places that others wait for."""
    ended = {job["JobID"] for job in state.job_table() if job.get("IsDead")}
    held = [one for one in state.actor_table(None).values() if one["State"] == "ALIVE" and one["JobID"] in ended]
    names = sorted({str(one.get("ActorClassName")) for one in held})
    if held:
        yield note(
            f"{len(held)} actor(s) of runs that have ended are alive ({', '.join(names)}) and keep their places: `ray "
            "list actors --filter state=ALIVE`, then ray.kill, or restart the cluster"
        )
    else:
        yield Finding("no actor of a run that has ended is alive")


def _start(probes: dict[_Node, Any], interface: str | None) -> Iterator[Finding]:
    """A probe on every living node; two on a single one, so that there is somebody to talk to."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    made: dict[_Node, Any] = {}
    for node in alive:
        for _ in range(2 if len(alive) == 1 else 1):
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            if same := sum(one.name.startswith(name) for one in made):  # several nodes, or probes, on a host
                name = f"{name} no. {same + 1}"
            key = _Node(node["NodeID"], name, node["Resources"].get("GPU", 0.0))
            made[key] = (
                ray.remote(Probe)
                .options(
                    num_cpus=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                    runtime_env={"env_vars": environment(interface)} if interface else None,
                )
                .remote(partial(host_address, interface))
            )
    probes.update(made)
    for key, answer in _answers({key: probe.now.remote() for key, probe in made.items()}, START_S).items():
        if isinstance(answer, Exception):
            del probes[key]
            ray.kill(made[key])
            yield problem(
                f"node {key.name}: no actor of ours starts there ({_brief(answer)}): the project must be installed "
                "there in the same path and version (docs/install.md), and cluster.network_interface must exist"
            )


def _one_each(facts: Mapping[_Node, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By name, one for each node."""
    first = {node.id: node for node in reversed(list(facts))}
    return {node.name: found for node, found in facts.items() if first[node.id] is node}


def describe(
    facts: Mapping[str, Mapping[str, Any]], model: str | None, data: str | None
) -> Iterator[Finding]:  # fmt: skip
    """facts: of `Probe.facts`, by node; the first node's versions are those that the others are compared with."""
    names = list(facts)
    for name in names:
        found = facts[name]
        where = f"node {name}"
        yield Finding(
            f"{where}: traffic between hosts takes {found['interface']} ({found['address']}); /dev/shm "
            f"{found['shm_free'] / GIB:.1f} GiB free, disk {found['disk_free'] / GIB:.1f}, open files "
            f"{found['files']:,}"
        )
        for level, text in found["gpus"]:
            yield Finding(f"{where}: {text}", level)
        if found["shm_free"] < SHM_GIB * GIB:
            yield problem(f"{where}: /dev/shm is too small for Ray's object store: --shm-size in a container")
        if found["disk_free"] < DISK_GIB * GIB:
            yield problem(f"{where}: less than {DISK_GIB:g} GiB of disk for Ray's own files: free some, or set TMPDIR")
        if 0 <= found["files"] < FILES:
            yield note(f"{where}: {found['files']} open files at most: `ulimit -n 65536` before `ray start` there")
        if found["clock"] is False:
            yield note(f"{where}: its clock is not synchronized (timedatectl set-ntp true)")
        for key, path in (("model", model), ("data", data)):
            if found[key] is None:
                continue
            if key == "model":
                yield problem(
                    f"{where} cannot read model.path={path}: {found[key]}: copy it there, or put it on a disk that "
                    "all share"
                )
            else:
                yield note(f"{where} cannot read data.path={path} ({found[key]}): only the host of the driver has to")
        other = [
            f"{package} {there} ({mine} on {names[0]})"
            for package, there in found["versions"].items()
            if there != (mine := facts[names[0]]["versions"].get(package))
        ]
        if other or found["python"] != facts[names[0]]["python"]:
            other = other or [f"Python {found['python']} ({facts[names[0]]['python']} on {names[0]})"]
            yield problem(f"{where} has other versions: {', '.join(other)}: install the same lock on all nodes")
    if model is not None and names and all(found["model"] is None for found in facts.values()):
        yield Finding(f"model.path={model} can be read on every node that answers")


def _clocks(probes: Mapping[_Node, Any]) -> Iterator[Finding]:
    skews: dict[str, float] = {}
    for node, probe in probes.items():
        offsets = []
        for _ in range(3):
            before = time.time()
            there = _answers({node: probe.now.remote()}, CALL_S)[node]
            after = time.time()
            if not isinstance(there, Exception):
                offsets.append((after - before, there - (before + after) / 2))
        if offsets:
            trip, offset = min(offsets)
            skews[node.name] = max(abs(offset) - trip / 2, 0.0)
    wrong = {name: skew for name, skew in skews.items() if skew > SKEW_S}
    for name, skew in wrong.items():
        yield note(f"node {name}: its clock differs by {skew:.1f} s from this host's: synchronize them by NTP")
    if skews and not wrong:
        yield Finding(f"clocks differ by at most {max(skews.values()):.3f} s beyond the round trip")


def _connections(probes: Mapping[_Node, Any], facts: Mapping[_Node, Mapping[str, Any]]) -> Iterator[Finding]:
    """Each node to the next, in a ring: every node sends and receives once."""
    nodes = list(probes)
    rates: dict[str, float] = {}
    for sender, receiver in zip(nodes, [*nodes[1:], *nodes[:1]], strict=True):
        if sender is receiver:
            continue
        way = f"{sender.name} to {receiver.name}"
        listening = _answers({receiver: probes[receiver].listen.remote()}, CALL_S)[receiver]
        if isinstance(listening, Exception):
            yield problem(f"node {receiver.name} cannot listen on {facts[receiver]['address']}: {_brief(listening)}")
            continue
        rate = _answers({sender: probes[sender].send.remote(*listening, MEGABYTES)}, CALL_S + 5)[sender]
        if isinstance(rate, Exception):
            yield problem(
                f"{way} ({listening[0]}): no connection ({_brief(rate)}): open the ports between the hosts, or choose "
                "another network by cluster.network_interface"
            )
        else:
            rates[way] = rate
            if rate < SLOW:
                yield note(
                    f"{way}: {rate / 1e6:.0f} MB/s, which a weight sync would wait for (cluster.network_interface)"
                )
    if rates:
        slowest = min(rates, key=lambda way: rates[way])
        yield Finding(
            f"TCP between nodes: {statistics.median(rates.values()) / 1e9:.2f} GB/s (median); slowest: {slowest}, "
            f"{rates[slowest] / 1e9:.2f}"
        )


def _collectives(
    probes: Mapping[_Node, Any], facts: Mapping[_Node, Mapping[str, Any]], interface: str | None
) -> Iterator[Finding]:
    if len(probes) < 2:
        return
    yield _collective("gloo", probes, facts)
    free = ray.available_resources().get("GPU", 0)
    with_gpu = [node for node in probes if node.gpus]
    if not with_gpu:
        return
    if len(with_gpu) < 2 or free < len(with_gpu) or len({node.id for node in with_gpu}) < len(with_gpu):
        yield note("NCCL between hosts is not tried: it needs a free GPU on each of two nodes")
        return
    options = {"num_cpus": 0, "num_gpus": 1}
    made: dict[_Node, Any] = {
        node: ray.remote(Probe)
        .options(
            **options,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            runtime_env={"env_vars": environment(interface)} if interface else None,
        )
        .remote(partial(host_address, interface))
        for node in with_gpu
    }
    try:
        yield _collective("nccl", made, facts)
    finally:
        for probe in made.values():
            ray.kill(probe)


def _collective(backend: str, probes: Mapping[_Node, Any], facts: Mapping[_Node, Mapping[str, Any]]) -> Finding:
    nodes = list(probes)
    master = facts[nodes[0]]["address"]
    port = _answers({nodes[0]: probes[nodes[0]].free_port.remote()}, CALL_S)[nodes[0]]
    if isinstance(port, Exception):
        return problem(f"{backend} between all nodes: {_brief(port)}")
    calls = {
        node: probes[node].collective.remote(backend, rank, len(nodes), master, port, COLLECTIVE_S)
        for rank, node in enumerate(nodes)
    }
    answers = _answers(calls, COLLECTIVE_S + CALL_S)
    failed = {node.name: answer for node, answer in answers.items() if isinstance(answer, Exception)}
    if failed:
        name, reason = next(iter(failed.items()))
        return problem(
            f"{backend} between all nodes fails on {name}: {_brief(reason)}: open the ports between the hosts, or "
            "choose another network by cluster.network_interface"
        )
    slowest = max(answers.values())
    return Finding(f"{backend} between {len(nodes)} processes: an all-reduce of a MiB takes {1e3 * slowest:.1f} ms")


def _answers(calls: Mapping[_Node, Any], timeout_s: float) -> dict[_Node, Any]:
    """What each call returned, or the exception: TimeoutError for those that did not answer in time."""
    ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)
    found: dict[_Node, Any] = {}
    for node, call in calls.items():
        try:
            found[node] = ray.get(call, timeout=0.1)
        except GetTimeoutError:
            found[node] = TimeoutError(f"no answer within {timeout_s:g} s")
        except (RayError, OSError, RuntimeError, BadInput) as error:
            found[node] = error
    return found


def _brief(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines: Sequence[str] = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[-1].strip()[:200]
