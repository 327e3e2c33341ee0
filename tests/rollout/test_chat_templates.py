"""Chat templates of the families: the prompt's ids are right, and the control token is the next one.

The templates are small ones of our own with what matters in each: markers of turns, a beginning of sequence that the
tokenizer would add once more, a system text of their own, a think block opened or closed beforehand, dates, no way to
leave out the generation prompt, a refused system role.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from conf.schema import ModelConf
from rollout.base.errors import BadInput
from rollout.data.tokens import (
    add_control_tokens,
    check_alignment,
    control_tokens,
    decode_response,
    encode_response,
    generation_prompt,
    load_tokenizer,
    prompt_text,
    save_tokenizer,
)
from tests.helpers.chat_tokenizers import R1, byte_level

CONF = ModelConf()
TODAY = datetime(2026, 2, 3)


@dataclass(frozen=True)
class Family:
    """turns: the template's loop over messages, where `m` is one; begins: what comes before it; asks: how it lets the
    model answer; prompt: all of that for the question "Q". bos, eos: of the tokenizer; adds_bos: it puts its own first
    wherever special tokens are asked for; ends: besides eos; generation: of its generation_config.json.
    """

    turns: str
    asks: str
    prompt: str
    markers: tuple[str, ...]
    eos: str
    begins: str = ""
    bos: str | None = None
    adds_bos: bool = False
    strips: bool = False
    ends: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()
    think: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    always_asks: bool = False  # whether or not a generation prompt is wanted
    template: str = field(init=False)

    def __post_init__(self) -> None:
        loop = f"{self.begins}{{%- for m in messages %}}{self.turns}{{%- endfor %}}"
        asks = self.asks if self.always_asks else f"{{%- if add_generation_prompt %}}{self.asks}{{%- endif %}}"
        object.__setattr__(self, "template", loop + asks)

    def save(self, folder: Path) -> str:
        named = {"eos_token": self.eos} | ({"bos_token": self.bos} if self.bos else {})
        first = self.bos if self.adds_bos else None
        path = byte_level(
            folder, self.template, self.think, first, self.markers, self.strips, special=self.special, **named
        )
        tokenizer = load_tokenizer(path, CONF)
        ids = [tokenizer.convert_tokens_to_ids(name) for name in (self.eos, *self.generation)]
        generation = {"eos_token_id": ids if len(ids) > 1 else ids[0], "temperature": 0.6, "top_p": 0.9}
        (folder / "generation_config.json").write_text(json.dumps(generation))
        return path


THINK = ("<think>", "</think>")
CHATML = "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
CHATML_ASKS = "{{- '<|im_start|>assistant\n' }}"
CHATML_ENDS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CHATML_PROMPT = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
TURN = "{{- '<start_of_turn>' + (m.role if m.role == 'user' else 'model') + '\n' + m.content + '<end_of_turn>\n' }}"
HEADER = "'<|start_header_id|>' + {} + '<|end_header_id|>\n\n'"
ROLE = "'<|start_of_role|>' + {} + '<|end_of_role|>'"

FAMILIES = {
    "Qwen2.5": Family(
        begins="{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nBe exact.<|im_end|>\n' }}{%- endif %}",
        turns=CHATML, asks=CHATML_ASKS, prompt="<|im_start|>system\nBe exact.<|im_end|>\n" + CHATML_PROMPT,
        markers=CHATML_ENDS, eos="<|im_end|>", generation=("<|endoftext|>",), ends=("<|endoftext|>",),
    ),
    "a base model with Qwen2.5's template": Family(
        turns=CHATML, asks=CHATML_ASKS, prompt=CHATML_PROMPT, markers=CHATML_ENDS, eos="<|endoftext|>",
        ends=("<|im_end|>",),
    ),
    "Qwen3": Family(  # no think block unless it is told not to think; former ones are left out
        turns="{{- '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}",
        asks=CHATML_ASKS + "{%- if enable_thinking is defined and not enable_thinking %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}",
        prompt=CHATML_PROMPT, markers=CHATML_ENDS, eos="<|im_end|>", think=THINK, generation=("<|endoftext|>",),
        ends=("<|endoftext|>",),
    ),
    "Qwen3.5, thinking by default": Family(
        turns=CHATML, asks=CHATML_ASKS + "{{- '<think>\n' }}", prompt=CHATML_PROMPT, markers=CHATML_ENDS,
        eos="<|im_end|>", think=THINK,
    ),
    "a model that opens a block in ordinary text": Family(
        turns=CHATML, asks=CHATML_ASKS + "{{- '<think>\n' }}", prompt=CHATML_PROMPT, markers=CHATML_ENDS,
        eos="<|im_end|>",
    ),
    "Qwen3.5, not thinking by default": Family(
        turns=CHATML,
        asks=CHATML_ASKS + "{%- if enable_thinking is defined and enable_thinking %}{{- '<think>\n' }}{%- else %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}",
        prompt=CHATML_PROMPT, markers=CHATML_ENDS, eos="<|im_end|>", special=THINK,  # here as special tokens
    ),
    "DeepSeek-R1-Distill": Family(
        begins="{{- bos_token }}", adds_bos=True, bos="<|begin|>", eos="<|eos|>", think=THINK,
        turns="{%- if m.role == 'user' %}{{- '<|User|>' + m.content }}{%- else %}"
        "{{- '<|Assistant|>' + m.content.split('</think>')[-1] + '<|eos|>' }}{%- endif %}",
        asks="{{- '<|Assistant|><think>\n' }}", prompt="<|begin|><|User|>Q<|Assistant|>",
        markers=("<|begin|>", "<|eos|>", "<|User|>", "<|Assistant|>"),
    ),
    "Llama 3": Family(  # a date that is written out
        begins="{{- bos_token }}{{- " + HEADER.format("'system'") + " }}{%- if not date_string is defined %}"
        "{%- set date_string = '26 Jul 2024' %}{%- endif %}{{- 'Today Date: ' + date_string + '\n\n<|eot_id|>' }}",
        turns="{{- " + HEADER.format("m.role") + " + m.content | trim + '<|eot_id|>' }}",
        asks="{{- " + HEADER.format("'assistant'") + " }}", bos="<|begin_of_text|>", adds_bos=True, eos="<|eot_id|>",
        prompt="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        markers=("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|start_header_id|>",
                 "<|end_header_id|>"),
        generation=("<|end_of_text|>", "<|eom_id|>"), ends=("<|end_of_text|>", "<|eom_id|>"),
    ),
    "Gemma 2": Family(
        begins="{{- bos_token }}{%- if messages[0].role == 'system' %}{{- raise_exception('no system role') }}"
        "{%- endif %}",
        turns=TURN, asks="{{- '<start_of_turn>model\n' }}", bos="<bos>", adds_bos=True, eos="<eos>",
        prompt="<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n",
        markers=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), ends=("<end_of_turn>",),
    ),
    "Gemma 3": Family(  # a system text becomes the beginning of the first question
        begins="{{- bos_token }}{%- set first = '' %}{%- if messages[0].role == 'system' %}"
        "{%- set first = messages[0].content + '\n\n' %}{%- set messages = messages[1:] %}{%- endif %}",
        turns="{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{- (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}",
        asks="{{- '<start_of_turn>model\n' }}", bos="<bos>", adds_bos=True, eos="<eos>",
        prompt="<bos><start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n",
        markers=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), generation=("<end_of_turn>",),
        ends=("<end_of_turn>",),
    ),
    "Phi-3": Family(  # its markers take the line end behind them
        turns="{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}", asks="{{- '<|assistant|>\n' }}",
        prompt="<|user|>\nQ<|end|>\n<|assistant|>\n", strips=True, bos="<s>", eos="<|endoftext|>",
        markers=("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        generation=("<|end|>", "<|assistant|>"), ends=("<|end|>", "<|assistant|>"),
    ),
    "Phi-4": Family(
        turns="{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}",
        asks="{{- '<|im_start|>assistant<|im_sep|>' }}", bos="<|endoftext|>", eos="<|im_end|>",
        prompt="<|im_start|>user<|im_sep|>Q<|im_end|><|im_start|>assistant<|im_sep|>",
        markers=(*CHATML_ENDS, "<|im_sep|>"), generation=("<|endoftext|>",), ends=("<|endoftext|>",),
    ),
    "OLMo 2": Family(  # its beginning of sequence is its end of sequence
        begins="{{- bos_token }}", bos="<|endoftext|>", eos="<|endoftext|>", markers=("<|endoftext|>",),
        turns="{{- '<|' + m.role + '|>\n' + m.content }}{%- if m.role == 'assistant' %}{{- eos_token }}{%- endif %}"
        "{{- '\n' }}",
        asks="{{- '<|assistant|>\n' }}", prompt="<|endoftext|><|user|>\nQ\n<|assistant|>\n",
    ),
    "Mistral": Family(  # a question is always followed by the answer
        begins="{{- bos_token }}", bos="<s>", adds_bos=True, eos="</s>", markers=("<s>", "</s>", "[INST]", "[/INST]"),
        turns="{{- '[INST] ' + m.content + '[/INST]' if m.role == 'user' else ' ' + m.content + eos_token }}",
        asks="", always_asks=True, prompt="<s>[INST] Q[/INST]",
    ),
    "Granite": Family(  # today's date; the end of a text closes every turn, and is the beginning of sequence as well
        begins="{{- " + ROLE.format("'system'") + " + 'Today is ' + strftime_now('%d %B %Y') + '.<|end_of_text|>\n' }}",
        turns="{{- " + ROLE.format("m.role") + " + m.content + '<|end_of_text|>\n' }}",
        asks="{{- " + ROLE.format("'assistant'") + " }}", bos="<|end_of_text|>", eos="<|end_of_text|>",
        prompt=f"<|start_of_role|>system<|end_of_role|>Today is {TODAY:%d %B %Y}.<|end_of_text|>\n<|start_of_role|>user"
        "<|end_of_role|>Q<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        markers=("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
    ),
}  # fmt: skip
NAMES = list(FAMILIES)


class Frozen(datetime):
    """Today stays today, also where the tests run over midnight."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Frozen:
        return cls.fromtimestamp(TODAY.timestamp(), tz)


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Frozen)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: family.save(tmp_path_factory.mktemp("family")) for name, family in FAMILIES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_control_token_comes_right_after_the_families_prompt(
    folders: dict[str, str], name: str, tmp_path: Path
) -> None:
    """As the model's folder has it, and as the warmed-up model's does, whose template is the one it is served with."""
    family, given = FAMILIES[name], load_tokenizer(folders[name], CONF)
    assert given.pad_token is None
    control, new = add_control_tokens(given, CONF)
    assert len(new) == (1 if family.think or family.special else 3)
    save_tokenizer(given, tmp_path, CONF)
    for tokenizer in (given, load_tokenizer(tmp_path, CONF)):
        check_alignment(tokenizer, CONF)
        assert control_tokens(tokenizer, CONF) == control
        assert prompt_text(tokenizer, "Q", CONF) == family.prompt
        ids = generation_prompt(tokenizer, "Q", CONF).tolist()
        assert not {*ids} & {control.think, control.short, control.think_end}
        for opening, id in (("<think>", control.think), ("<short>", control.short)):
            assert tokenizer.encode(family.prompt + opening, add_special_tokens=False) == [*ids, id]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert text == family.prompt or (family.strips and text == family.prompt.replace("|>\n", "|>"))
    messages = [{"role": "user", "content": "Q"}]  # as a server renders it
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == family.prompt
    talk = [*messages, {"role": "assistant", "content": "A"}]
    before, after = (one.apply_chat_template(talk, tokenize=False) for one in (given, tokenizer))
    assert before == after


