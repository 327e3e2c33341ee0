"""Tokenizers with a chat template: byte-level, with the markers of turns as added tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CORPUS = ["What is 7+2? The answer is \\boxed{9}.", "Okay, so I need 7+2=9;9-4=5.\n\n**Answer**\n\\boxed{5}"] * 20
MARKERS = ("<|eos|>", "<|begin|>", "<|im_start|>", "<|im_end|>", "<|User|>", "<|Assistant|>")

R1 = (
    "{{ '<|begin|>' }}{%- for m in messages %}{{- '<|User|>' + m.content }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|Assistant|><think>\n' }}{%- endif %}"
)


def save(tokenizer: Any, folder: Path, template: str, **special: str) -> str:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special).save_pretrained(folder)
    return str(folder)


def byte_level(
    folder: Path,
    template: str,
    tokens: Sequence[str],
    bos: str | None = None,
    markers: Sequence[str] = MARKERS,
    strips: bool = False,
    special: Sequence[str] = (),
    **named: str,
) -> str:
    """tokens, special: added as ordinary and as special tokens; bos: put first whenever special tokens are asked for;
    markers: special tokens, which take the spaces behind them if `strips`; named: as the tokenizer names them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(one, normalized=False, rstrip=strips) for one in markers])
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return save(tokenizer, folder, template, **({"eos_token": "<|eos|>"} | named))
