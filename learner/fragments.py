"""The learner's state, apart from it: float32 weights and Adam's moments, by parameter and place, however ZeRO divides
them.

In: a policy and its optimizer under any ZeRO stage, on any number of ranks. Out: what each rank's file holds
(`learner.saving` writes it), or arrays, and the state back from either, bit for bit, under any other stage and number
of ranks. Must not know: schedules, which folder is a checkpoint.

Each rank gives the values that it holds, and reads those that it needs from whichever part has them. A part holds
1-D float32 arrays named "<kind>/<parameter>/<first>": values of the flattened parameter from place <first> on. Nothing
is pickled into a file, so that one that somebody else has written is numbers and names, whatever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from learner.saving import Content
from rollout.base.errors import BadInput

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
FILE = "rank_{:05d}.safetensors"
STEPS = "steps"  # of Adam, in each file's metadata


@dataclass(frozen=True, slots=True)
class Fragment:
    """Values `first` to `first + size` of a flattened parameter, where this rank's optimizer keeps them."""

    name: str
    first: int
    weight: Tensor  # f32[size or more], a view; what is behind `size` is padding
    moments: dict[str, Tensor]  # likewise, by kind
    size: int

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for kind, values in ((WEIGHT, self.weight), *self.moments.items()):
            yield kind, values[: self.size]


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank holds."""

    steps: int  # of Adam
    arrays: dict[str, np.ndarray]  # f32, by "<kind>/<parameter>/<first>"


class State:
    """That of one rank. optimizer: torch's; zero: DeepSpeed's around it, or torch's again where there is none."""

    def __init__(self, policy: nn.Module, optimizer: torch.optim.Optimizer, zero: Any, rank: int):
        self.policy, self.optimizer, self.zero, self.rank = policy, optimizer, zero, rank
        self.named = {name: one for name, one in policy.named_parameters() if one.requires_grad}

    def content(self) -> Content | None:
        """Of this rank's file; its tensors are those that the optimizer changes. None: without ZeRO all hold the same,
        and only rank 0 has a file. No rank waits for another."""
        if self.rank and self.zero is self.optimizer:
            return None
        masters = self._masters()
        self._begin(masters, 0)
        found = {f"{kind}/{one.name}/{one.first}": values for one in self.fragments() for kind, values in one.tensors()}
        steps = int(self.optimizer.state[masters[0]]["step"]) if masters else 0
        return Content(FILE.format(self.rank), found, {STEPS: str(steps)})

    def part(self) -> Part | None:
        """The same for `Saved.of`; on a CPU in this rank's own memory, too."""
        if (content := self.content()) is None:
            return None
        arrays = {k: v.detach().to("cpu", torch.float32).contiguous().numpy() for k, v in content.tensors.items()}
        return Part(int(content.said[STEPS]), arrays)

    @torch.no_grad()
    def load(self, saved: Saved) -> None:
        """Raises BadInput for values that no part has, that are not of this model, and for a damaged file."""
        self._begin(self._masters(), saved.steps)
        saved.refuse_others({name: _size(one) for name, one in self.named.items()})
        for one in self.fragments():
            for kind, values in one.tensors():
                values.copy_(saved.read(kind, one.name, one.first, one.size))
        for name, parameter in self.named.items():
            self._take_over(name, parameter, saved)

    def fragments(self) -> Iterator[Fragment]:
        """Those that this rank holds."""
        for name, parameter in self.named.items():
            whole: Any = parameter
            if hasattr(parameter, "ds_id"):  # ZeRO-3
                yield self._third(name, whole)
            elif hasattr(parameter, "_hp_mapping"):  # ZeRO-1 and -2, and bfloat16 without ZeRO
                held = whole._hp_mapping
                if held is not None:
                    moments = {kind: held.get_hp_fragment(kind) for kind in MOMENTS}
                    first = held.lp_fragment_address.start
                    yield Fragment(name, first, held.get_hp_fragment(), moments, held.lp_fragment_address.numel)
            else:
                state = self.optimizer.state[parameter]
                moments = {kind: state[kind].view(-1) for kind in MOMENTS}
                yield Fragment(name, 0, parameter.data.view(-1), moments, parameter.numel())

    def _third(self, name: str, parameter: Any) -> Fragment:
        weight, *rest = (
            self.zero._get_fp32_opt_state_partition(parameter, False, kind)[0] for kind in (None, *MOMENTS)
        )
        first, size = self._place(parameter)
        return Fragment(name, first, weight, dict(zip(MOMENTS, rest, strict=True)), size)

    def _place(self, parameter: Any) -> tuple[int, int]:
        """First place and number of the values that this rank has of a parameter under ZeRO-3, without padding."""
        width = parameter.ds_tensor.ds_numel
        first = width * self.zero._get_param_partition_rank(parameter)
        return first, max(0, min(width, parameter.ds_numel - first))

    def _masters(self) -> list[Tensor]:
        """The float32 tensors that torch's optimizer updates on this rank."""
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
            if (found := getattr(self.zero, name, None)) is not None:
                return list(found)
        return list(self.named.values())

    def _begin(self, masters: list[Tensor], steps: int) -> None:
        """Adam makes its state at its first step: make it now where it is not there. steps: those it has done."""
        fused = bool(self.optimizer.defaults.get("fused"))
        for one in masters:
            state = self.optimizer.state[one]
            if "step" not in state:
                state["step"] = torch.tensor(0.0, dtype=torch.float32, device=one.device if fused else "cpu")
                state |= {kind: torch.zeros_like(one.data, memory_format=torch.preserve_format) for kind in MOMENTS}
            if steps:
                state["step"].fill_(steps)
        link = getattr(self.zero, "_lazy_init_hp_params_optimizer_state", None)
        if link is not None:
            link()

    def _take_over(self, name: str, parameter: Any, saved: Saved) -> None:
        """The weights that are computed with, where the optimizer has float32 copies of its own."""
        if hasattr(parameter, "ds_id"):
            first, size = self._place(parameter)
            parameter.ds_tensor.data[:size].copy_(saved.read(WEIGHT, name, first, size))
            if parameter.data.numel() == parameter.ds_numel:  # small ones are whole on every rank
                parameter.data.view(-1).copy_(saved.read(WEIGHT, name, 0, parameter.ds_numel))
        elif hasattr(parameter, "_hp_mapping"):
            parameter.data.view(-1).copy_(saved.read(WEIGHT, name, 0, parameter.numel()))


