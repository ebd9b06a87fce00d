"""What a hosted model says, compared with plain forward passes of the same Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmgym.errors import HostError, PromptError
from llmgym.host import SCORE, HostedModel, ModelSettings, PassOptions, Rows

KINDS = ("llama", "gpt2", "t5")
CONTEXTS = ["You", "You see a red ball 2 steps left and 1 step forward", "turn left turn"]
CANDIDATES = [[" turn left", " go"], [" pick up!", " drop", " toggle toggle"], ["!"]]
Reference = Callable[[Any, list[int], list[int]], tuple[Tensor, Tensor]]


class Value(nn.Module):
    """One number a row, from the state at the end of the context."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(config.hidden_size, 1)

    def read(self, rows: Rows, named: Mapping[str, Any]) -> Tensor:
        values: Tensor = self.layer(rows.states()).squeeze(-1)
        return values * named.get("scale", 1.0)


class Report(nn.Module):
    """Several things at once, by name."""

    def read(self, rows: Rows, named: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"next": rows.next_token_logprobs(), "index": torch.tensor(rows.row_indices)}


class Broken(nn.Module):
    """Forgets the first axis."""

    def read(self, rows: Rows, named: Mapping[str, Any]) -> Tensor:
        return rows.states().sum()


@pytest.fixture
def load(tiny_zoo: dict[str, Path]) -> Callable[..., HostedModel]:
    def make(kind: str, functions: Any = None, **settings: Any) -> HostedModel:
        return HostedModel.load(ModelSettings(str(tiny_zoo[kind]), **settings), functions)

    return make


def encoded(hosted: HostedModel, text: str) -> list[int]:
    ids: list[int] = hosted.inputs.tokenizer.encode(text, add_special_tokens=False)
    return ids


