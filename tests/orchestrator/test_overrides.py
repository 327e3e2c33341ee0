"""Overrides: text settings keep their characters, and an unreadable override says how to type it."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.check import check
from conf.compose import from_file, to_yaml
from conf.errors import BadConfig
from conf.overrides import pasted, read_overrides
from conf.settings import all_keys
from tests.helpers import composing

LIKE_SOMETHING_ELSE = [
    "2025_01_31", "3e8", "7e99999", "0042", "12_345", "0x1F", "0b11", "1.50", ".5", "+3", "-0", "inf", "nan", "true",
    "False", "yes", "off", "1:30", "2025-01-31", "None", "a=b", "what?", "(draft)", "a b", "k:v", "#1", "50%", "it's",
    "[ab]*.jsonl", "é", "*", "&x", "!y", "|", "~", "@z",
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return tmp_path


composed = partial(composing.composed, "experiment=quickstart")


@pytest.mark.parametrize("texts", list(zip(*[iter(LIKE_SOMETHING_ELSE)] * 3, strict=True)), ids=" ".join)
def test_text_settings_keep_their_characters(texts: tuple[str, str, str], elsewhere: Path) -> None:
    """In overrides, in the YAML of a run, read back from it, and in overrides of a saved run."""
    name, revision, subset = texts
    (conf,) = composed(
        f"tracker.wandb={name}",
        f"model.revision={revision}",
        f"data.subset={subset}",
        f"model.lora.targets=[{','.join(map(pasted_value, texts))}]",
    )
    assert (conf.tracker.wandb, conf.model.revision, conf.data.subset, conf.model.lora.targets) == (*texts, [*texts])
    saved = elsewhere / "config.yaml"
    saved.write_text(to_yaml(conf))
    assert from_file(saved, []) == conf
    other = from_file(saved, [f"model.think_token={subset}", f"model.short_token={name}", f"data.split={revision}"])
    assert (other.model.think_token, other.model.short_token, other.data.split) == (subset, name, revision)
    assert other.tracker.wandb == name


def pasted_value(text: str) -> str:
    """As an item of a list: between quotes where Hydra needs them."""
    return text if re.fullmatch(r"[\w.]+", text, re.A) else f'"{text}"'


def test_text_in_a_saved_configuration_needs_no_quotes(elsewhere: Path) -> None:
    saved = elsewhere / "config.yaml"
    saved.write_text("run: {name: 2025_01_31, steps: 1_0}\nmodel: {revision: 7e99999, path: null, think_token: yes}\n")
    conf = from_file(saved, [])
    assert (conf.run.name, conf.model.revision, conf.model.think_token) == ("2025_01_31", "7e99999", "yes")
    assert conf.run.steps == 10 and conf.model.path is None


def test_null_quoted_text_and_non_text_settings_keep_hydras_rules() -> None:
    (conf,) = composed("run.name=null", "model.revision='null'", 'model.short_token="<s>"', "data.subset=${run.root}")
    assert (conf.run.name, conf.model.revision, conf.model.short_token, conf.data.subset) == (
        None,
        "null",
        "<s>",
        "runs",
    )


def test_hydras_sweep_functions_work_on_text_settings() -> None:
    members = composed("model.revision=choice(main,dev)", "--multirun", "run.root=many")
    assert [conf.model.revision for conf in members] == ["main", "dev"]
    with pytest.raises(BadConfig, match=r"has several values: add --multirun"):
        composed("model.revision=choice(main,dev)")


def test_every_run_of_a_multirun_gets_its_text_literally() -> None:
    members = composed("model.revision=0042,12_345,'a,b',3e8", "--multirun", "run.root=many")
    assert [conf.model.revision for conf in members] == ["0042", "12_345", "a,b", "3e8"]
    members = composed("model.revision=2025_01_31", "run.name=007", "run.seed=1,2", "-m", "run.root=many")
    assert [(conf.model.revision, conf.run.name) for conf in members] == [
        ("2025_01_31", "007-0"),
        ("2025_01_31", "007-1"),
    ]


def test_numbers_stay_numbers() -> None:
    (conf,) = composed("run.steps=1_000", "learner.lr=3e-4", "learner.betas=[0.8,0.9]", "run.record=[]")
    assert (conf.run.steps, conf.learner.lr, conf.learner.betas) == (1000, 3e-4, [0.8, 0.9])


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_printed_override_can_be_pasted_back(text: str) -> None:
    (word,) = shlex.split(pasted("model.path", text))
    (override,) = read_overrides([word])
    assert override.value() == text


@pytest.mark.parametrize(
    "argument",
    [
        "run.name=one,two",
        "run.name='half",
        'run.name="half" more',
        "run.name='it' $HOME `ls` \\ \"x\"",
        "model.path='a",
    ],
)
def test_an_unreadable_override_says_how_to_type_it(argument: str) -> None:
    """The end of the message, given to a real shell, is a word that holds exactly this text."""
    with pytest.raises(BadConfig) as rejected:
        composed(argument)
    key, _, text = argument.partition("=")
    message = str(rejected.value)
    assert argument in message or repr(argument) in message
    command = "printf %s " + message[message.rindex(": ") + 2 :]
    word = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    (override,) = read_overrides([word])
    assert (override.key_or_group, override.value()) == (key, text)


def test_an_unreadable_list_says_how_to_type_it() -> None:
    with pytest.raises(BadConfig, match=r"as a list: 'learner\.betas=\[0\.8,0\.9\]'$"):
        composed("learner.betas=0.8,0.9")


# ---- a run's config.yaml that was changed ----


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"run: {stesp: 3}\n", "'run.steps'"),
        (b"rnu: {steps: 3}\n", "'run'"),
        (b"warmup: {lrr: 3}\n", "warmup.lrr"),
        (b"run: [1]\n", "run"),
        (b"run: 7\n", "run"),
        (b"run: {steps: many}\n", "run.steps"),
        (b"run: {steps: [3]}\n", "run.steps"),
        (b"learner: {schedule: step}\n", "[constant, linear, cosine]"),
        (b"run: {steps: 3\n", "cannot be read"),
        (b"run:\n\tsteps: 3\n", "cannot be read"),
        (b"a: &a [*a]\n", ""),
        (b"", "holds no configuration"),
        (b"- 1\n", "holds no configuration"),
        (b"just text\n", "holds no configuration"),
        (b"run: {name: \xff}\n", "cannot be read"),
        (b"run: !!python/object:os.system {}\n", "cannot be read"),
        (b"run: {seed: 1e9999}\n", "run.seed"),
    ],
)
def test_a_damaged_configuration_is_one_line_that_names_its_file(content: bytes, said: str, elsewhere: Path) -> None:
    saved = elsewhere / "config.yaml"
    saved.write_bytes(content)
    with pytest.raises(BadConfig) as rejected:
        from_file(saved, [])
    message = str(rejected.value)
    assert said in message and str(saved) in message and "\n" not in message


def test_a_missing_configuration_is_one_line_that_names_its_file(elsewhere: Path) -> None:
    with pytest.raises(BadConfig, match=r"nothing\.yaml cannot be read"):
        from_file(elsewhere / "nothing.yaml", [])


NASTY = [
    "", "null", "nan", "-inf", "-1", "1e400", "9" * 400, "true", "[]", "[[1]]", "[1,null]", "{a:{b:c}}", "a=b", "a,b",
    '"', "(x", "[", "${run.seed}", "${nothing}", "${", "range(3)", "choice(1,2)", "str(5)", "\\", "\n", "!!x", "*a",
]  # fmt: skip


def test_any_value_of_any_key_is_accepted_or_rejected_in_one_line(elsewhere: Path) -> None:
    """Some keys with each of these values, on a saved run: a configuration that passes its checks, or BadConfig."""
    (conf,) = composed()
    saved = elsewhere / "config.yaml"
    saved.write_text(to_yaml(conf))
    taken = 0
    keys = all_keys()[::5]
    for index, key in enumerate(keys):
        argument = f"{key}={NASTY[index % len(NASTY)]}"
        try:
            check(from_file(saved, [argument]), "train")
            taken += 1
        except BadConfig as error:
            assert str(error).strip(), argument
        except Exception as error:
            raise AssertionError(f"{argument!r} ended in {type(error).__name__}: {error}") from error
    assert 0 < taken < len(keys) / 2
