"""The only file that imports vLLM: one engine, in this process, stepped by its owner.

In: token ids with sampling parameters; weights. Out: sampled ids with their log-probs (after temperature). The port by
which new weights enter is here, too: vLLM's own weight-transfer API with a backend of ours that reads a shared buffer.
Must not know: prompts' answers, groups, Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conf.schema import Device, ModelConf, RolloutConf
from rollout.errors import BadInput
from rollout.weights import Weights


@dataclass(frozen=True, slots=True)
class Request:
    """What to sample after `token_ids`; the same seed, weights and thread count give the same ids and log-probs."""

    token_ids: Sequence[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int  # 0..2^63-1; the CPU engine takes its low 32 bits


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    token_ids: np.ndarray  # i32[T]
    logprobs: np.ndarray  # f32[T], nats, after temperature
    stopped: bool  # end-of-sequence was sampled (and is the last id)
    aborted: bool


class Engine:
    """One vLLM engine with the weights of `path`, then of the last `load`."""

    def __init__(self, conf: RolloutConf, model: ModelConf, path: str, eos: int):
        _prepare_environment(conf)
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        _register_port()
        self.conf, self.eos = conf, eos
        self.version = 0
        self._count = 0
        arguments: dict[str, Any] = {
            "model": path,
            "revision": model.revision,
            "trust_remote_code": model.trust_remote_code,
            "dtype": model.dtype.value,
            "skip_tokenizer_init": True,
            "max_model_len": conf.max_model_len,
            "max_num_seqs": conf.max_num_seqs,
            "max_num_batched_tokens": max(conf.max_num_batched_tokens, conf.max_model_len),
            "enable_prefix_caching": conf.prefix_caching,
            "enforce_eager": conf.enforce_eager,
            "logprobs_mode": "processed_logprobs",  # the default is before temperature
            "weight_transfer_config": {"backend": PORT},
            "distributed_executor_backend": "uni",
            "disable_log_stats": True,
        }
        if conf.device is Device.cpu:
            arguments["kv_cache_memory_bytes"] = int(conf.kv_cache_gib * 2**30)
            # A seeded request whose prompt (or, put back for want of memory, whose prompt and answer so far) is split
            # over steps crashes the CPU engine: a step takes it whole or leaves it waiting.
            arguments["enable_chunked_prefill"] = False
        else:
            arguments["gpu_memory_utilization"] = conf.gpu_memory_utilization
        try:
            self.engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise BadInput(f"vLLM cannot load the model {path}: {first_line}") from error
        self.engine.collective_rpc("init_weight_transfer_engine", args=({},))

    def generate(self, requests: Sequence[Request], advance: Callable[[int], None] | None = None) -> list[Sample]:
        """Sample all requests (continuous batching) and return them in order. advance: told of each finished one's
        tokens."""
        from vllm.inputs.engine import tokens_input

        running: dict[str, int] = {}
        samples: list[Sample | None] = [None] * len(requests)
        salt = f"v{self.version}"  # cached prefixes of other weights are never matched
        for index, request in enumerate(requests):
            self._count += 1
            prompt = tokens_input([int(i) for i in request.token_ids], cache_salt=salt)
            running[str(self._count)] = index
            self.engine.add_request(str(self._count), prompt, self._parameters(request))
        while running:
            for output in self.engine.step():
                if output.finished:
                    sample = _sample(output.outputs[0])
                    samples[running.pop(output.request_id)] = sample
                    if advance:
                        advance(len(sample.token_ids))
        return [sample for sample in samples if sample is not None]

    def load(self, weights: Weights) -> None:
        """Replace all weights through vLLM's weight-transfer API, and forget every cached prefix.

        Called between two steps. Raises RuntimeError when the prefix cache cannot be reset (requests are running).
        """
        self.engine.collective_rpc("start_weight_update")
        self.engine.collective_rpc("update_weights", args=({"weights": weights},))
        self.engine.collective_rpc("finish_weight_update")
        if self.conf.prefix_caching and not self.engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset after a weight push: requests are still running")
        self.version = weights.version

    def close(self) -> None:
        self.engine.engine_core.shutdown()

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop_token_ids=[self.eos],
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _sample(output: Any) -> Sample:
    return Sample(
        token_ids=np.asarray(output.token_ids, dtype=np.int32),
        logprobs=np.asarray(output.logprobs.logprobs, dtype=np.float32),
        stopped=output.finish_reason == "stop",
        aborted=output.finish_reason not in ("stop", "length"),
    )


def _prepare_environment(conf: RolloutConf) -> None:
    """vLLM takes these as environment variables, and reads them when it is imported."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if conf.device is Device.cpu:
        os.environ.update(
            VLLM_CPU_OMP_THREADS_BIND="nobind", TORCHDYNAMO_DISABLE="1", OMP_NUM_THREADS=str(conf.threads)
        )
        import torch

        torch.set_num_threads(conf.threads)  # OpenMP read its variable already if torch was imported before


PORT = "thinkless_shared_memory"


def _register_port() -> None:
    """Make the receiving side of the shared buffer known to vLLM as a weight-transfer backend (idempotent)."""
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    if PORT in WeightTransferEngineFactory._registry:
        return

    @dataclass
    class InitInfo(WeightTransferInitInfo):
        pass

    @dataclass
    class UpdateInfo(WeightTransferUpdateInfo):
        weights: Weights

    class SharedMemoryPort(WeightTransferEngine[InitInfo, UpdateInfo]):
        """Loads checkpoint-format weights from a shared buffer, layer by layer (CPU prepacking included)."""

        init_info_cls = InitInfo
        update_info_cls = UpdateInfo

        def init_transfer_engine(self, init_info: InitInfo) -> None:
            pass

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info: UpdateInfo) -> None:
            self.model.load_weights(update_info.weights.tensors())

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            pass

    WeightTransferEngineFactory.register_engine(PORT, SharedMemoryPort)
