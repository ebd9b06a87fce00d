"""What changes the policy of a transformers engine: adapters and weights; and what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.engine import load_engine
from llmgym.errors import EngineError, PromptError
from llmgym.nf4 import compute_exactly, nf4_options
from llmgym.types import Acting, Engine

TOLERANCE = 1e-5
Model = Any
AssertScores = Callable[..., None]
BruteForce = Callable[..., np.ndarray]
Cases = Callable[..., tuple[list[list[int]], list[list[list[int]]]]]
MakeAdapter = Callable[..., tuple[Model, str]]


def test_adapters_answer_by_name_and_never_from_each_others_memory(
    kind: str, plain_model: Model, tiny_zoo: dict[str, Path], make_adapter: MakeAdapter, assert_scores: AssertScores
) -> None:
    with load_engine(str(tiny_zoo[kind]), "transformers") as engine:
        assert_scores(engine, plain_model)
        (first, first_path), (second, second_path) = make_adapter(kind, 1), make_adapter(kind, 2)
        engine.load_adapter(first_path, 1)
        assert_scores(engine, first)
        assert_scores(engine, plain_model, adapter="base")
        engine.load_adapter(second_path, 1, name="second.one")
        for name, expected in (("second.one", second), ("policy", first), ("base", plain_model)):
            assert_scores(engine, expected, adapter=name)
        engine.load_adapter(second_path, 2)
        assert_scores(engine, second)
        engine.drop_adapter("policy")
        engine.drop_adapter("second.one")
        assert_scores(engine, plain_model)


def test_answers_by_several_adapters_are_asked_for_side_by_side(
    kind: str, plain_model: Model, tiny_zoo: dict[str, Path], make_adapter: MakeAdapter, brute_force: BruteForce
) -> None:
    adapted, path = make_adapter(kind, 1)
    with load_engine(str(tiny_zoo[kind]), "transformers") as engine:
        engine.load_adapter(path, 1)
        models = {"policy": adapted, "base": plain_model}
        for how in ("score", "text"):
            acting = Acting(how, max_new_tokens=3)  # type: ignore[arg-type]
            tickets = {
                engine.start([5, 6, number], [[8, 9], [10]], acting, seed=number, adapter=name): (name, number)
                for number in range(20, 24)
                for name in models
            }
            made: dict[int, Any] = {}
            while len(made) < len(tickets):
                made |= dict(engine.advance())
            for ticket, (name, number) in tickets.items():
                choice = made[ticket]
                if how == "text":
                    expected = brute_force(models[name], [5, 6, number], list(choice.sampled_ids)).sum()
                else:
                    sums = [brute_force(models[name], [5, 6, number], answer).sum() for answer in ([8, 9], [10])]
                    expected = (sums - np.logaddexp(*sums))[choice.index]
                assert choice.logprob == pytest.approx(expected, abs=1e-4)


def test_weights_are_swapped_and_nothing_old_is_remembered(
    kind: str, plain_model: Model, tiny_zoo: dict[str, Path], assert_scores: AssertScores
) -> None:
    with load_engine(str(tiny_zoo[kind]), "transformers") as engine:
        assert_scores(engine, plain_model)
        other = copy.deepcopy(plain_model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
        engine.load_weights(list(other.named_parameters()), 1)
        assert engine.version == 1
        assert_scores(engine, other)
        engine.load_weights(list(plain_model.state_dict().items()), 2)
        assert_scores(engine, plain_model)


def test_weights_of_another_model_are_refused(tiny_zoo: dict[str, Path]) -> None:
    with load_engine(str(tiny_zoo["llama"]), "transformers") as engine:
        with pytest.raises(EngineError, match=r"found h\.0\.weight of shape \(2,\), where it has no such weight"):
            engine.load_weights([("h.0.weight", torch.zeros(2))], 1)
        with pytest.raises(
            EngineError, match=r"norm\.weight of shape \(2,\), where it has the shape \(64,\)\. Publish"
        ):
            engine.load_weights([("model.norm.weight", torch.zeros(2))], 1)


def test_what_does_not_fit_into_memory_is_read_anew(
    kind: str,
    plain_model: Model,
    tiny_zoo: dict[str, Path],
    brute_force: BruteForce,
    cases: Cases,
    assert_scores: AssertScores,
) -> None:
    for gib in (0.0, 3e-5):
        with load_engine(str(tiny_zoo[kind]), "transformers", kv_cache_gib=gib, max_batch_tokens=40) as engine:
            assert_scores(engine, plain_model)
            assert_scores(engine, plain_model)
            contexts, _ = cases(3)
            for context, (one,) in zip(contexts, engine.generate(contexts, 4, seed=5), strict=True):
                np.testing.assert_allclose(
                    one.logprobs, brute_force(plain_model, context, list(one.token_ids)), atol=1e-4
                )


@pytest.mark.parametrize("call", ["score", "constrained", "text", "generate"])
def test_nan_is_reported_with_the_layer_and_the_version(
    kind: str, plain_model: Model, tiny_zoo: dict[str, Path], call: str, assert_scores: AssertScores
) -> None:
    names = {"llama": "model.layers.1.mlp.down_proj", "gpt2": "transformer.h.1.mlp.c_proj"}
    name = names.get(kind, "decoder.block.1.layer.2.DenseReluDense.wo")
    weights = {key: value.clone() for key, value in plain_model.state_dict().items()}
    weights[f"{name}.weight"] *= math.nan
    with load_engine(str(tiny_zoo[kind]), "transformers") as engine:
        engine.load_weights(weights.items(), 7)
        calls = {
            "generate": lambda: engine.generate([[5, 6]], 3),
            "score": lambda: engine.score([[5, 6]], [[[7, 8], [9]]]),
            "constrained": lambda: engine.act([[5, 6]], [[[7, 8], [9]]], Acting("constrained")),
            "text": lambda: engine.act([[5, 6]], [[[7, 8], [9]]], Acting("text", max_new_tokens=3)),
        }
        with pytest.raises(EngineError, match=f"policy version 7 answers NaN, first in {name}"):
            calls[call]()
        engine.load_weights(plain_model.state_dict().items(), 8)
        assert_scores(engine, plain_model)


def test_weights_of_4_bits_score_like_plain_passes_over_them(
    kind: str, plain_model: Model, tiny_zoo: dict[str, Path], make_adapter: MakeAdapter, assert_scores: AssertScores
) -> None:
    from peft import PeftModel

    packed = type(plain_model).from_pretrained(tiny_zoo[kind], dtype=torch.float32, **nf4_options("cpu")).eval()
    compute_exactly(packed)
    with load_engine(str(tiny_zoo[kind]), "transformers", load_in_4bit=True) as engine:
        assert_scores(engine, packed)
        with pytest.raises(AssertionError):
            assert_scores(engine, plain_model)
        _, path = make_adapter(kind, 1)
        engine.load_adapter(path, 1)
        assert_scores(engine, packed, adapter="base")
        assert_scores(engine, PeftModel.from_pretrained(packed, path).eval())


def test_contexts_that_do_not_fit_are_refused_where_there_is_a_limit(kind: str, transformers_engine: Engine) -> None:
    long = [5] * 64
    if kind == "t5":
        assert np.isfinite(transformers_engine.score([long * 2], [[[7]]])[0]).all(), (
            "positions are relative: there is no limit"
        )
        return
    with pytest.raises(PromptError, match="answer of at most 64 tokens, but context 0 has 64 and its answer up to 1"):
        transformers_engine.score([long], [[[7]]])


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"transformers cannot load the model '.*nowhere'"):
        load_engine(str(tmp_path / "nowhere"), "transformers")


def test_an_encoder_decoder_without_a_start_token_is_refused(tiny_zoo: dict[str, Path], tmp_path: Path) -> None:
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration.from_pretrained(tiny_zoo["t5"])
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    model.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=r"to name decoder_start_token_id, found none\. Add it to the model's config"):
        load_engine(str(tmp_path), "transformers")


def test_a_model_without_keys_and_values_is_refused(tiny_zoo: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_zoo["llama"]).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="keeps keys and values of what it reads, but MambaForCausalLM does not"):
        load_engine(str(tmp_path), "transformers")


def test_adapters_that_do_not_fit_are_refused_and_leave_the_old_one_in_place(
    tiny_zoo: dict[str, Path], tmp_path: Path, make_adapter: MakeAdapter, assert_scores: AssertScores
) -> None:
    from transformers import AutoModelForCausalLM

    with load_engine(str(tiny_zoo["llama"]), "transformers") as engine:
        with pytest.raises(EngineError, match=r"Expected a PEFT adapter in .*, found no adapter_config\.json there"):
            engine.load_adapter(str(tmp_path), 1)
        _, foreign = make_adapter("gpt2", 1)
        with pytest.raises(EngineError, match=r"Expected an adapter that fits the model, but the one in .* does not"):
            engine.load_adapter(foreign, 1)
        assert_scores(engine, AutoModelForCausalLM.from_pretrained(tiny_zoo["llama"]).eval())
        adapted, path = make_adapter("llama", 1)
        engine.load_adapter(path, 1)
        with pytest.raises(EngineError, match="Expected an adapter that fits the model"):
            engine.load_adapter(foreign, 2)
        assert engine.version == 1
        assert_scores(engine, adapted)


def test_adapters_that_work_on_prompts_are_refused(tiny_zoo: dict[str, Path], tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_zoo["llama"]), config).save_pretrained(tmp_path)
    message = "it is of the kind PROMPT_TUNING, which works on prompts"
    with (
        load_engine(str(tiny_zoo["llama"]), "transformers") as engine,
        pytest.raises(EngineError, match=message),
    ):
        engine.load_adapter(str(tmp_path), 1)
