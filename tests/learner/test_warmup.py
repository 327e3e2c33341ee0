"""Supervised batches, models made ready for the control tokens, and a golden run of ten steps.

To write the golden file anew: `UPDATE_GOLDEN=1 python -m pytest tests/learner/test_warmup.py -k golden`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import (
    ArithmeticConf,
    Config,
    Dtype,
    LearnerConf,
    ModelConf,
    RandomModelConf,
    Schedule,
    TrackerConf,
    WarmupConf,
)
from learner.data.batch import TrainBatch
from learner.data.sft import Curriculum
from learner.model.prepare_model import prepared_model, random_model
from learner.written import Written
from orchestrator.base.lock import locked
from orchestrator.commands.warmup import fingerprint, go_on, learner_conf, warm_up
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.retention import Retention
from rollout.data.pairs import load_pairs
from rollout.data.tokens import (
    build_character_tokenizer,
    control_tokens,
    generation_prompt,
    load_tokenizer,
    training_response,
)
from rollout.mode import Mode
from tests.helpers.learner_ranks import Ranks

MODEL = ModelConf()
CONF = WarmupConf(steps=4, batch_size=5, seed=3)
GOLDEN = Path(__file__).parent / "golden_warmup.txt"


def curriculum(models: dict[str, str], conf: WarmupConf = CONF, ranks: int = 1, max_tokens: int = 300) -> Curriculum:
    return Curriculum(load_pairs(conf, MODEL), load_tokenizer(models["tied"], MODEL), conf, MODEL, max_tokens, ranks)


def sequences(batch: TrainBatch) -> list[dict[str, Any]]:
    """Of all ranks' rows, without idle ones: ids, response mask, mode, weights."""
    found = []
    for mb in (mb for rank in batch.ranks for mb in rank if mb.weights.any()):
        end = 0
        for length in mb.lengths:
            part, end = slice(end, end + length), end + length
            fields = ("token_ids", "response", "modes", "weights", "kl_weights", "advantages")
            found.append({name: getattr(mb, name)[part] for name in fields})
    return sorted(found, key=lambda s: s["token_ids"].tolist())


def test_batches_are_a_function_of_pairs_and_step(models: dict[str, str]) -> None:
    """The same content twice, and for any number of ranks and any budget."""
    runs = [
        list(curriculum(models, ranks=ranks, max_tokens=tokens).batches())
        for ranks, tokens in ((1, 300), (1, 300), (3, 200))
    ]
    assert [len(run) for run in runs] == [4, 4, 4]
    for one, two, spread in zip(*runs, strict=True):
        for a, b, c in zip(sequences(one), sequences(two), sequences(spread), strict=True):
            for name in a:
                assert a[name].tolist() == b[name].tolist() == c[name].tolist()
    texts = [s["token_ids"].tobytes() for batch in runs[0] for s in sequences(batch)]
    assert len(set(texts)) > len(texts) // 2  # steps differ


def test_prompts_are_masked_and_every_question_comes_in_both_modes(models: dict[str, str]) -> None:
    """Every question in both modes; weight on exactly the response, which is the pair's text as it tokenizes."""
    pairs, tokenizer = load_pairs(CONF, MODEL), load_tokenizer(models["tied"], MODEL)
    control = control_tokens(tokenizer, MODEL)
    for step, batch in enumerate(curriculum(models).batches()):
        wanted: Counter[tuple[int, ...]] = Counter()
        for index in range(step * 5, step * 5 + 5):
            pair = pairs.at(index)
            for mode, text in ((Mode.THINK, str(pair.think)), (Mode.SHORT, str(pair.short))):
                prompt = generation_prompt(tokenizer, pair.problem, MODEL)
                response = training_response(tokenizer, control, mode, text, MODEL)
                wanted[(*prompt.tolist(), -1, *response.tolist())] += 1
        found: Counter[tuple[int, ...]] = Counter()
        for s in sequences(batch):
            prompt, response = s["token_ids"][~s["response"]], s["token_ids"][s["response"]]
            found[(*prompt.tolist(), -1, *response.tolist())] += 1
            assert not s["weights"][~s["response"]].any() and (s["weights"][s["response"]] > 0).all()
            assert not s["kl_weights"].any() and not s["advantages"].any()
            assert response[-1] == control.eos
            number = {control.think: 1, control.short: 0}[int(response[0])]
            assert set(s["modes"][s["response"]].tolist()) == {number}
        assert found == wanted and batch.sequences == 10


