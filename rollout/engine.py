"""One vLLM engine in this process, stepped by its owner.

In: token ids with sampling parameters; weights, which are loaded between two steps, also with sequences in flight. Out:
sampled ids, each with its log-prob (after temperature) and the version of the weights that sampled it. Must not know:
prompts' answers, groups, batches, Ray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from conf.chosen import async_scheduling
from conf.schema import Device, ModelConf, OnWeightSync, RolloutConf
from rollout.base.deterministic import deterministic_sampler
from rollout.base.errors import BadInput, in_one_line
from rollout.base.gpu import refuse_no_gpu
from rollout.base.vllm_environment import prepare_environment
from rollout.data.tokens import refuse_absent
from rollout.steering import Steering
from rollout.usage import UsageWatch
from rollout.vllm_models import refuse_cpu_vllm
from rollout.weight_sync.weights import Offer, Weights

SLEEP_TAGS = ("weights", "kv_cache")  # vLLM's names for what a sleeping engine frees


@dataclass(frozen=True, slots=True)
class Request:
    """What to sample after `token_ids`. The same seed, weights and thread count give the same ids and log-probs."""

    token_ids: Sequence[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int  # 0..2^63-1; the CPU engine takes its low 32 bits
    caps: Mapping[int, int] = field(default_factory=dict)  # first sampled id -> max_tokens of such a response


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    token_ids: np.ndarray  # i32[T]
    behavior_logprobs: np.ndarray  # f32[T], nats, after temperature
    versions: np.ndarray  # i32[T], of the weights that sampled each id
    stopped: bool  # an end token was sampled (and is the last id)
    aborted: bool


class Engine:
    """One vLLM engine with the weights of `path`, then of the last `load`."""

    def __init__(
        self,
        conf: RolloutConf,
        model: ModelConf,
        path: str,
        ends: Sequence[int],
        sleeps: bool = False,
        deterministic: bool = False,
        steering: Steering | None = None,
    ):
        """ends: ids that end a response; sleeps: `sleep` frees a GPU's memory (an engine on a CPU keeps it);
        deterministic: a GPU's kernels give the same whichever sequences run together; steering: None: the model's own
        distribution, as in training."""
        if conf.device is Device.gpu:
            refuse_no_gpu("rollout.device")
        prepare_environment(conf)
        if deterministic and conf.device is Device.gpu:
            deterministic_sampler()
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from rollout.weight_sync.vllm_receiver import BACKEND, Receiver

        if conf.device is Device.gpu:
            refuse_cpu_vllm()
        self.conf, self.ends, self.steering = conf, list(ends), steering
        self.version = 0
        self._asleep: set[str] = set()  # of SLEEP_TAGS
        self._dropped = False  # the weights, when it went to sleep
        self._count = 0  # requests so far: vLLM's names of them
        self._loads = 0
        self._keys: dict[str, int] = {}  # name -> key
        self._requests: dict[int, _InFlight] = {}  # by key
        self._uncapped: set[int] = set()  # keys whose first id decides their length and is not known yet
        arguments: dict[str, Any] = {
            "model": path,
            "revision": model.revision,
            "trust_remote_code": model.trust_remote_code,
            "dtype": model.dtype.value,
            "hf_overrides": {"head_dtype": model.head_dtype.value},
            "skip_tokenizer_init": True,
            "max_model_len": conf.max_model_len,
            "max_num_seqs": conf.max_num_seqs,
            "max_num_batched_tokens": max(conf.max_num_batched_tokens, conf.max_model_len),
            "enable_prefix_caching": conf.prefix_caching,
            "enforce_eager": conf.enforce_eager,
            "logprobs_mode": "processed_logprobs",  # the default is before temperature
            "weight_transfer_config": {"backend": BACKEND},
            "tensor_parallel_size": conf.tensor_parallel,
            "distributed_executor_backend": "uni" if conf.tensor_parallel == 1 else "mp",
            "enable_sleep_mode": sleeps and conf.device is Device.gpu,
            "disable_log_stats": True,
            "async_scheduling": async_scheduling(conf),
        }
        if conf.tensor_parallel > 1:  # one process for each part, children of this one
            arguments["worker_extension_cls"] = "rollout.weight_sync.vllm_receiver.WorkerExtension"
        if conf.device is Device.cpu:
            arguments["kv_cache_memory_bytes"] = int(conf.kv_cache_gib * 2**30)
            # A seeded request whose prompt (or, put back for want of memory, whose prompt and answer so far) is split
            # over steps crashes the CPU engine: a step takes it whole or leaves it waiting.
            arguments["enable_chunked_prefill"] = False
        else:
            arguments["gpu_memory_utilization"] = conf.gpu_memory_utilization
        if steering is not None:
            from rollout.vllm_steering import engine_arguments

            arguments |= engine_arguments(steering, arguments["hf_overrides"])
        refuse_absent(path)
        try:
            chosen = EngineArgs(**arguments)
            if conf.device is Device.cpu and conf.prefix_caching:  # of recurrent layers it takes chunked prefill
                chosen.enable_prefix_caching = not chosen.create_model_config().has_inner_state
            self.engine = LLMEngine.from_engine_args(chosen)
        except Exception as error:  # a configuration, a file, memory: each of its parts raises its own kinds
            raise BadInput(f"vLLM cannot start with model.path={path}: {in_one_line(error)}") from error
        if conf.tensor_parallel > 1:
            self._unlink_shared_memory()
        self.receiver = Receiver(self.engine)
        self.usage = UsageWatch(self._core.scheduler, self.receiver)
        self.engine.engine_core.set_weight_version(str(self.version))

    @property
    def unfinished(self) -> int:
        """Requests added and neither finished nor aborted."""
        return len(self._keys)

    @property
    def awake(self) -> bool:
        """Whether it may `step`: it does not sleep, and no load of weights failed half-way."""
        return not self._asleep and self.receiver.whole

    def add(self, key: int, request: Request) -> None:
        """Queue a request; `step` returns its sample under `key`, which must not be in flight already."""
        from vllm.inputs.engine import tokens_input

        if self._asleep:
            raise RuntimeError("the sampling engine was asked for a response while it sleeps: wake it first")
        if key in self._requests:
            raise ValueError(f"a request with key {key} is in flight already")
        # cached prefixes are matched only by requests that began under the same weights
        prompt = tokens_input([int(i) for i in request.token_ids], cache_salt=str(self._loads))
        self._count += 1
        name = str(self._count)
        internal = self.engine.add_request(name, prompt, self._parameters(request))
        self._keys[name], self._requests[key] = key, _InFlight(name, internal, request)
        if request.caps:
            self._uncapped.add(key)

    def step(self) -> list[tuple[int, Sample]]:
        """Sample a token for each running sequence; returns the ended samples. RuntimeError after a failed load, and
        while it sleeps."""
        if self._asleep:
            raise RuntimeError("the sampling engine was asked for a step while it sleeps: wake it first")
        if not self.receiver.whole:
            raise RuntimeError(f"a push after version {self.version} failed half-way: the weights are incomplete")
        return self._step()

    def settle(self) -> list[tuple[int, Sample]]:
        """End the step that asynchronous scheduling has begun, and begin none; returns the samples that ended with it.

        To be called before `load` and `sleep`: a token on its way would get the version of weights that did not sample
        it. Nothing is to be done while it sleeps, or where scheduling is not asynchronous.
        """
        done: list[tuple[int, Sample]] = []
        if self._core.batch_queue:
            self._core.pause_scheduler("keep", clear_cache=False)
            while self._core.batch_queue:
                done += self._step()
            self._core.resume_scheduler()
        return done

    def _step(self) -> list[tuple[int, Sample]]:
        done = []
        for output in self.engine.step():
            if output.finished:
                key = self._forget(output.request_id)
                done.append((key, _sample(cast(Any, output).outputs[0])))
        if self._uncapped:
            self._cap()
        return done

    def abort(self, keys: Sequence[int]) -> None:
        """Stop these requests and drop what they sampled."""
        names = [self._requests[key].name for key in keys]
        self.engine.abort_request(names)
        for name in names:
            self._forget(name)

    def load(self, weights: Weights | Offer, recompute: bool = False) -> None:
        """Replace all weights (see `rollout.weight_sync.vllm_receiver`), between two steps.

        Sequences in flight go on from their tokens so far, with the state of their random generators. Their keys and
        values stay as the old weights computed them, or are recomputed by the new ones (recompute). Cached prefixes of
        old weights are never matched: they are dropped if nothing runs (checked: RuntimeError) or all is recomputed;
        otherwise later requests have another salt, and requests still without a token are added again.
        """
        if "weights" in self._asleep:
            raise RuntimeError("the sampling engine was given weights while it sleeps: wake it first")
        self._be_settled()
        self.receiver.load(weights)
        self.version, self._loads, self._dropped = weights.version, self._loads + 1, False
        self.engine.engine_core.set_weight_version(str(self.version))
        if recompute or not self.unfinished:
            if not self.engine.reset_prefix_cache(reset_running_requests=recompute and self.unfinished > 0):
                raise RuntimeError("the prefix cache could not be reset after a weight push: blocks are still in use")
        else:
            self._begin_anew([key for key, one in self._requests.items() if not self._ids_so_far(one)])

    def _be_settled(self) -> None:
        """A step that was begun for sequences that have ended is ended here; nobody misses a sample of it."""
        if self._core.batch_queue and self.unfinished:
            raise RuntimeError("the sampling engine has a step on its way: settle it first")
        self.settle()

    def _begin_anew(self, keys: list[int]) -> None:
        requests = [self._requests[key].request for key in keys]
        self.abort(keys)
        for key, request in zip(keys, requests, strict=True):
            self.add(key, request)

    def _ids_so_far(self, one: _InFlight) -> list[int]:
        detokenizer = self.engine.output_processor.request_states[one.internal].detokenizer
        assert detokenizer is not None
        return detokenizer.output_token_ids

    @property
    def _core(self) -> Any:
        """vLLM's scheduler and executor, which are in this process (`prepare_environment`)."""
        return cast(Any, self.engine.engine_core).engine_core

    def _cap(self) -> None:
        """Lower the limit of requests whose first id has a cap of its own (vLLM reads the limit at every step)."""
        scheduled = self._core.scheduler.requests
        for key in list(self._uncapped):
            one = self._requests[key]
            if ids := self._ids_so_far(one):
                self._uncapped.remove(key)
                request = scheduled[one.internal]
                request.max_tokens = min(request.max_tokens, one.request.caps.get(ids[0], request.max_tokens))

    def _forget(self, name: str) -> int:
        key = self._keys.pop(name)
        del self._requests[key]
        self._uncapped.discard(key)
        return key

    def sleep(self, keep: bool) -> None:
        """Free a GPU's memory. keep: the weights are kept on the host; else they are dropped until the next `load`.

        All keys and values are dropped. Requests in flight keep their tokens and the state of their random generators,
        and go on after `wake`, their keys and values recomputed. So RuntimeError if there are any and
        `rollout.on_weight_sync` is not recompute.
        """
        if self.unfinished and self.conf.on_weight_sync is not OnWeightSync.recompute:
            raise RuntimeError(
                f"the sampling engine cannot sleep: {self.unfinished} requests are in flight, and their keys and "
                f"values would be lost (rollout.on_weight_sync={self.conf.on_weight_sync.value})"
            )
        self._be_settled()
        self._dropped = self._dropped or ("weights" not in self._asleep and not keep)
        self.engine.sleep(level=1 if keep else 2, mode="keep")
        self._asleep = set(SLEEP_TAGS)

    def wake(self, tags: Sequence[str] | None = None) -> None:
        """Allocate memory again: "weights" (enough to `load`), "kv_cache", or all of it (None). RuntimeError if it
        could sample after that, but its weights were dropped; and for the cache alone while the weights sleep, since
        vLLM would not free it at the next `sleep`."""
        wanted = [tag for tag in (tags or SLEEP_TAGS) if tag in self._asleep]
        if "weights" in self._asleep and wanted == ["kv_cache"]:
            raise RuntimeError("the sampling engine's weights sleep: wake them with the kv_cache, or before it")
        if self._dropped and self._asleep <= set(wanted):
            raise RuntimeError("the sampling engine's weights were dropped when it went to sleep: load some first")
        if wanted:
            self.engine.wake_up(wanted)
        self._asleep -= set(wanted)

    def close(self) -> None:
        self.engine.engine_core.shutdown()

    def _unlink_shared_memory(self) -> None:
        """Unlink the shared memory of a tensor-parallel engine's processes once they have mapped it: without names in
        /dev/shm it is freed with them, also when they are killed."""
        queue = self._core.model_executor.rpc_broadcast_mq.buffer
        queue.shared_memory.unlink()
        queue.is_creator = False  # nothing is left to unlink
        if self.conf.device is Device.cpu:
            self.engine.collective_rpc(_unlink_all_reduce)

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            max_tokens=request.max_tokens,
            thinking_token_budget=self.steering.thinking_budget if self.steering else None,
            stop_token_ids=self.ends,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _unlink_all_reduce(_: Any) -> None:
    """Run in each process: the memory of the CPU's all-reduce, which vLLM never unlinks."""
    for path in Path("/dev/shm").glob(f"{os.environ['VLLM_DIST_IDENT']}*cpushm*"):
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _InFlight:
    name: str  # ours
    internal: str  # vLLM's
    request: Request


def _sample(output: Any) -> Sample:
    versions = np.empty(len(output.token_ids), np.int32)
    for span in output.weight_versions:
        versions[span.start : span.end] = int(span.version)
    return Sample(
        token_ids=np.asarray(output.token_ids, dtype=np.int32),
        behavior_logprobs=np.asarray(output.logprobs.logprobs, dtype=np.float32),
        versions=versions,
        stopped=output.finish_reason == "stop",
        aborted=output.finish_reason not in ("stop", "length"),
    )