@pytest.mark.parametrize("minibatch_size", [1, 2, 64])
@pytest.mark.parametrize("pre_encode_inputs", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_never_changes_a_score(
    load: Callable[..., HostedModel],
    load_reference: Callable[[str], Any],
    reference_outputs: Reference,
    kind: str,
    pre_encode_inputs: bool,
    minibatch_size: int,
) -> None:
    hosted = load(kind, pre_encode_inputs=pre_encode_inputs, minibatch_size=minibatch_size)
    model = load_reference(kind)
    longer = len(encoded(hosted, CONTEXTS[1])) + 3
    for options in (
        PassOptions(),
        PassOptions(pad_contexts=False),
        PassOptions(context_length=longer, sequence_length=longer + 9),
    ):
        scores = hosted.score(CONTEXTS, CANDIDATES, options)
        for context, candidates, found in zip(CONTEXTS, CANDIDATES, scores, strict=True):
            assert found.dtype == torch.float32
            for candidate, score in zip(candidates, found, strict=True):
                expected, _ = reference_outputs(model, encoded(hosted, context), encoded(hosted, candidate))
                assert score.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_token_counts_though_its_id_is_that_of_the_padding(
    load: Callable[..., HostedModel], load_reference: Callable[[str], Any], reference_outputs: Reference, kind: str
) -> None:
    hosted = load(kind)
    assert hosted.inputs.pad_token_id == 0
    context, candidates = [5, 0, 9], [[0, 7], [0], [8, 0, 0, 3]]
    (found,) = hosted.score([context], [candidates])
    expected = [reference_outputs(load_reference(kind), context, ids)[0].item() for ids in candidates]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_the_sequence_can_count_as_a_candidates_last_token(
    load: Callable[..., HostedModel], kind: str
) -> None:
    hosted = load(kind)
    with_eos = hosted.score(["You see"], [[" a"]], PassOptions(add_eos=True))
    by_hand = hosted.score(["You see"], [[[*encoded(hosted, " a"), hosted.inputs.tokenizer.eos_token_id]]])
    assert with_eos[0].tolist() == pytest.approx(by_hand[0].tolist(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pre_encode_inputs", [True, False])
def test_gradients_run_through_the_shared_context(
    load: Callable[..., HostedModel],
    load_reference: Callable[[str], Any],
    reference_outputs: Reference,
    kind: str,
    pre_encode_inputs: bool,
) -> None:
    hosted = load(kind, pre_encode_inputs=pre_encode_inputs)
    loss = torch.cat([result[SCORE] for result in hosted([SCORE], CONTEXTS, CANDIDATES)]).sum()
    loss.backward()
    model = load_reference(kind)
    for context, candidates in zip(CONTEXTS, CANDIDATES, strict=True):
        for candidate in candidates:
            reference_outputs(model, encoded(hosted, context), encoded(hosted, candidate))[0].backward()
    expected = dict(model.named_parameters())
    for name, value in hosted.language_model.named_parameters():
        # Of a parameter that stands under a large gradient, the sixth digit counts.
        largest = expected[name].grad.abs().max().item()
        assert torch.allclose(value.grad, expected[name].grad, rtol=1e-3, atol=1e-5 * max(1.0, largest)), name


@pytest.mark.parametrize("kind", KINDS)
def test_module_functions_read_hidden_states_alone_or_with_scores(
    load: Callable[..., HostedModel], load_reference: Callable[[str], Any], reference_outputs: Reference, kind: str
) -> None:
    hosted = load(kind, {"value": Value}, minibatch_size=2)
    layer, model = hosted.functions["value"].layer, load_reference(kind)
    alone = hosted.run_modules(["value"], CONTEXTS)
    both = hosted.run_modules([SCORE, "value"], CONTEXTS, CANDIDATES, PassOptions(named={"scale": 2.0}))
    for context, single, together in zip(CONTEXTS, alone, both, strict=True):
        value = layer(reference_outputs(model, encoded(hosted, context), [])[1]).item()
        assert single["value"].tolist() == pytest.approx([value], abs=1e-5)
        assert together["value"].tolist() == pytest.approx([2 * value] * len(together[SCORE]), abs=1e-5)
    assert not alone[0]["value"].requires_grad


def test_module_functions_can_be_differentiated_at_rollout_time(load: Callable[..., HostedModel]) -> None:
    hosted = load("gpt2", {"value": Value})
    (result,) = hosted.run_modules(["value"], ["You see"], with_gradients=True)
    result["value"].sum().backward()
    assert hosted.functions["value"].layer.bias.grad.item() == pytest.approx(1.0)
    assert hosted.language_model.transformer.wte.weight.grad.abs().sum() > 0


def test_a_module_function_may_return_several_tensors_by_name(load: Callable[..., HostedModel]) -> None:
    hosted = load("llama", {"report": Report()}, minibatch_size=2)
    results = hosted.run_modules(["report"], CONTEXTS, CANDIDATES)
    assert [result["report"]["index"].tolist() for result in results] == [[0, 1], [2, 3, 4], [5]]
    assert results[1]["report"]["next"].exp().sum(-1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_a_module_function_that_loses_its_rows_is_refused(load: Callable[..., HostedModel]) -> None:
    message = r"'broken' to return a tensor with one entry for each of 1 rows, got a tensor of shape \(\)"
    with pytest.raises(HostError, match=message):
        load("llama", {"broken": Broken()}).run_modules(["broken"], ["You"])


def test_special_tokens_inside_a_text_are_text_unless_asked_for(load: Callable[..., HostedModel]) -> None:
    eos = "<|endoftext|>"
    plain, asked = load("llama"), load("llama", interpret_special_tokens=True)
    by_id = plain.score(["You"], [[[0]]])[0]
    assert asked.score(["You"], [[eos]])[0].tolist() == by_id.tolist()
    assert plain.score(["You"], [[eos]])[0].item() < by_id.item() - 1


def test_random_weights_come_from_the_seed(load: Callable[..., HostedModel]) -> None:
    first, same, other = (
        load("llama", is_pretrained=False, seed=seed).score(["You"], [[" a"]])[0] for seed in (1, 1, 2)
    )
    assert first.tolist() == same.tolist() != other.tolist()


def test_a_context_that_fills_the_model_exactly_is_scored_and_one_token_more_is_refused(
    load: Callable[..., HostedModel],
) -> None:
    hosted = load("gpt2")
    assert torch.isfinite(hosted.score([[5] * 62], [[[6, 7]]])[0]).all()
    with pytest.raises(PromptError, match=r"at most 64 tokens in a context with its candidate, but candidate 1"):
        hosted.score([[5] * 62], [[[6, 7], [6, 7, 8]]])


@pytest.mark.parametrize(
    ("contexts", "candidates", "options", "message"),
    [
        (["a"], [["b"], ["c"]], {}, "found 1 contexts and 2 lists"),
        ("a", [["b"]], {}, "found one text. Put it into a list"),
        (["a"], ["b"], {}, "list of candidates for context 0, found the text 'b'"),
        (["a", ""], [["b"], ["b"]], {}, r"context 1 \(''\) has none"),
        (["a"], [["b", ""]], {}, "but '' of context 0 has none"),
        (["a"], [["b"]], {"minibatch_size": 0}, "minibatch size of at least 1, got 0"),
        (["You see"], [["b"]], {"context_length": 1}, "context length of at least"),
        (["You see"], [["b"]], {"sequence_length": 1}, "sequence length of at least"),
        (["a"], [["b"]], {"adapter": "red"}, "no 'red' among: none"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    load: Callable[..., HostedModel], contexts: Any, candidates: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HostError, match=message):
        load("llama").score(contexts, candidates, PassOptions(**options))


def test_an_unknown_module_function_is_refused_with_the_known_ones(load: Callable[..., HostedModel]) -> None:
    with pytest.raises(HostError, match=r"among __score, value, found 'valu'. Did you mean 'value'\?"):
        load("llama", {"value": Value}).run_modules(["valu"], ["You"])


def test_weights_that_are_no_numbers_stop_a_score(load: Callable[..., HostedModel]) -> None:
    hosted = load("llama")
    hosted.language_model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(HostError, match="Expected finite log-probabilities, got NaN"):
        hosted.score(["You"], [[" a"]])


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="transformers cannot load a tokenizer"):
        HostedModel.load(ModelSettings(str(tmp_path)))
