"""Former names of settings, values and presets: they still work, and a notice names the new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conf import renamed
from conf.compose import from_file, options, to_yaml
from conf.errors import BadConfig
from conf.schema import Config, Placement
from conf.settings import all_keys, settings
from tests.helpers.composing import composed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; every notice is printed again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(renamed, "_announced", set())
    return tmp_path


def notices(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("thinkless: ")]


def value(conf: Config, key: str) -> Any:
    return settings()[key].of(conf)


def test_former_names_are_no_longer_in_use() -> None:
    for old, new in renamed.SETTINGS.items():
        assert old not in all_keys() and new in all_keys()
    for key, names in renamed.VALUES.items():
        today = options(key) if key == "experiment" else [choice.value for choice in settings()[key].kind]
        assert not set(names) & set(today) and set(names.values()) <= set(today)


def test_an_override_under_its_former_name_works_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    (conf,) = composed("experiment=quickstart", "run.check_every=7", "rollout.refill.rounds=2", "rollout.on_push=drain")
    assert conf.run.logprob_check_every == 7 and conf.rollout.dynamic_sampling.rounds == 2
    assert conf.rollout.on_weight_sync.value == "drain"
    assert notices(capsys) == [
        "thinkless: run.check_every is now called run.logprob_check_every; the former name works for one more version",
        "thinkless: rollout.refill.rounds is now called rollout.dynamic_sampling.rounds; the former name works for one "
        "more version",
        "thinkless: rollout.on_push is now called rollout.on_weight_sync; the former name works for one more version",
    ]


def test_a_notice_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        composed("experiment=quickstart", "cluster.push_timeout_s=77")
    assert len(notices(capsys)) == 1


def test_current_names_have_no_notice(capsys: pytest.CaptureFixture[str]) -> None:
    composed(
        "experiment=thinkless_1p5b_on_policy", "cluster.weight_sync_timeout_s=77", "rollout.dynamic_sampling.rounds=2"
    )
    assert not notices(capsys)


def test_a_former_value_works_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    gpus = ["rollout.device=gpu", "learner.device=gpu", "rollout.workers=1"]
    (conf,) = composed("experiment=quickstart", "cluster.placement=shared", *gpus)
    assert conf.cluster.placement is Placement.colocated
    (notice,) = notices(capsys)
    assert "cluster.placement=shared is now called cluster.placement=colocated" in notice


@pytest.mark.parametrize("former", ["thinkless_1p5b_shared", "thinkless_1p5b_colocated"])
def test_a_former_experiment_works_with_a_notice(former: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert composed(f"experiment={former}") == composed("experiment=thinkless_1p5b_on_policy")
    (notice,) = notices(capsys)
    assert f"experiment={former} is now called experiment=thinkless_1p5b_on_policy" in notice


def test_a_multirun_over_former_names_works() -> None:
    gpus = ["rollout.device=gpu", "learner.device=gpu", "rollout.workers=1"]
    members = composed(
        "-m", "experiment=quickstart", "cluster.placement=split,shared", "cluster.turn_timeout_s=50,60", *gpus
    )
    assert [(conf.cluster.placement.value, conf.cluster.colocation_timeout_s) for conf in members] == [
        ("disaggregated", 50),
        ("disaggregated", 60),
        ("colocated", 50),
        ("colocated", 60),
    ]


@pytest.mark.parametrize("oldest", [True, False])
def test_a_run_saved_under_former_names_is_read(elsewhere: Path, oldest: bool) -> None:
    """As a run folder of an earlier version holds it: every setting and value that has another name since, and the
    oldest or the latest name of one that had several."""
    conf = Config()
    conf.rollout.dynamic_sampling.rounds, conf.cluster.colocation_timeout_s = 3, 44.0
    conf.cluster.placement = Placement.colocated
    tree = yaml.safe_load(to_yaml(conf))
    names = sorted(renamed.SETTINGS.items(), key=lambda pair: len(pair[0]), reverse=oldest)
    for new, old in {new: old for old, new in names}.items():
        section, name = old.split(".")
        tree[section][name] = tree[section].pop(new.split(".")[1])
    tree["cluster"]["placement"] = "shared"
    (elsewhere / "config.yaml").write_text(yaml.safe_dump(tree))
    assert from_file(elsewhere / "config.yaml", []) == from_text(conf, elsewhere)
    later = from_file(
        elsewhere / "config.yaml", ["run.check_every=3", "rollout.refill.factor=2", "cluster.placement=split"]
    )
    assert later.run.logprob_check_every == 3 and later.cluster.placement is Placement.disaggregated
    assert (later.rollout.dynamic_sampling.rounds, later.rollout.dynamic_sampling.factor) == (3, 2.0)


def from_text(conf: Config, folder: Path) -> Config:
    """`conf` written under today's names and read again."""
    (folder / "today.yaml").write_text(to_yaml(conf))
    return from_file(folder / "today.yaml", [])


@pytest.mark.parametrize("old", renamed.SETTINGS)
def test_a_former_name_in_the_users_file_is_an_error_with_the_new_name(old: str, elsewhere: Path) -> None:
    """Not replaced there: the message names the new one."""
    section, name = old.split(".")
    (elsewhere / "experiment").mkdir()
    text = f"# @package _global_\ndefaults:\n  - quickstart\n{section}:\n  {name}: 5\n"
    (elsewhere / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(BadConfig) as refused:
        composed("--config-dir", str(elsewhere), "experiment=mine")
    assert str(refused.value) == f"unknown key {old!r}; it is now called {renamed.SETTINGS[old]!r}"
