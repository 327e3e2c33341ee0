"""Which actor sits where: the only file that decides what is in a placement group.

In: configuration. Out: a `Plan`: bundles of resources, and for every actor its bundle and its part of it. Must not
know: Ray (`orchestrator.cluster.actors` carries a plan out), what the actors do.

    disaggregated   one bundle per actor: k samplers on `tensor_parallel` GPUs each, learner ranks on one GPU each
    colocated       one bundle per sampler with its `tensor_parallel` GPUs, and a learner rank on each of these

A bundle lies on one host, so a tensor-parallel sampler has its GPUs on one host. Learner ranks have GPUs of their own
in both (NCCL refuses two ranks on one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from conf.schema import Device, LearnerConf, Placement, RewardConf, RolloutConf

Bundle = dict[str, float]  # {"CPU": ..., "GPU": ...}; no entry for a resource that it does not need


class Role(Enum):
    """The kinds of actors; the value is what one is called in messages."""

    rollout = "rollout worker"
    learner = "learner rank"
    reward = "reward actor"

    @property
    def key(self) -> str:
        """The configuration key that holds their number."""
        return {"rollout": "rollout.workers", "learner": "learner.ranks", "reward": "reward.workers"}[self.name]


@dataclass(frozen=True, slots=True)
class Seat:
    """One actor's place."""

    bundle: int
    cpus: float
    gpus: float  # as Ray counts them: a half each for a sampler and a learner rank on one GPU
    beside: tuple[int, ...] = ()  # learner ranks whose GPUs this sampler uses; Ray counts them as those ranks' alone


@dataclass(frozen=True, slots=True)
class Plan:
    """One placement group: all of it is placed, or nothing is.

    Example: colocated, two samplers on two GPUs each, four learner ranks:

        bundles  {"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}
        seats    rollout: (0, gpus=0, beside=(0, 1)), (1, gpus=0, beside=(2, 3))
                 learner: (0, gpus=1), (0, gpus=1), (1, gpus=1), (1, gpus=1)
    """

    bundles: tuple[Bundle, ...]
    seats: Mapping[Role, tuple[Seat, ...]]
    strategy: str = "PACK"  # as few hosts as hold them

    def needs(self, resource: str) -> float:
        """What all bundles take together of "CPU" or "GPU"."""
        return sum(bundle.get(resource, 0.0) for bundle in self.bundles)

    def parts(self, resource: str) -> dict[str, tuple[int, float]]:
        """{"rollout.workers": (count, of each)} for the roles that take any of it."""
        each = {
            role: (getattr(seats[0], f"{resource.lower()}s") if seats else 0.0) for role, seats in self.seats.items()
        }
        return {role.key: (len(self.seats[role]), amount) for role, amount in each.items() if amount}


def plan(
    placement: Placement,
    rollout: RolloutConf | None = None,
    learner: LearnerConf | None = None,
    reward: RewardConf | None = None,
) -> Plan:
    """The plan of those that are given. Alone (a warm-up, an evaluation), samplers or ranks have whole GPUs in any
    placement. Raises ValueError for a colocated plan in which samplers and ranks do not pair up (`conf.check` rejects
    it earlier)."""
    bundles: list[Bundle] = []
    seats: dict[Role, tuple[Seat, ...]] = {}
    if placement is Placement.colocated and rollout is not None and learner is not None:
        _together(bundles, seats, rollout, learner)
    else:
        if rollout is not None:
            many = rollout.tensor_parallel
            gpus = (rollout.num_gpus if many == 1 else float(many)) if rollout.device is Device.gpu else 0.0
            seats[Role.rollout] = _alone(bundles, rollout.workers, rollout.num_cpus * many, gpus)
        if learner is not None:
            gpus = learner.num_gpus if learner.device is Device.gpu else 0.0
            seats[Role.learner] = _alone(bundles, learner.ranks, learner.num_cpus, gpus)
    if reward is not None:
        seats[Role.reward] = _alone(bundles, reward.workers, reward.num_cpus, 0.0)
    return Plan(tuple(bundles), seats)


def _alone(bundles: list[Bundle], count: int, cpus: float, gpus: float) -> tuple[Seat, ...]:
    first = len(bundles)
    bundles += [_bundle(cpus, gpus) for _ in range(count)]
    return tuple(Seat(first + i, cpus, gpus) for i in range(count))


def _together(
    bundles: list[Bundle], seats: dict[Role, tuple[Seat, ...]], rollout: RolloutConf, learner: LearnerConf
) -> None:
    """Ray gives two halves of a bundle with one GPU the same GPU. Of a bundle with several it would give two halves the
    same one as well, so there every rank takes a whole GPU, and the sampler is told to use theirs."""
    many = rollout.tensor_parallel
    if rollout.workers * many != learner.ranks:
        raise ValueError(f"{rollout.workers} x {many} sampler GPUs do not pair with {learner.ranks} learner ranks")
    gpu = learner.device is Device.gpu
    halves = gpu and many == 1
    cpus = rollout.num_cpus * many
    bundles += [_bundle(cpus + many * learner.num_cpus, many if gpu else 0.0) for _ in range(rollout.workers)]
    seats[Role.rollout] = tuple(
        Seat(w, cpus, 0.5 if halves else 0.0, tuple(range(w * many, (w + 1) * many)) if gpu and many > 1 else ())
        for w in range(rollout.workers)
    )
    rank_gpus = 0.5 if halves else float(gpu)
    seats[Role.learner] = tuple(Seat(r // many, learner.num_cpus, rank_gpus) for r in range(learner.ranks))


def _bundle(cpus: float, gpus: float) -> Bundle:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