class Saved:
    """All ranks' parts: of a checkpoint, or as they were kept in memory."""

    def __init__(self, where: str):
        """where: they are, for errors. See `read_from` and `of`."""
        self.where, self.steps = where, 0
        self._places: dict[tuple[str, str], list[tuple[int, int, Any]]] = {}  # first, size, values, to be sliced

    @classmethod
    def read_from(cls, folder: Path) -> Saved:
        """The files of all ranks that saved. Raises BadInput when there is none, or one that is no such file."""
        saved, paths = cls(f"the checkpoint {folder}"), sorted(folder.glob(FILE.replace("{:05d}", "*")))
        if not paths:
            raise BadInput(f"{folder} has no {FILE.format(0)}: it is no checkpoint of a learner, or not all of one")
        for path in paths:
            try:
                file = safe_open(path, "np")
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  not a mapping
                if {one.get_dtype() for one in slices.values()} - {"F32"}:
                    raise ValueError("not all of it is float32")
                saved._add(int(file.metadata()[STEPS]), slices, lambda one: one.get_shape())
            except (SafetensorError, ValueError, LookupError, OSError) as error:
                raise BadInput(f"{path} is damaged, or no file of a checkpoint ({error})") from error
        return saved

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Saved:
        saved = cls("the state that was kept")
        for part in parts:
            saved._add(part.steps, part.arrays, lambda values: values.shape)
        return saved

    def _add(self, steps: int, values: Mapping[str, Any], shape: Callable[[Any], Sequence[int]]) -> None:
        self.steps = steps
        for key, one in values.items():
            kind, _, rest = key.partition("/")
            name, _, first = rest.rpartition("/")
            (size,) = shape(one)
            self._places.setdefault((kind, name), []).append((int(first), size, one))

    def refuse_others(self, sizes: dict[str, int]) -> None:
        """BadInput unless the files hold these parameters, with these numbers of values, and no others."""
        held = {
            name: max(f + n for f, n, *_ in places) for (kind, name), places in self._places.items() if kind == WEIGHT
        }
        for name in [*sizes, *held]:
            if held.get(name) != sizes.get(name):
                there, here = held.get(name, "no"), sizes.get(name, "none")
                raise BadInput(f"{name} has {there} values in {self.where} and {here} in the model")

    def read(self, kind: str, name: str, first: int, size: int) -> Tensor:
        """f32[size]."""
        found, got = np.empty(size, np.float32), 0
        for start, length, values in sorted(self._places.get((kind, name), []), key=lambda place: place[0]):
            begin, end = max(start, first + got), min(start + length, first + size)
            if begin == first + got and begin < end:
                found[got : end - first] = values[begin - start : end - start]
                got = end - first
        if got < size:
            raise BadInput(f"{self.where} lacks values of {name} ({kind}), from place {first + got} on: a file is gone")
        return torch.from_numpy(found)


def _size(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