@pytest.mark.parametrize("name", NAMES)
def test_there_is_one_beginning_of_sequence_where_the_template_writes_one(folders: dict[str, str], name: str) -> None:
    family, tokenizer = FAMILIES[name], load_tokenizer(folders[name], CONF)
    ids, text = generation_prompt(tokenizer, "Q", CONF).tolist(), prompt_text(tokenizer, "Q", CONF)
    assert ids[:2].count(tokenizer.bos_token_id) == ("bos_token" in family.template)
    doubled = tokenizer.encode(text)[:2]  # what a template's text must not be encoded by
    assert (doubled == [tokenizer.bos_token_id] * 2) == family.adds_bos


@pytest.mark.parametrize("name", NAMES)
def test_a_response_ends_with_the_families_end_tokens(folders: dict[str, str], name: str) -> None:
    """Those of the generation_config.json, and the one that closes a turn; none of them is in the response's text."""
    family, tokenizer = FAMILIES[name], load_tokenizer(folders[name], CONF)
    add_control_tokens(tokenizer, CONF)
    control = control_tokens(tokenizer, CONF, folders[name])
    assert tokenizer.convert_ids_to_tokens(control.eos) == family.eos
    assert {*tokenizer.convert_ids_to_tokens(list(control.other_ends))} == {*family.ends}
    for end in control.ends:
        ids = [control.short, *encode_response(tokenizer, "\\boxed{5}"), end]
        assert decode_response(tokenizer, ids, control.ends) == "<short>\\boxed{5}"
        twice = decode_response(tokenizer, [*ids, *ids], control.ends)
        assert twice.count(tokenizer.decode([end])) == 1  # only the last is dropped
    beyond = len(tokenizer) + 7  # a row of a padded embedding: it is no token, and has no text
    assert decode_response(tokenizer, [control.short, beyond, control.eos], control.ends) == "<short>"


