"""How a model is cut and a machine dealt out; what cannot be is refused before anything starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmgym.engine import load_engine
from llmgym.engine.parallel import check_context, check_shape, core_shares, gpu_shares, omp_binding, possible_sizes
from llmgym.errors import EngineError


def write_config(folder: Path, **changes: Any) -> str:
    shape = {"hidden_size": 288, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
    config = {"model_type": "llama", "vocab_size": 49152, **shape, **changes}
    folder.joinpath("config.json").write_text(json.dumps(config))
    return str(folder)


def sizes(folder: Path, **changes: Any) -> list[int]:
    from transformers import AutoConfig

    return possible_sizes(AutoConfig.from_pretrained(write_config(folder, **changes)))


def test_a_size_that_does_not_divide_the_heads_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError,
        match=r"Expected tensor_parallel_size to divide the model .* \(9 attention heads, 3 key-value heads, "
        r"1536 feed-forward units, 49152 tokens\), found 2\. Set it to 1 or 3\.",
    ):
        load_engine(write_config(tmp_path), tensor_parallel_size=2)


@pytest.mark.parametrize("size", [0, -1, 7])
def test_sizes_that_are_none_are_refused_too(tmp_path: Path, size: int) -> None:
    with pytest.raises(EngineError, match=f"found {size}"):
        check_shape(write_config(tmp_path), size, on_gpu=True)


def test_heads_units_and_padded_vocabulary_are_all_cut(tmp_path: Path) -> None:
    even = {"num_attention_heads": 8, "num_key_value_heads": 8, "hidden_size": 256}
    assert sizes(tmp_path, **even) == [1, 2, 4, 8]
    assert sizes(tmp_path, **even, vocab_size=301) == [1, 2, 4, 8], "301 tokens are padded to 320"
    assert sizes(tmp_path, **even, intermediate_size=100) == [1, 2, 4]
    assert sizes(tmp_path) == [1, 3], "9 parts would cut the heads, but not the vocabulary"


def test_few_key_value_heads_are_copied_to_several_parts(tmp_path: Path) -> None:
    assert sizes(tmp_path, num_attention_heads=8, num_key_value_heads=2, hidden_size=256) == [1, 2, 4, 8]
    assert sizes(tmp_path, num_attention_heads=12, num_key_value_heads=4, hidden_size=384) == [1, 2, 4, 12]


def test_heads_of_a_width_that_a_cpu_cannot_run_are_refused(tmp_path: Path) -> None:
    model = write_config(tmp_path, hidden_size=9 * 48)
    check_shape(model, 1, on_gpu=True)
    with pytest.raises(EngineError, match=r"a width that vLLM runs on a CPU \(32, 64, .* 512\), but those .* 48 wide"):
        check_shape(model, 1, on_gpu=False)


def test_a_model_that_is_not_there_is_left_to_vllm_to_refuse() -> None:
    check_shape("./nowhere", 3, on_gpu=False)


def test_cores_are_dealt_out_in_equal_shares() -> None:
    assert core_shares(2, range(8)) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert core_shares(3, [2, 9]) == [(2,), (9,), (2,)]
    assert len(omp_binding(2).split("|")) == 2


def test_too_few_gpus_are_refused() -> None:
    assert gpu_shares(2, 1, ["0", "3"]) == [("0",), ("3",)]
    with pytest.raises(EngineError, match="Expected 4 GPUs for replicas=2 of tensor_parallel_size=2, found 3"):
        gpu_shares(2, 2, ["0", "1", "2"])


def test_a_recipe_with_such_a_size_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    import llmgym
    from llmgym.config import RunConfig
    from llmgym.learner.tiny import TinySettings
    from llmgym.settings import apply_overrides, from_dict

    overrides = ["env=llmgym/BabyAI-GoToObjS4-v0", "engine.tensor_parallel_size=2", "engine.replicas=2"]
    config = from_dict(RunConfig, apply_overrides({}, overrides))
    assert (config.engine.tensor_parallel_size, config.engine.replicas) == (2, 2)
    config = replace(config, tiny=TinySettings(vocab_size=400, hidden_size=96, num_heads=3, intermediate_size=96))
    with pytest.raises(EngineError, match=r"\(3 attention heads, .* found 2\. Set it to 1"):
        llmgym.train(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_context_longer_than_the_model_was_made_for_is_refused(tiny_model: Path) -> None:
    check_context(str(tiny_model), 2048)
    check_context(str(tiny_model), 0)
    check_context("./nowhere", 10**6)
    with pytest.raises(EngineError, match=r"Expected max_context_tokens of at most 2048, .* found 4096"):
        load_engine(str(tiny_model), max_context_tokens=4096)