@pytest.mark.parametrize("short_weight", [1.0, 3.0, 0.3])
def test_weights_are_a_mean_over_tokens_with_short_answers_scaled(models: dict[str, str], short_weight: float) -> None:
    """They sum to 1 (up to the denominator's rounding); a short answer's body counts `short_weight` times."""
    for batch in curriculum(models, replace(CONF, short_weight=short_weight)).batches():
        found = sequences(batch)
        unit = min(float(s["weights"][s["response"]][0]) for s in found)  # a control token's
        for s in found:
            weights = s["weights"][s["response"]]
            body = short_weight if s["modes"][-1] == 0 else 1.0
            np.testing.assert_allclose(weights / unit, [1.0] + [body] * (len(weights) - 1), rtol=1e-5)
        total = sum(float(s["weights"].astype(np.float64).sum()) for s in found)
        assert total == pytest.approx(1.0, abs=1e-5 if short_weight in (1.0, 3.0) else 0.5 * unit + 1e-5)


def test_examples_that_are_too_long_are_dropped_and_counted(models: dict[str, str]) -> None:
    short = curriculum(models, replace(CONF, max_tokens=40))
    kept = [s for batch in short.batches() for s in sequences(batch)]
    assert short.too_long > 0 and len(kept) + short.too_long == 4 * 5 * 2
    assert all(len(s["token_ids"]) <= 40 for s in kept)