# ---- what a template begins the answer with ----

BEGUN = [
    "<think>\\n",
    "\\n\\n<think>",
    "\\n",
    "<think>\\n\\n</think>\\n\\n",
    "\\n<think></think>",
    "<short>",
    "</think>",
    "\\n </think> ",
]


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("space", ["", "\n", "  "])
def test_the_saved_chat_template_ends_where_the_control_token_is_sampled(
    tmp_path: Path, begun: str, space: str
) -> None:
    """A server renders the saved template: it ends where training let the mode be sampled, and changes nothing else."""
    template = space + R1.replace("<|Assistant|><think>\n", f"<|Assistant|>{begun}") + space
    folder = byte_level(tmp_path, template, ["<think>", "</think>", "<short>"], "<|begin|>")
    given = load_tokenizer(folder, CONF)
    save_tokenizer(given, tmp_path / "saved", CONF)
    saved = load_tokenizer(tmp_path / "saved", CONF)
    messages = [{"role": "user", "content": "What is <think>?"}]
    rendered = saved.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == prompt_text(given, "What is <think>?", CONF) == prompt_text(saved, "What is <think>?", CONF)
    assert rendered.rpartition("<|Assistant|>")[2].strip() == "" and given.chat_template == template
    talk = [*messages, {"role": "assistant", "content": "<think>"}]
    assert saved.apply_chat_template(talk, tokenize=False) == given.apply_chat_template(talk, tokenize=False)


