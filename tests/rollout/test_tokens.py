"""Text and ids: any text round-trips, training text has the ids of sampled text, control tokens are one id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.schema import ModelConf
from rollout.base.errors import BadInput
from rollout.data.tokens import (
    add_control_tokens,
    build_character_tokenizer,
    check_alignment,
    control_tokens,
    decode_response,
    encode_response,
    generation_prompt,
    load_tokenizer,
    prompt_text,
    training_response,
    vocabulary_size,
)
from rollout.mode import ControlTokens, Mode
from tests.helpers.chat_tokenizers import CORPUS, R1, byte_level, save

CONF = ModelConf()

QWEN = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def _metaspace(folder: Path, scheme: str) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme=scheme), decoders.ByteFallback()])
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *bytes_])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return save(tokenizer, folder, "<s>{{ messages[0].content }}\n", eos_token="</s>", unk_token="<unk>")


def _character(folder: Path) -> str:
    build_character_tokenizer(folder)
    return str(folder)


MAKERS = {
    "character": _character,
    "qwen": lambda folder: byte_level(folder, QWEN, []),
    "r1": lambda folder: byte_level(folder, R1, ["<think>", "</think>"], "<|begin|>"),
    "metaspace-first": lambda folder: _metaspace(folder, "first"),
    "metaspace-always": lambda folder: _metaspace(folder, "always"),
    "metaspace-never": lambda folder: _metaspace(folder, "never"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def character(folders: dict[str, str]) -> Any:
    return load_tokenizer(folders["character"], CONF)


@pytest.mark.parametrize("name", MAKERS)
def test_training_text_has_the_same_ids_as_sampled_text(folders: dict[str, str], name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folders[name], CONF)
    control, new = add_control_tokens(tokenizer, CONF)
    tokenizer.save_pretrained(tmp_path)
    for tok in (tokenizer, load_tokenizer(tmp_path, CONF)):  # as a warmed-up model's folder is loaded again
        assert control_tokens(tok, CONF) == control
        check_alignment(tok, CONF)
        for problem in ("7+2-4            :3=", "Find $x$.\n", "  spaces ", "größer ≥ 1?"):
            for text in ("7+2=9</think>\\boxed{9}", "\n\nOkay so\n</think>\n \\boxed{9}", " spaced", "ünï 😀", ""):
                for mode, opening in ((Mode.THINK, "<think>"), (Mode.SHORT, "<short>")):
                    whole = tok.encode(prompt_text(tok, problem, CONF) + opening + text, add_special_tokens=False)
                    prompt, response = generation_prompt(tok, problem, CONF), encode_response(tok, text)
                    assert whole == [*prompt, control.id_of(mode), *response]
                    assert prompt.dtype == response.dtype == np.int32
                    answered = training_response(tok, control, mode, text, CONF)
                    assert [*prompt, *answered] == [*whole, control.eos]
                    decoded = decode_response(tok, answered)
                    if name == "metaspace-always":  # puts a space after every added token, and cannot say it did
                        decoded, text = decoded.replace(" ", ""), text.replace(" ", "")
                    assert decoded == opening + text
    assert len(new) == {"character": 0, "r1": 1}.get(name, 3)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.text("<thinksor>/\\bxed{}0x41 \n\t"))
def test_any_text_round_trips(character: Any, text: str) -> None:
    ids = encode_response(character, text)
    assert decode_response(character, ids) == text
    assert len(ids) <= len(text.encode())


def test_character_tokenizer_ids_are_fixed(character: Any) -> None:
    assert control_tokens(character, CONF) == ControlTokens(think=4, short=6, think_end=5, eos=1)
    assert len(character) == 264 and character.pad_token_id == 0
    assert encode_response(character, "\\boxed{5}\n").tolist() == [7, 8 + ord("5"), 8 + ord("}"), 8 + 10]
    assert encode_response(character, "é").tolist() == [8 + byte for byte in "é".encode()]
    assert generation_prompt(character, "7+2", CONF).tolist() == [2, 8 + ord("7"), 8 + ord("+"), 8 + ord("2"), 3]
    assert decode_response(character, [6, 7, 8 + ord("5"), 8 + ord("}"), 1]) == "<short>\\boxed{5}"


def test_auto_tokenizer_gives_the_character_tokenizers_ids(
    folders: dict[str, str], character: Any, tmp_path: Path
) -> None:
    """AutoTokenizer (vLLM's loader too) replaces a Qwen2 folder's splitting by Qwen2's own: it must not matter."""
    from transformers import AutoTokenizer

    for file in Path(folders["character"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 264}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path, CONF)
    for text in ("7+2-4            :3=", "<think>7+2=9;9-4=5?</think>\\boxed{5}", "größer\r\n\t≥ 😀 it's", ""):
        assert theirs.encode(text) == ours.encode(text) == character.encode(text)
        assert theirs.decode(theirs.encode(text)) == text
    assert control_tokens(theirs, CONF) == control_tokens(character, CONF)


def test_splitting_of_tokenizer_json_is_kept_beside_a_qwen2_config(folders: dict[str, str], tmp_path: Path) -> None:
    for file in Path(folders["metaspace-never"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    text = "The answer is 9"
    assert load_tokenizer(tmp_path, CONF).encode(text) == load_tokenizer(folders["metaspace-never"], CONF).encode(text)


def test_a_spare_token_is_renamed_and_keeps_its_id(folders: dict[str, str], tmp_path: Path) -> None:
    conf = ModelConf(short_token_from="<|im_start|>")
    spare = load_tokenizer(folders["r1"], CONF).convert_tokens_to_ids("<|im_start|>")
    tokenizer = load_tokenizer(folders["r1"], conf)
    control, new = add_control_tokens(tokenizer, conf)
    assert control.short == spare and new == ()
    tokenizer.save_pretrained(tmp_path)
    assert control_tokens(load_tokenizer(tmp_path, conf), conf) == control  # nothing left to rename


def test_a_chat_template_is_read_from_a_file(folders: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("Q: {{ messages[0].content }}\nA:")
    conf = ModelConf(chat_template=str(tmp_path / "t.jinja"))
    assert prompt_text(load_tokenizer(folders["qwen"], conf), "1+1?", conf) == "Q: 1+1?\nA:"


def test_a_control_token_of_several_ids_is_rejected(folders: dict[str, str]) -> None:
    tokenizer = load_tokenizer(folders["qwen"], CONF)
    with pytest.raises(BadInput, match=r"think_token='<think>' must be exactly one id.*is [2-9].*warm-up"):
        control_tokens(tokenizer, CONF)
    with pytest.raises(BadInput, match="call add_control_tokens first"):
        encode_response(tokenizer, "7+2=9")
    with pytest.raises(BadInput, match="short_token='' must be exactly one id"):
        add_control_tokens(tokenizer, ModelConf(short_token=""))


def test_equal_control_tokens_are_rejected(character: Any) -> None:
    for conf in (ModelConf(short_token="<think>"), ModelConf(short_token="<|end|>")):
        with pytest.raises(BadInput, match="must differ"):
            control_tokens(character, conf)


def test_a_control_token_that_strips_spaces_is_rejected(folders: dict[str, str]) -> None:
    from transformers import AddedToken

    tokenizer = load_tokenizer(folders["qwen"], CONF)
    tokenizer.add_tokens([AddedToken("<think>", lstrip=True, normalized=False)])
    add_control_tokens(tokenizer, CONF)
    with pytest.raises(BadInput, match="does not separate <think> from"):
        check_alignment(tokenizer, CONF)


def test_bad_tokenizer_folders_are_rejected_with_the_reason(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=f"there is no folder {tmp_path}/absent on host .*Hugging Face .*or a hub id"):
        load_tokenizer(tmp_path / "absent", CONF)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=f"{tmp_path}/file is a file"):
        load_tokenizer(tmp_path / "file", CONF)
    with pytest.raises(BadInput, match="no tokenizer in this folder"):
        load_tokenizer(tmp_path, CONF)
    source = Path(folders["character"])
    (tmp_path / "tokenizer.json").write_text((source / "tokenizer.json").read_text()[:1000])
    with pytest.raises(BadInput, match="may be damaged"):
        load_tokenizer(tmp_path, CONF)
    (tmp_path / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
    with pytest.raises(BadInput, match=r"no chat template; give one as model.chat_template"):
        load_tokenizer(tmp_path, CONF)
    with pytest.raises(BadInput, match=r"model.chat_template=.*no such file"):
        load_tokenizer(source, ModelConf(chat_template=str(tmp_path / "absent.jinja")))
    with pytest.raises(BadInput, match=r"model.short_token_from=<spare>"):
        load_tokenizer(folders["qwen"], ModelConf(short_token_from="<spare>"))

    def out_of_reach(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr("transformers.utils.hub.cached_file", out_of_reach)
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "runs/model", "name"):  # each could be either: the folder is named first, then the hub
        with pytest.raises(BadInput, match=f"no folder {tmp_path}/{name}, and the hub did not .*couldn't connect"):
            load_tokenizer(name, CONF)


def test_a_tokenizer_without_end_of_sequence_is_rejected(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    tokenizer = load_tokenizer(save(Tokenizer(models.BPE({"a": 0}, [])), tmp_path, "x"), CONF)
    with pytest.raises(BadInput, match="end-of-sequence"):
        add_control_tokens(tokenizer, CONF)


# ---- ids that are unused ----


def _with_unused_ids(folder: Path, unused: int) -> str:
    """Every byte has an id, the last ones above the number of tokens, because `unused` ids stand for nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|eos|>": 0, **{letter: 1 + unused + nth for nth, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|eos|>"])
    return save(tokenizer, folder, "{{ messages[0].content }}:", eos_token="<|eos|>")


@pytest.mark.parametrize("unused", [1, 2, 3, 40])
def test_a_control_token_takes_no_id_of_another_token(unused: int, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(_with_unused_ids(tmp_path / "old", unused), CONF)
    before, text = tokenizer.get_vocab(), "".join(map(chr, range(1, 700)))
    assert vocabulary_size(tokenizer) == 257 + unused and decode_response(tokenizer, tokenizer.encode(text)) == text
    control, new = add_control_tokens(tokenizer, CONF)
    assert new == tuple(range(257 + unused, 260 + unused))
    assert {control.think, control.think_end, control.short} == {*new}
    tokenizer.save_pretrained(tmp_path / "new")
    for one in (tokenizer, load_tokenizer(tmp_path / "new", CONF)):
        assert one.get_vocab() == {**before, "<think>": new[0], "</think>": new[1], "<short>": new[2]}
        assert control_tokens(one, CONF) == control and vocabulary_size(one) == 260 + unused
        assert decode_response(one, one.encode(text)) == text
        check_alignment(one, CONF)


# ---- ends of a response ----


def _model_files(folder: Path, template: str, **files: Any) -> str:
    path = byte_level(folder, template, ["<think>", "</think>", "<short>"])
    for name, eos in files.items():
        (folder / f"{name}.json").write_text(json.dumps({"eos_token_id": eos}))
    return path


def test_every_end_token_in_the_models_files_ends_a_response(tmp_path: Path) -> None:
    path = _model_files(tmp_path, QWEN.replace("<|im_end|>", ""), generation_config=None)
    tokenizer = load_tokenizer(path, CONF)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|eos|>", "<|begin|>", "<|User|>", "<think>")}
    assert control_tokens(tokenizer, CONF, path).ends == (ids["<|eos|>"],)
    for name, eos, others in (
        ("generation_config", [ids["<|eos|>"], ids["<|User|>"]], ["<|User|>"]),
        ("config", ids["<|begin|>"], ["<|begin|>", "<|User|>"]),  # beside the other
        ("generation_config", [ids["<|eos|>"], ids["<think>"]], ["<|begin|>"]),  # a control token ends nothing
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"eos_token_id": eos}))
        control = control_tokens(tokenizer, CONF, path)
        assert control.eos == ids["<|eos|>"] and set(control.other_ends) == {ids[one] for one in others}
    assert control_tokens(tokenizer, CONF).ends == (ids["<|eos|>"],)  # without the model's files
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadInput, match=r"config\.json is not a JSON object"):
        control_tokens(tokenizer, CONF, path)


def test_a_template_that_closes_no_turn_adds_no_end(tmp_path: Path) -> None:
    """Turns that nothing closes, questions only, one turn only."""
    for nth, template in enumerate((R1, "{{ messages[0].content }}", "{{ raise_exception('one turn') }}")):
        path = _model_files(tmp_path / str(nth), template)
        assert control_tokens(load_tokenizer(path, CONF), CONF, path).other_ends == ()
