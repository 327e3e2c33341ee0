"""The policy as the learner sees it: packed token ids in, log-probs out.

In: a Hugging Face folder. Out: `Policy`, a module whose parameters map one to one to the folder's. Must not know:
DeepSpeed, losses, batches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learner.model import attention, recurrent
from learner.model.attention import Layout
from learner.model.logprob import LogProbHead
from learner.model.own_head import OwnHead, head_name, is_plain
from rollout.base.errors import BadInput, in_one_line
from rollout.data.tokens import refuse_absent


class Policy(nn.Module):
    """A causal language model that returns log-probs of given tokens instead of logits."""

    def __init__(self, causal_lm: Any, float32_head: bool = True, fused_head: bool = True):
        super().__init__()
        self.body = causal_lm.base_model
        if is_plain(causal_lm):
            self.head = LogProbHead(causal_lm.get_output_embeddings().weight, float32_head, fused_head)
        else:
            self.head = OwnHead(causal_lm, float32_head)
        self.head_name = head_name(causal_lm)  # in the model: lm_head, embed_out
        self._prefix = f"{causal_lm.base_model_prefix}."
        self._causal_lm = [causal_lm]  # in a list: its parameters must not be registered twice
        shared = (name for name, parameter in self.body.named_parameters() if parameter is self.head.weight)
        name = next(shared, None)
        self.tied_name = None if name is None else self._prefix + name  # of the embedding, if it is also the head
        self.watch: Callable[[Tensor], None] | None = None  # gets each gradient of the last hidden states, [N or n, H]

    @property
    def vocabulary(self) -> int:
        """Rows of the output head, even if ZeRO-3 keeps only a part of them here."""
        return int(getattr(self.head.weight, "ds_shape", self.head.weight.shape)[0])

    @property
    def causal_lm(self) -> Any:
        return self._causal_lm[0]

    def forward(
        self,
        token_ids: Tensor,  # i64[N], concatenated sequences
        position_ids: Tensor,  # i64[N], restarting with each sequence
        response: Tensor,  # bool[N], the requested tokens, among those that this rank's hidden states predict
        layout: Layout,
        temperature: float,
        chunk: int,
        entropy: bool = True,  # False: no entropies, for a pass whose entropies nobody reads
    ) -> tuple[Tensor, Tensor | None]:  # log-probs and entropies, nats, f32[N], zero elsewhere
        # this rank's n of the N tokens: all, except under sequence parallelism, and each shared prompt once
        here = slice(layout.start, layout.stop) if layout.computed is None else layout.computed
        states = self.body(
            input_ids=token_ids[None, here], position_ids=position_ids[None, here], use_cache=False, layout=layout
        ).last_hidden_state[0]  # [n, H]
        if layout.place is not None:
            states = states.index_select(0, layout.place)  # [N, H]
        if self.watch is not None and states.requires_grad:
            states.register_hook(self.watch)
        return self.head(states, token_ids, response, temperature, chunk, layout.start, entropy)

    def public_name(self, name: str) -> str:
        """The Hugging Face name of this module's parameter `name`."""
        if name.startswith("body."):
            return self._prefix + name.removeprefix("body.")
        return name.replace("head.", f"{self.head_name}.", 1)


def load_policy(
    path: str,
    dtype: str,
    trust_remote_code: bool = False,
    checkpointing: bool = False,
    revision: str | None = None,
    float32_head: bool = True,
    fused_head: bool = True,
) -> Policy:
    """The policy with the weights of a Hugging Face folder or hub id, in `dtype` ("float32", "bfloat16", "float64").

    float32_head, fused_head: see `LogProbHead`.
    Raises BadInput if the folder is missing, truncated, or not a causal language model.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    attention.register()
    logging.disable_progress_bar()
    refuse_absent(path)
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise BadInput(f"model.path={path}: the folder contains no config.json; give a Hugging Face model folder")
    try:
        causal_lm = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=getattr(torch, dtype),
            attn_implementation=attention.NAME,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # safetensors, OSError, ValueError: all describe what is wrong with the folder
        if isinstance(error, KeyError) and error.args == (attention.NAME,):  # its own table of attention classes
            raise BadInput(
                f"model.path={path}: this model cannot be trained here: its attention layers in transformers accept no "
                "packed rows (they do not go through AttentionInterface); docs/learner.md lists what can be trained"
            ) from error
        raise BadInput(
            f"model.path={path}: cannot be loaded ({in_one_line(error)}); "
            "is the folder complete, and is it a causal language model?"
        ) from error
    _make_saveable(causal_lm)
    recurrent.separate(causal_lm)
    if checkpointing:
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in causal_lm.modules():  # layers can recompute only in training mode; their children,
            module.training = getattr(
                module, "gradient_checkpointing", False
            )  # such as dropout, stay in evaluation mode
    causal_lm.config.use_cache = False
    try:
        return Policy(causal_lm, float32_head, fused_head)
    except (AttributeError, TypeError, LookupError, RuntimeError) as error:  # what a forward pass does is its own
        raise BadInput(
            f"model.path={path}: this model cannot be trained here: its output head cannot be used apart from its body "
            f"({in_one_line(error)}); docs/learner.md lists what can be trained"
        ) from error


def compile_layers(policy: Policy) -> None:
    """From their next use on the layers run as torch.compile makes them, all but their attention."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    attention.register(compiled=True)
    for module in policy.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def _make_saveable(causal_lm: Any) -> None:
    """transformers loads some generation_config.json files that it refuses to save at the end of a run: those with a
    temperature or top_p but without do_sample (Llama-2, Vicuna). They mean sampling, so do_sample is added. Of any
    other that it would not save only the token ids are kept."""
    given = causal_lm.generation_config
    if given is None or _saveable(given):
        return
    if given.do_sample is None:
        given.do_sample = True
    if not _saveable(given):
        ids = {name: getattr(given, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        causal_lm.generation_config = type(given)(**ids)


def _saveable(generation_config: Any) -> bool:
    try:
        generation_config.validate(strict=True)
    except ValueError:
        return False
    return True