@pytest.mark.parametrize("names", [("<think>", "</think>"), ("<reason>", "</reason>")])
def test_a_closed_think_block_is_removed_from_the_generation_prompt(tmp_path: Path, names: tuple[str, str]) -> None:
    """Not by the control tokens' own names either. What a question says of them stays."""
    conf = ModelConf(think_token="<reason>", think_end_token="</reason>")
    question, begun = f"Is {names[0]}{names[1]} empty?", f"{names[0]}\n\n{names[1]}\n\n"
    folder = byte_level(tmp_path, R1.replace("<think>\n", begun), [*names, "<short>"], "<|begin|>")
    assert prompt_text(load_tokenizer(folder, conf), question, conf) == f"<|begin|><|User|>{question}<|Assistant|>"


def test_a_template_with_text_after_the_think_token_is_rejected(tmp_path: Path) -> None:
    for nth, begun in enumerate(("<think>\nWell.\n</think>\n", "<think>Let me see: ", "</think>So")):
        template = R1.replace("<think>\n", begun)
        folder = byte_level(tmp_path / str(nth), template, ["<think>", "</think>", "<short>"], "<|begin|>")
        with pytest.raises(BadInput, match=r"^the chat template begins the answer with .*model\.chat_template=<file>"):
            check_alignment(load_tokenizer(folder, CONF), CONF)
