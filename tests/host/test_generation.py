"""Generated answers carry the log-probabilities that scoring gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmgym.errors import HostError, PromptError
from llmgym.host import HostedModel, ModelSettings

CONTEXTS = ["You", "You see a red ball 2 steps left", "turn"]


@pytest.fixture(params=["llama", "gpt2", "t5"])
def hosted(request: pytest.FixtureRequest, tiny_zoo: dict[str, Path]) -> HostedModel:
    return HostedModel.load(ModelSettings(str(tiny_zoo[request.param]), minibatch_size=4))


@pytest.mark.parametrize(
    "generation",
    [
        {"do_sample": True, "top_k": 0, "num_return_sequences": 3, "max_new_tokens": 12},
        {"do_sample": False, "max_new_tokens": 5},
        {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5},
        {},
    ],
)
def test_an_answers_logprobs_are_its_score(hosted: HostedModel, generation: dict[str, object]) -> None:
    torch.manual_seed(3)
    answers = hosted.generate(CONTEXTS, generation)
    scores = hosted.score(CONTEXTS, [[answer.token_ids for answer in some] for some in answers])
    assert [len(some) for some in answers] == [generation.get("num_return_sequences", 1)] * 3
    for some, found in zip(answers, scores, strict=True):
        totals = [float(answer.logprobs.sum()) for answer in some]
        assert totals == pytest.approx(found.tolist(), abs=1e-4)
        assert all((answer.beam_score is not None) == ("num_beams" in generation) for answer in some)


def test_an_answer_ends_with_its_end_of_sequence_and_counts_no_padding(hosted: HostedModel) -> None:
    model = hosted.language_model
    hidden = model.lm_head.register_forward_hook(lambda module, inputs, logits: _favour_eos(logits))
    torch.manual_seed(0)
    answers = hosted.generate(
        CONTEXTS, {"do_sample": True, "top_k": 0, "max_new_tokens": 30, "num_return_sequences": 4}
    )
    hidden.remove()
    lengths = {len(answer.token_ids) for some in answers for answer in some}
    assert len(lengths) > 1
    for some in answers:
        for answer in some:
            assert answer.logprobs.shape == (len(answer.token_ids),)
            assert 0 not in answer.token_ids[:-1]
            assert np.isfinite(answer.logprobs).all()


def _favour_eos(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone()
    logits[..., 0] = logits.logsumexp(-1) - 2.0
    return logits


def test_temperature_counts_in_the_logprobs(hosted: HostedModel) -> None:
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 1}
    torch.manual_seed(0)
    ((answer,),) = hosted.generate(["You see"], {**options, "temperature": 2.0})
    logprobs = hosted.score(["You see"], [[[token] for token in range(320)]])[0]
    expected = (logprobs / 2.0).log_softmax(-1)[answer.token_ids[0]].item()
    assert float(answer.logprobs[0]) == pytest.approx(expected, abs=1e-4)


def test_what_generate_sets_itself_is_refused(hosted: HostedModel) -> None:
    with pytest.raises(HostError, match="found 'input_ids', which is set from the contexts"):
        hosted.generate(["You"], {"input_ids": None})
    with pytest.raises(HostError, match="transformers cannot generate with"):
        hosted.generate(["You"], {"nonsense": 3})


def test_an_answer_must_fit_behind_its_context(tiny_zoo: dict[str, Path]) -> None:
    hosted = HostedModel.load(ModelSettings(str(tiny_zoo["gpt2"])))
    with pytest.raises(PromptError, match="at most 64 tokens in a context with its answer, but context 0 needs 70"):
        hosted.generate([[5] * 60], {"max_new_tokens": 10})
