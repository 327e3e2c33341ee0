"""Tiny models in a temporary folder and real DeepSpeed ranks, started once for this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.learner_ranks import Ranks


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model folders: `tied`; `untied` (grouped-query attention); and a perturbed copy of each, `<name>-reference`."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

    from conf.schema import ModelConf, RandomModelConf
    from learner.model.prepare_model import random_model

    root = tmp_path_factory.mktemp("models")
    shape = RandomModelConf(hidden_size=32, layers=2, heads=4, kv_heads=4, ffn_size=48, init_std=0.15)
    folders = {"tied": random_model(root / "tied", shape, ModelConf(), 3)}
    shape = RandomModelConf(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_size=48, init_std=0.15)
    folders["untied"] = random_model(root / "untied", shape, ModelConf(), 4)
    config = AutoModelForCausalLM.from_pretrained(folders["untied"]).config
    config.tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        Qwen2ForCausalLM(config).save_pretrained(folders["untied"])
        for name in ("tied", "untied"):
            model = AutoModelForCausalLM.from_pretrained(folders[name])
            for parameter in model.parameters():
                parameter.data += 0.05 * torch.randn_like(parameter)
            folders[f"{name}-reference"] = str(root / f"{name}-reference")
            model.save_pretrained(folders[f"{name}-reference"])
    return folders


@pytest.fixture(scope="session")
def groups_of_ranks() -> Iterator[dict[int, Ranks]]:
    """Process groups by size, made when first used."""

    class Made(dict[int, Ranks]):
        def __missing__(self, count: int) -> Ranks:
            self[count] = Ranks(count)
            return self[count]

    made = Made()
    yield made
    for ranks in made.values():
        ranks.close()
