"""The vLLM engine against plain Hugging Face forward passes, one row a candidate."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from llmgym.candidates import close_prefixes, constrained_logprobs
from llmgym.engine import load_engine
from llmgym.errors import EngineError, PromptError
from llmgym.types import Engine

ACTIONS = [" turn left", " turn right", " go forward", " pick up", " drop", " toggle"]
TOLERANCE = 1e-4


def brute_force(model, context, candidate):
    """Log-probability of each token of a candidate, from one forward pass over context + candidate."""
    ids = [*context, *candidate]
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return np.array([logprobs[len(context) - 1 + i, token].item() for i, token in enumerate(candidate)])


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


def random_ids(generator: random.Random, length: int) -> list[int]:
    return [generator.randrange(1, 300) for _ in range(length)]


def cases() -> tuple[list[list[int]], list[list[list[int]]]]:
    """Contexts around the block size of 32; candidates nested, doubled, of one token, and long; few and many."""
    generator = random.Random(0)
    contexts = [random_ids(generator, length) for length in (1, 5, 31, 32, 33, 63, 64, 65, 100, 128, 200)]
    candidates = []
    for position in range(len(contexts)):
        stem = random_ids(generator, 3)
        options = [random_ids(generator, 1), random_ids(generator, 1), stem, stem + random_ids(generator, 4), stem]
        options += [random_ids(generator, 12), random_ids(generator, 40)]
        options += [random_ids(generator, 8) for _ in range(12 if position % 2 else 0)]
        candidates.append(options)
    return contexts, candidates


@pytest.mark.parametrize("repeat", ["first", "again, everything cached"])
def test_scores_equal_brute_force_forward_passes(vllm_engine: Engine, model, repeat) -> None:
    contexts, candidates = cases()
    scores = vllm_engine.score(contexts, candidates)
    assert scores.policy_version == 0
    for context, options, found in zip(contexts, candidates, scores, strict=True):
        expected = [brute_force(model, context, option).sum() for option in options]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=1e-6)
        assert found.dtype == np.float32


def test_normalize_none_gives_every_token_and_mean_their_mean(vllm_engine: Engine, model) -> None:
    contexts, candidates = cases()
    tokens = vllm_engine.score(contexts[:4], candidates[:4], normalize="none")
    means = vllm_engine.score(contexts[:4], candidates[:4], normalize="mean")
    for context, options, found, mean in zip(contexts, candidates, tokens, means, strict=False):
        for option, logprobs, average in zip(options, found, mean, strict=True):
            np.testing.assert_allclose(logprobs, brute_force(model, context, option), atol=TOLERANCE)
            assert average == pytest.approx(logprobs.mean(), abs=1e-5)


def test_a_node_with_more_than_128_children_is_scored(vllm_engine: Engine, model) -> None:
    context, options = [7, 8, 9], [[token] for token in range(1, 300)]
    (found,) = vllm_engine.score([context], [options])
    expected = [brute_force(model, context, option)[0] for option in options]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choices_follow_the_reference_distribution(vllm_engine, reference_engine, temperature) -> None:
    contexts = ["You see a red ball " * times for times in (1, 3, 9)]
    ours = vllm_engine.choose(contexts, [ACTIONS] * 3, "score", temperature, seed=[11, 12, 13])
    reference = reference_engine.choose(contexts, [ACTIONS] * 3, "score", temperature, seed=[11, 12, 13])
    for one, other in zip(ours, reference, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=TOLERANCE)
        assert np.exp(one.logprobs).sum() == pytest.approx(1.0, abs=1e-5)
        assert (one.index, one.candidate_ids) == (other.index, other.candidate_ids)
        assert one.logprob == pytest.approx(float(one.logprobs[one.index]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_constrained_samples_with_the_probability_that_the_trie_gives(
    vllm_engine, reference_engine, temperature
) -> None:
    contexts = ["You see a red ball " * times for times in (1, 3, 9)] * 4
    actions = [" go", " go forward", " go left now", " turn left", " turn right", " drop"]
    ids = tuple(tuple(vllm_engine.tokenizer.encode(action, add_special_tokens=False)) for action in actions)
    closed = close_prefixes(ids, vllm_engine.tokenizer.eos_token_id)
    choices = vllm_engine.choose(contexts, [actions] * 12, "constrained", temperature, seed=3)
    tokens = reference_engine.score(contexts, [closed] * 12, "none")
    for choice, logprobs in zip(choices, tokens, strict=True):
        expected = constrained_logprobs(closed, logprobs, temperature)
        assert choice.logprob == pytest.approx(float(expected[choice.index]), abs=TOLERANCE)
        assert np.flatnonzero(~np.isnan(choice.logprobs)).tolist() == [choice.index]
        assert choice.candidate_ids == ids
    assert len({choice.index for choice in choices}) > 1


def test_constrained_draws_as_often_as_the_trie_says(vllm_engine: Engine) -> None:
    actions = [" go", " go forward", " drop it"]
    ids = tuple(tuple(vllm_engine.tokenizer.encode(action, add_special_tokens=False)) for action in actions)
    closed = close_prefixes(ids, vllm_engine.tokenizer.eos_token_id)
    expected = np.exp(constrained_logprobs(closed, vllm_engine.score(["You see"], [closed], "none")[0], 1.0))
    choices = vllm_engine.choose(["You see"] * 600, [actions] * 600, "constrained", seed=0)
    found = np.bincount([choice.index for choice in choices], minlength=3) / 600
    np.testing.assert_allclose(found, expected, atol=0.07)


def test_score_is_the_softmax_over_sequence_logprobs_at_the_temperature(vllm_engine: Engine) -> None:
    (scores,) = vllm_engine.score(["You see"], [ACTIONS])
    (choice,) = vllm_engine.choose(["You see"], [ACTIONS], temperature=0.5, seed=0)
    scaled = np.exp(scores.astype(np.float64) / 0.5)
    np.testing.assert_allclose(np.exp(choice.logprobs), scaled / scaled.sum(), atol=1e-5)


def test_constrained_lets_a_candidate_end_where_another_goes_on(vllm_engine: Engine) -> None:
    options = [[" go", " go forward", " drop"]] * 40
    choices = vllm_engine.choose(["You see"] * 40, options, how="constrained", seed=0, temperature=2.0)
    assert {choice.index for choice in choices} == {0, 1, 2}


def test_sampling_at_a_temperature_that_vllm_refuses_says_so(vllm_engine: Engine) -> None:
    with pytest.raises(EngineError, match="Expected a temperature from 0 to 2 to sample tokens with vLLM, found 3"):
        vllm_engine.generate(["You see"], 4, temperature=3.0)
    assert vllm_engine.generate(["You see"], 1)[0][0].token_ids, "the engine goes on"


def test_constrained_refuses_duplicates(vllm_engine: Engine) -> None:
    with pytest.raises(EngineError, match="Expected distinct candidates to sample token by token"):
        vllm_engine.choose(["You"], [[" go", " go"]], how="constrained")


def test_same_seed_same_choice_whatever_else_is_in_the_batch(vllm_engine: Engine) -> None:
    contexts = ["You see a red ball"] * 20
    together = vllm_engine.choose(contexts, [ACTIONS] * 20, seed=list(range(20)), normalize="mean")
    alone = [vllm_engine.choose(contexts[:1], [ACTIONS], seed=[seed], normalize="mean")[0] for seed in range(20)]
    assert [one.index for one in together] == [one.index for one in alone]
    assert len({one.index for one in together}) > 1


def test_temperature_zero_takes_the_best_candidate(vllm_engine: Engine) -> None:
    (scores,) = vllm_engine.score(["You see"], [ACTIONS])
    (choice,) = vllm_engine.choose(["You see"], [ACTIONS], temperature=0)
    assert choice.index == int(scores.argmax())
    assert choice.logprob == 0.0


def test_generated_logprobs_are_those_after_temperature(vllm_engine: Engine, model) -> None:
    (answers,) = vllm_engine.generate(["You see a"], 8, temperature=0.7, n=3, seed=5)
    context = vllm_engine.tokenizer.encode("You see a", add_special_tokens=False)
    assert len(answers) == 3
    assert len({answer.token_ids for answer in answers}) > 1, "copies are drawn with seeds of their own"
    for answer in answers:
        with torch.inference_mode():
            logits = model(torch.tensor([[*context, *answer.token_ids]])).logits[0].float() / 0.7
        logprobs = logits.log_softmax(-1)[len(context) - 1 :]
        expected = [logprobs[i, token].item() for i, token in enumerate(answer.token_ids)]
        np.testing.assert_allclose(answer.logprobs, expected, atol=TOLERANCE)
        assert answer.finish_reason in ("stop", "length")


def test_generation_repeats_with_its_seed_and_ends_at_a_stop_text(vllm_engine: Engine) -> None:
    first = vllm_engine.generate(["You see a"], 30, seed=1)[0][0]
    again = vllm_engine.generate(["You see a"], 30, seed=1)[0][0]
    assert again.token_ids == first.token_ids
    stop = first.text[3:5]
    stopped = vllm_engine.generate(["You see a"], 30, seed=1, stop=[stop])[0][0]
    assert stopped.text == first.text[: first.text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_full_weights_swap_into_the_running_engine_with_tied_embeddings(vllm_engine: Engine, model) -> None:
    import copy

    contexts, candidates = cases()
    before = vllm_engine.score(contexts, candidates)
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in changed.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    vllm_engine.load_weights(changed.named_parameters(), 7)
    after = vllm_engine.score(contexts, candidates)
    assert after.policy_version == vllm_engine.version == 7
    for context, options, found, old in zip(contexts, candidates, after, before, strict=True):
        expected = [brute_force(changed, context, option).sum() for option in options]
        np.testing.assert_allclose(found, expected, atol=2 * TOLERANCE, rtol=1e-6)
        assert np.abs(found - old).max() > 0.1


def test_adapter_swap_reads_no_block_of_the_old_policy(adapter_engine: Engine, model, tmp_path: Path) -> None:
    import copy

    import peft

    contexts, candidates = cases()
    adapter_engine.score(contexts, candidates)
    adapted = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    ).eval()
    for version in (1, 2):
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
        folder = tmp_path / str(version)
        adapted.save_pretrained(folder)
        adapter_engine.load_adapter(str(folder), version)
        found = adapter_engine.score(contexts, candidates)
        assert found.policy_version == version
        for context, options, scores in zip(contexts, candidates, found, strict=True):
            expected = [brute_force(adapted, context, option).sum() for option in options]
            np.testing.assert_allclose(scores, expected, atol=2 * TOLERANCE, rtol=1e-6)


@pytest.mark.parametrize(
    ("contexts", "candidates", "message"),
    [
        ([], [], "Expected at least one context, got an empty list"),
        ("You", [[" go"]], "Expected a list of contexts, found one text"),
        (["You"], [[]], r"Expected a list of at least one candidate for context 0, found \[\]"),
        (["You"], [" go"], "Expected a list of at least one candidate for context 0, found ' go'"),
        (["You"], [[" go", ""]], "Expected every candidate to have a token, but '' of context 0 has none"),
        ([""], [[" go"]], "Expected every context to have a token, but context 0 is empty"),
        (["You", "see"], [[" go"]], "found 2 contexts and 1 lists"),
    ],
)
def test_requests_without_an_answer_are_refused(vllm_engine: Engine, contexts, candidates, message) -> None:
    with pytest.raises(EngineError, match=message):
        vllm_engine.score(contexts, candidates)


def test_a_context_longer_than_the_model_is_refused_with_its_length(vllm_engine: Engine) -> None:
    with pytest.raises(PromptError, match="at most 512 tokens, but context 1 has 600 and its answer up to 2"):
        vllm_engine.score([[5], [5] * 600], [[[1]], [[1, 2]]])


def test_an_engine_without_room_for_adapters_says_so(vllm_engine: Engine) -> None:
    with pytest.raises(EngineError, match="max_lora_rank is 0"):
        vllm_engine.load_adapter("nowhere", 1)


def test_missing_vllm_says_the_command(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"Expected vLLM to be installed.*pip install 'llmgym\[cpu\]'"):
        load_engine("anywhere")


def test_unsupported_vllm_is_refused_and_pyproject_supports_the_same() -> None:
    import tomllib

    from llmgym.engine.vllm_setup import SUPPORTED_VERSIONS, check_vllm_version

    with pytest.raises(EngineError, match=r"Expected vLLM >=0\.26,<0\.33, found 0\.25\.1\. Install one of those"):
        check_vllm_version("0.25.1")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["gpu"] == [f"vllm{SUPPORTED_VERSIONS}"]


def test_unknown_backend_and_setting_name_the_nearest() -> None:
    with pytest.raises(EngineError, match=r"found 'vlm'\. Did you mean 'vllm'"):
        load_engine("anywhere", backend="vlm")
    with pytest.raises(EngineError, match=r"found 'max_lora_rnk'\. Did you mean 'max_lora_rank'"):
        load_engine("anywhere", max_lora_rnk=8)


def test_model_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(EngineError, match=r"transformers cannot load the model '\./nowhere'"):
        load_engine("./nowhere", backend="transformers")


def test_an_engine_goes_on_when_another_of_its_process_is_closed(vllm_engine: Engine, tiny_model: Path) -> None:
    before = vllm_engine.score([[5, 6, 7]], [[[8], [9]]])[0]
    with load_engine(str(tiny_model), max_context_tokens=256, kv_cache_gib=0.1) as other:
        np.testing.assert_allclose(other.score([[5, 6, 7]], [[[8], [9]]])[0], before, atol=1e-5)
    again = vllm_engine.score([[5, 6, 7, 8, 9]], [[[8], [9]]])[0]
    assert np.isfinite(again).all()
    np.testing.assert_allclose(vllm_engine.score([[5, 6, 7]], [[[8], [9]]])[0], before, atol=1e-5)