def test_a_file_is_one_epoch(models: dict[str, str], tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+1", "think": f"{i}</think>\\boxed{{{i}}}", "short": f"\\boxed{{{i}}}"} for i in range(7)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    conf = WarmupConf(path=str(tmp_path / "pairs.jsonl"), batch_size=3)
    whole = curriculum(models, conf)
    assert whole.steps == 3
    seen = {s["token_ids"].tobytes() for batch in whole.batches() for s in sequences(batch)}
    assert len(seen) == 14  # every row in both modes
    assert curriculum(models, replace(conf, steps=11)).steps == 11


def test_batches_of_unpaired_rows_have_as_many_of_either_mode(models: dict[str, str], tmp_path: Path) -> None:
    answers = {"think": "1</think>\\boxed{1}", "short": "\\boxed{1}"}
    rows = [{"problem": f"{side}{i}", side: answers[side]} for side in answers for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    unpaired = curriculum(models, WarmupConf(path=str(tmp_path / "rows.jsonl"), batch_size=4))
    batches = [sequences(batch) for batch in unpaired.batches()]
    assert [Counter(int(s["modes"][-1]) for s in batch) for batch in batches] == [{0: 4, 1: 4}] * 3
    assert len({s["token_ids"].tobytes() for batch in batches for s in batch}) == 24  # every row once


def embeddings(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def foreign_model(folder: Path, tied: bool, rows: int, spoken: ModelConf) -> str:
    """A model whose tokenizer knows the tokens of `spoken`; `rows` >= 264 embedding rows."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    build_character_tokenizer(folder, spoken)
    config = Qwen2Config(
        vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, max_position_embeddings=64, tie_word_embeddings=tied, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("rows", [264, 300], ids=["full", "padded"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_missing_control_tokens_are_added(tmp_path: Path, tied: bool, rows: int) -> None:
    """Three new ids; their rows start as the mean of the old ones, in the head too; all other rows stay."""
    spoken = ModelConf(think_token="<a>", think_end_token="</a>", short_token="<b>")
    path = foreign_model(tmp_path / "old", tied, rows, spoken)
    conf = ModelConf(path=path)
    made = prepared_model(conf, tmp_path / "new")
    assert made == str(tmp_path / "new")
    tokenizer = load_tokenizer(made, conf)
    control = control_tokens(tokenizer, conf)
    assert sorted([control.think, control.think_end, control.short]) == [264, 265, 266] and len(tokenizer) == 267
    for old, new in zip(embeddings(path), embeddings(made), strict=True):
        assert new.shape[0] == max(rows, 267)
        assert torch.equal(new[:264], old[:264])
        torch.testing.assert_close(new[264:267], old[:264].mean(0).expand(3, -1))
    assert prepared_model(replace(conf, path=made), tmp_path / "never") == made and not (tmp_path / "never").exists()


def test_new_tokens_get_ids_above_all_unused_ones(tmp_path: Path) -> None:
    """A tokenizer with fewer tokens than its highest id: new rows above all others, which stay as they are."""
    spoken = ModelConf(think_token="<a>", think_end_token="</a>", short_token="<b>")
    path = foreign_model(tmp_path / "old", True, 266, spoken)
    file = tmp_path / "old" / "tokenizer.json"
    state = json.loads(file.read_text())
    letters = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)[-2:]
    for letter in letters:
        state["model"]["vocab"][letter] += 2
    file.write_text(json.dumps(state))
    made = prepared_model(ModelConf(path=path), tmp_path / "new")
    tokenizer = load_tokenizer(made, ModelConf())
    control = control_tokens(tokenizer, ModelConf())
    assert sorted([control.think, control.think_end, control.short]) == [266, 267, 268]
    assert tokenizer.convert_tokens_to_ids(letters) == [264, 265]
    old, new = embeddings(path)[0], embeddings(made)[0]
    assert new.shape[0] == 269 and torch.equal(new[:266], old)
    torch.testing.assert_close(new[266:], old.mean(0).expand(3, -1))


def test_a_model_with_control_tokens_is_not_copied(models: dict[str, str], tmp_path: Path) -> None:
    assert prepared_model(ModelConf(path=models["untied"]), tmp_path / "never") == models["untied"]
    assert not (tmp_path / "never").exists()


def test_a_spare_token_becomes_the_short_token_once(tmp_path: Path) -> None:
    """Its id stays and its row starts as the mean; a model made so keeps what its short token has learnt since."""
    path = foreign_model(tmp_path / "old", False, 264, ModelConf(short_token="<spare>"))
    conf = ModelConf(path=path, short_token_from="<spare>")
    made = prepared_model(conf, tmp_path / "new")
    tokenizer = load_tokenizer(made, ModelConf())
    assert control_tokens(tokenizer, ModelConf()).short == 6 and len(tokenizer) == 264
    assert "<spare>" not in tokenizer.get_vocab()
    for old, new in zip(embeddings(path), embeddings(made), strict=True):
        torch.testing.assert_close(new[6], old.mean(0))
        others = torch.arange(264) != 6
        assert torch.equal(new[others], old[others])
    assert prepared_model(replace(conf, path=made), tmp_path / "again") == made


def test_ten_supervised_steps_equal_the_golden_losses(groups_of_ranks: dict[int, Ranks], tmp_path: Path) -> None:
    """Seed and ten losses of ten supervised steps: tokenizer, pairs, packing, loss, AdamW, schedule at once."""
    seed = 11
    shape = RandomModelConf(hidden_size=32, layers=2, heads=2, kv_heads=2, ffn_size=64, init_std=0.175)
    folder = random_model(tmp_path, shape, MODEL, seed)
    task = ArithmeticConf(levels=[2, 3, 7, 9], weights=[0.4, 0.4, 0.1, 0.1], width=17)
    conf = WarmupConf(steps=10, batch_size=8, seed=seed, arithmetic=task)
    ranks = groups_of_ranks[1]
    learner = LearnerConf(
        lr=1e-2, schedule=Schedule.linear, warmup_steps=3, betas=[0.9, 0.98], weight_decay=0.0, max_tokens=600
    )
    ranks.start(learner, folder, total=10)
    batches = Curriculum(load_pairs(conf, MODEL), load_tokenizer(folder, MODEL), conf, MODEL, 600, 1).batches()
    losses = [ranks.call("fine_tune", batch.ranks[0])[0][0] for batch in batches]
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join([f"seed {seed}", *(f"{loss:.7f}" for loss in losses)]) + "\n")
    first, *rest = GOLDEN.read_text().split("\n")
    assert first == f"seed {seed}"
    assert losses == pytest.approx([float(line) for line in rest if line], rel=1e-4)
    assert losses[-1] < losses[0] - 1.0  # and it learns


def test_a_warm_up_may_have_its_own_number_of_ranks(models: dict[str, str]) -> None:
    """`warmup.ranks`, else the learner's; the finished warm-up is found again whatever their number."""
    alone, four = replace(CONF, ranks=None), replace(CONF, ranks=4)
    assert learner_conf(LearnerConf(ranks=2), alone, given_model=False).ranks == 2
    assert learner_conf(LearnerConf(ranks=2), four, given_model=False).ranks == 4
    pairs, often = load_pairs(CONF, MODEL), replace(CONF, save_every_s=1.0)
    assert len({fingerprint(Config(warmup=one), pairs) for one in (alone, four, often)}) == 1


def test_what_a_process_left_that_was_killed_when_it_had_finished_is_removed(tmp_path: Path) -> None:
    """Its checkpoints go after the finished model is in its place, so that a kill in between loses nothing."""
    conf = Config(warmup=replace(CONF, cache=str(tmp_path)), tracker=TrackerConf(console=False))
    done = tmp_path / fingerprint(conf, load_pairs(CONF, MODEL))
    for folder in (done, tmp_path / f".{done.name}.partial" / "checkpoints" / "step_000003"):
        folder.mkdir(parents=True)
    (done / "warmup.json").write_text("{}")
    (lock := tmp_path / f".{done.name}.lock").touch()
    cluster: Any = None  # nothing is started
    with locked(lock):  # by another process that is about to remove it
        assert warm_up(conf, cluster) == done
    assert len(list(tmp_path.iterdir())) == 2
    lock.touch()
    assert warm_up(conf, cluster) == done and list(tmp_path.iterdir()) == [done]


def test_a_warm_up_whose_saved_steps_are_damaged_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Learner:
        conf = LearnerConf()

        def save(self, folder: str) -> Written:
            (Path(folder) / "weights").write_bytes(b"7" * 100)
            return {}

        def load(self, folder: str) -> int:
            pytest.fail("damaged weights are loaded")

    learner: Any = Learner()
    nothing: Any = None
    CheckpointStore(tmp_path, Retention(1)).save(
        30, learner, {"too_long": 0, "seconds": 1.0, "zero_stage": 0, "ranks": 0}
    )
    (tmp_path / "checkpoints" / "step_000030" / "weights").write_bytes(b"8" * 100)
    store = CheckpointStore(tmp_path, Retention(1))
    assert go_on(Config(warmup=CONF), store, learner, nothing) == (0, 0.0) and not store.folder.exists()
    said = capsys.readouterr()
    assert "step_000030 is damaged and not used: weights is not what was written" in said.err
    assert said.out == "warm-up: begins anew: its saved steps are damaged\n"


def test_the_heads_dtype_makes_another_warm_up_in_bfloat16_only() -> None:
    """A float32 model has float32 logits either way: its finished warm-ups are found by what they were before."""
    pairs = load_pairs(CONF, MODEL)
    prints = {
        (dtype, head): fingerprint(Config(warmup=CONF, model=ModelConf(dtype=dtype, head_dtype=head)), pairs)
        for dtype in Dtype
        for head in Dtype
    }
    assert prints[Dtype.float32, Dtype.float32] == prints[Dtype.float32, Dtype.bfloat16]
    assert len(set(prints.values())) == 3
