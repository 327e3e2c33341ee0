r"""Text <-> token ids: the quickstart's tokenizer, control tokens, generation prompts, responses.

In: a Hugging Face tokenizer and `ModelConf`. Out: ids (i32) and text. Every tokenizer accepted here satisfies two
conditions: each control token is exactly one id, and a training text is tokenized as it is sampled,

    ids(prompt_text + "<think>" + text) == generation_prompt + [think] + encode_response(text)

with prompt_text the chat template up to where the control token is sampled (`check_alignment` asserts it at start).
Must not know: model weights, batches, rewards. `tokenizer` is any transformers PreTrainedTokenizerBase.
"""

from __future__ import annotations

import copy
import json
import re
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema import ModelConf
from rollout.base.errors import BadInput, in_one_line
from rollout.data.chat_template import refuse_thinking, served_template, up_to_the_mode
from rollout.data.end_tokens import end_tokens
from rollout.data.model_files import model_file
from rollout.mode import ControlTokens, Mode, names_of_tokens

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}" + ASSISTANT + "{{ message['content'] }}" + END + "{%- else -%}"
    "" + USER + "{{ message['content'] }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}" + ASSISTANT + "{%- endif -%}"
)


def build_character_tokenizer(folder: str | Path, conf: ModelConf | None = None) -> None:
    r"""Write the quickstart's tokenizer to `folder`, loadable by AutoTokenizer and vLLM; 264 tokens with fixed ids.

    0 <|pad|>, 1 <|end|> (end of sequence), 2 <|user|>, 3 <|assistant|>, 4 think, 5 end of think, 6 short, 7 \boxed{,
    8 + b for byte b, then the tokens of modes between. An ASCII character is its byte, any other its UTF-8 bytes, so
    that every text round-trips; a token's name in a text becomes that token.

    Written as byte-level BPE without merges because next to a Qwen2 config.json transformers 5 and vLLM ignore the
    splitting and decoding rules of tokenizer.json and use Qwen2's: byte-level, which changes nothing here (except an
    NFC normalizer; `load_tokenizer` uses tokenizer.json unchanged).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    conf = conf or ModelConf()
    special = [PAD, END, USER, ASSISTANT]
    kept = [conf.think_token, conf.think_end_token, conf.short_token, "\\boxed{"]
    between = [*names_of_tokens(conf).values()][1:-1]
    vocab = {token: index for index, token in enumerate([*special, *kept, *_byte_alphabet(), *between])}
    tokenizer = Tokenizer(BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*kept, *between)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(str(folder))


def refuse_absent(path: str) -> None:
    """BadInput for a model.path that is neither a folder on this host nor a hub id (name or owner/name)."""
    local = Path(path).expanduser()
    if not local.is_dir() and (local.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path)):
        what = f"{local.absolute()} is a file" if local.exists() else f"there is no folder {local.absolute()}"
        raise BadInput(
            f"model.path={path}: {what} on host {socket.gethostname()}; give a Hugging Face model folder that every "
            "host of the cluster sees, or a hub id (owner/name)"
        )


def load_tokenizer(path: str | Path, conf: ModelConf) -> Any:
    """The tokenizer of a model folder or hub id, with `conf.chat_template` and `conf.short_token_from` applied.

    Raises BadInput: folder missing or without tokenizer files, hub unreachable, no chat template, unknown spare token.
    """
    name, local = str(path), Path(path).expanduser()
    refuse_absent(name)
    if local.is_dir():
        if not any((local / file).is_file() for file in TOKENIZER_FILES):
            raise BadInput(f"model.path={name}: no tokenizer in this folder (none of {', '.join(TOKENIZER_FILES)})")
        name = str(local)
    tokenizer = _loaded(name, conf)
    if conf.chat_template:
        template = Path(conf.chat_template).expanduser()
        if not template.is_file():
            raise BadInput(f"model.chat_template={template}: no such file; give a file with a Jinja template")
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise BadInput(f"model.path={name}: its tokenizer has no chat template; give one as model.chat_template=<file>")
    vocab = tokenizer.get_vocab()
    if conf.short_token_from and conf.short_token not in vocab:
        if conf.short_token_from not in vocab:
            raise BadInput(f"model.short_token_from={conf.short_token_from}: the tokenizer of {name} has no such token")
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            _rename_token(Path(folder), conf.short_token_from, conf.short_token)
            tokenizer = _loaded(folder, conf)
    return tokenizer


def _loaded(path: str, conf: ModelConf) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        # for some model types (such as Qwen2) AutoTokenizer replaces tokenizer.json's pre-tokenizer by its own
        kind: Any = PreTrainedTokenizerFast
        if conf.trust_remote_code or not model_file(path, "tokenizer.json", conf.revision):
            from transformers import AutoTokenizer  # imports torch: seconds

            kind = AutoTokenizer
        revision = conf.revision or "main"  # of a hub id
        return kind.from_pretrained(
            path, revision=revision, trust_remote_code=conf.trust_remote_code, clean_up_tokenization_spaces=False
        )
    except Exception as error:  # files, hub and remote code raise various exceptions
        hint = "its tokenizer does not load, the folder may be damaged"
        if not Path(path).is_dir():
            hint = f"there is no folder {Path(path).absolute()}, and the hub did not return a model of this name"
        raise BadInput(f"model.path={path}: {hint} ({in_one_line(error, 300)})") from error


def add_control_tokens(tokenizer: Any, conf: ModelConf) -> tuple[ControlTokens, tuple[int, ...]]:
    """(control tokens, new ids): adds missing ones to `tokenizer`, in place.

    No id of another token is used. New ids may be within the model's padded embedding or beyond it: resize to
    `vocabulary_size` if needed, and initialise their rows. Raises BadInput as `control_tokens`.
    """
    from transformers import AddedToken

    before = tokenizer.get_vocab()
    names = [
        name
        for name in (conf.think_token, conf.think_end_token, conf.short_token, *[*names_of_tokens(conf).values()][1:-1])
        if name.strip() and tokenizer.encode(name, add_special_tokens=False) != [before.get(name)]
    ]
    missing = [name for name in names if name not in before]
    if missing and vocabulary_size(tokenizer) > len(before):
        _reserve_ids(tokenizer, missing)
    if names:
        tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    added, taken = {tokenizer.get_vocab()[name] for name in missing}, set(before.values())
    if added & taken:
        raise BadInput(
            f"the tokenizer gives {', '.join(missing)} ids that belong to other tokens ({sorted(added & taken)}): "
            "use its spare tokens instead (model.short_token_from, model.think_token, model.think_end_token)"
        )
    return control_tokens(tokenizer, conf), tuple(sorted(added))


def vocabulary_size(tokenizer: Any) -> int:
    """The highest id plus 1: the rows that an embedding needs. (`len` counts tokens: fewer if ids are unused.)"""
    return int(max(tokenizer.get_vocab().values(), default=-1)) + 1


def _reserve_ids(tokenizer: Any, names: list[str]) -> None:
    """Give new tokens ids above all others, if the tokenizer's files allow it.

    `add_tokens` counts tokens: if ids are unused, it would assign ids of other tokens, bytes among them. But a token
    that is in the model's own vocabulary keeps its id there.
    """
    from tokenizers import Tokenizer

    if not getattr(tokenizer, "is_fast", False):
        return
    state, first = json.loads(tokenizer.backend_tokenizer.to_str()), vocabulary_size(tokenizer)
    if isinstance(state["model"].get("vocab"), dict):
        state["model"]["vocab"] |= {name: first + nth for nth, name in enumerate(names)}
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def control_tokens(tokenizer: Any, conf: ModelConf, path: str | Path | None = None) -> ControlTokens:
    """The control tokens' ids. BadInput if one is not exactly one id, two coincide, or there is no end of sequence.

    path: of the model, whose files may name further end tokens (`rollout.data.end_tokens`); None: only the tokenizer's
    own.
    """
    if tokenizer.eos_token_id is None:
        raise BadInput("the tokenizer names no end-of-sequence token: set eos_token in its tokenizer_config.json")
    ids: dict[str, int] = {}
    by_mode = names_of_tokens(conf)
    named = {field: getattr(conf, field) for field in ("think_token", "short_token", "think_end_token")}
    for field, name in {**named, **{f"modes: {mode.name}": by_mode[mode] for mode in [*by_mode][1:-1]}}.items():
        pieces = tokenizer.encode(name, add_special_tokens=False)
        if len(pieces) != 1 or not name.strip() or pieces[0] == tokenizer.unk_token_id:
            raise BadInput(
                f"model.{field}={name!r} must be exactly one id of the tokenizer, is {len(pieces)} ({pieces}): "
                "run the warm-up (it adds the tokens), or choose another token"
            )
        ids[name] = pieces[0]
    if len({*ids.values(), tokenizer.eos_token_id}) < len(by_mode) + 2:
        raise BadInput(f"control tokens must differ from each other and from the end of sequence: {ids}")
    others = () if path is None else end_tokens(tokenizer, path, conf)
    return ControlTokens(
        think=ids[conf.think_token],
        short=ids[conf.short_token],
        think_end=ids[conf.think_end_token],
        eos=tokenizer.eos_token_id,
        other_ends=tuple(sorted({*others} - {tokenizer.eos_token_id, *ids.values()})),
        between=tuple((mode.name, ids[by_mode[mode]]) for mode in [*by_mode][1:-1]),
    )


def prompt_text(tokenizer: Any, problem: str, conf: ModelConf) -> str:
    """The chat template's text for `problem`, up to where the control token is sampled.

    What the template itself begins the answer with is removed (see `rollout.data.chat_template`).
    """
    return up_to_the_mode(templated(tokenizer, problem), conf)


def save_tokenizer(tokenizer: Any, folder: str | Path, conf: ModelConf) -> None:
    """Write the tokenizer with the chat template that the model is served with: it ends where `prompt_text` does,
    unless a client asks for a mode (`rollout.data.chat_template.served_template`)."""
    template = tokenizer.chat_template
    if isinstance(template, str):
        tokenizer = copy.copy(tokenizer)  # the caller's keeps its own template
        tokenizer.chat_template = served_template(template, conf)
    tokenizer.save_pretrained(folder)


def templated(tokenizer: Any, problem: str, **variables: Any) -> str:
    """The chat template's whole text for `problem`, with what it begins the answer with; variables: its own, such as
    enable_thinking."""
    messages = [{"role": "user", "content": problem}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables))


def generation_prompt(tokenizer: Any, problem: str, conf: ModelConf) -> np.ndarray:
    """i32[P]: the sampler's prompt, after which it samples the control token.

    Special tokens are those that the template writes; none is added a second time.
    """
    ids = tokenizer.encode(prompt_text(tokenizer, problem, conf), add_special_tokens=False)
    return np.array(ids, dtype=np.int32)


def encode_response(tokenizer: Any, text: str, conf: ModelConf | None = None) -> np.ndarray:
    """i32[T-1]: ids of `text` after a control token, without that token and without the end of sequence.

    Encoded after a control token, since some tokenizers treat the start of a text differently (prepend a space).
    """
    anchor = (conf or ModelConf()).think_token
    first, *ids = tokenizer.encode(anchor + text, add_special_tokens=False)
    if tokenizer.convert_ids_to_tokens(first) != anchor:
        raise BadInput(f"model.think_token={anchor!r} is not one id of the tokenizer: call add_control_tokens first")
    return np.array(ids, dtype=np.int32)


def training_response(tokenizer: Any, control: ControlTokens, mode: Mode, text: str, conf: ModelConf) -> np.ndarray:
    """i32[T]: control token first, then `text`, end of sequence last."""
    body = encode_response(tokenizer, text, conf)
    return np.concatenate(([control.id_of(mode)], body, [control.eos])).astype(np.int32)


def decode_response(tokenizer: Any, ids: Sequence[int] | np.ndarray, ends: Sequence[int] = ()) -> str:
    """Text of sampled ids: control tokens kept, a final end token dropped, spaces unchanged.

    ends: `ControlTokens.ends`; the tokenizer's own end of sequence always counts as one.
    """
    plain = [int(i) for i in ids]
    if plain and (plain[-1] == tokenizer.eos_token_id or plain[-1] in ends):
        plain.pop()
    return str(tokenizer.decode(plain, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def check_prompt(tokenizer: Any, conf: ModelConf) -> None:
    """BadInput when the chat template thinks before the control token is sampled."""
    refuse_thinking(prompt_text(tokenizer, "What is 7+2?", conf).rpartition("What is 7+2?")[2], conf)


def check_alignment(tokenizer: Any, conf: ModelConf) -> None:
    """BadInput if training texts are not tokenized as sampled, checked on a few texts (milliseconds), or as
    `check_prompt`."""
    check_prompt(tokenizer, conf)
    control = control_tokens(tokenizer, conf)
    thinking = (
        f"7+2=9{conf.think_end_token}\\boxed{{9}}",
        f"\nOkay, so\n\n{conf.think_end_token}\n\n**Answer** \\boxed{{9}}",
    )
    short = (" The answer is \\boxed{9}.", "\n\\boxed{9}")
    texts = [(*one, text) for one in names_of_tokens(conf).items() for text in (thinking if one[0].thinks else short)]
    for mode, name, text in texts:
        whole = tokenizer.encode(prompt_text(tokenizer, "What is 7+2?", conf) + name + text, add_special_tokens=False)
        prompt = generation_prompt(tokenizer, "What is 7+2?", conf).tolist()
        parts = [*prompt, control.id_of(mode), *encode_response(tokenizer, text, conf).tolist()]
        if whole != parts:
            at = next((i for i, (a, b) in enumerate(zip(whole, parts, strict=False)) if a != b), len(parts))
            raise BadInput(
                f"the tokenizer does not separate {name} from the text around it: token {at} of the prompt with "
                f"{name + text!r} differs between training and sampling; choose control tokens that strip no spaces"
            )


def _byte_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte 0..255: itself if printable, otherwise one from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _rename_token(folder: Path, old: str, new: str) -> None:
    """Rename a token in every JSON file of a saved tokenizer; its id stays."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {new if key == old else key: renamed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [renamed(inner) for inner in value]
        return new if value == old else value

    for file in folder.glob("*.json"):
        content = renamed(json.loads(file.read_text(encoding="utf-8")))
        file.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
