"""The transformers engine against plain forward passes, one row at a time: decoder-only and encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgym.candidates import close_prefixes, constrained_logprobs
from llmgym.engine import load_engine
from llmgym.engine.asks import AskNext, AskPath, AskSample
from llmgym.engine.transformers_backend import TransformersBackend
from llmgym.types import Acting, Engine

TOLERANCE = 1e-5
Model = Any
AssertScores = Callable[..., None]
BruteForce = Callable[..., np.ndarray]
Cases = Callable[..., tuple[list[list[int]], list[list[list[int]]]]]
MakeAdapter = Callable[..., tuple[Model, str]]


@pytest.mark.parametrize("time", ["first", "again, from memory"])
def test_scores_equal_plain_forward_passes(
    transformers_engine: Engine, plain_model: Model, time: str, assert_scores: AssertScores
) -> None:
    assert_scores(transformers_engine, plain_model)


def test_every_tokens_score_is_exact(
    transformers_engine: Engine, plain_model: Model, brute_force: BruteForce, cases: Cases
) -> None:
    contexts, candidates = cases(1)
    found = transformers_engine.score(contexts, candidates, "none")
    for context, answers, per_answer in zip(contexts, candidates, found, strict=True):
        for answer, logprobs in zip(answers, per_answer, strict=True):
            np.testing.assert_allclose(logprobs, brute_force(plain_model, context, answer), atol=TOLERANCE)


def test_a_batch_never_changes_a_score(
    transformers_engine: Engine, kind: str, tiny_zoo: dict[str, Path], cases: Cases
) -> None:
    contexts, candidates = cases(2)
    together = transformers_engine.score(contexts, candidates, "none")
    with load_engine(str(tiny_zoo[kind]), "transformers", max_batch_requests=1, kv_cache_gib=0.0) as alone:
        for context, answers, found in zip(contexts, candidates, together, strict=True):
            for answer, logprobs in zip(answers, found, strict=True):
                ((expected,),) = alone.score([context], [[answer]], "none")
                np.testing.assert_allclose(logprobs, expected, atol=TOLERANCE)


def test_every_context_is_read_once(kind: str, tiny_zoo: dict[str, Path]) -> None:
    with load_engine(str(tiny_zoo[kind]), "transformers") as engine:
        backend = engine.backend  # type: ignore[attr-defined]
        lengths: list[int] = []
        for module in backend._open.transformer.model.modules():
            if getattr(module, "num_embeddings", 0) == 320:
                module.register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].numel()))
        contexts = [[7, 8, 9] * 10, [5, 6] * 15]
        candidates = [[[index, 11, 12] for index in range(20, 30)]] * 2
        engine.score(contexts, candidates)
        start = 2 if kind == "t5" else 0
        assert sum(lengths) == 60 + start + 20 * 2, "two contexts, and of each candidate all but its last token"
        lengths.clear()
        engine.score([contexts[0] + [1, 2]], [[[3], [4]]])
        assert sum(lengths) == (33 if kind == "t5" else 2), "a decoder goes on from what it has read"
        assert backend.num_recomputed_tokens(100) == 0
        assert backend.can_ask_paths


def test_a_path_tells_all_its_tokens(
    kind: str, plain_model: Model, tiny_zoo: dict[str, Path], brute_force: BruteForce
) -> None:
    with load_engine(str(tiny_zoo[kind]), "transformers") as engine:
        backend: TransformersBackend = engine.backend  # type: ignore[attr-defined]
        path = backend.submit(AskPath((5, 6, 7), (8, 9, 10)))
        one = backend.submit(AskPath((5, 6), (8,)))
        forgotten = backend.submit(AskNext((5, 6), (), (8,)))
        backend.cancel([forgotten, 999])
        answers: dict[int, Any] = {}
        while len(answers) < 2:
            answers |= dict(backend.advance())
        assert backend.advance() == []
        np.testing.assert_allclose(answers[path], brute_force(plain_model, [5, 6, 7], [8, 9, 10]), atol=TOLERANCE)
        np.testing.assert_allclose(answers[one], brute_force(plain_model, [5, 6], [8]), atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_generated_logprobs_are_those_after_temperature(
    transformers_engine: Engine, plain_model: Model, temperature: float, brute_force: BruteForce, cases: Cases
) -> None:
    contexts, _ = cases(3)
    answers = transformers_engine.generate(contexts, 6, temperature, n=3, seed=5)
    assert len({one.token_ids for several in answers for one in several}) > 3
    for context, several in zip(contexts, answers, strict=True):
        for one in several:
            expected = brute_force(plain_model, context, list(one.token_ids), temperature)
            np.testing.assert_allclose(one.logprobs, expected, atol=1e-4)


def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in(
    transformers_engine: Engine, kind: str, cases: Cases
) -> None:
    backend: TransformersBackend = transformers_engine.backend  # type: ignore[attr-defined]
    contexts, _ = cases(4)
    asks = [AskSample(tuple(context), 3 + place % 4, seed=place) for place, context in enumerate(contexts)]
    asks += [AskSample(tuple(contexts[0]), 5, seed=99, allowed=((5, 6, 7), (5, 8), (9,)))]

    def answers_to(chunks: list[list[AskSample]]) -> dict[AskSample, Any]:
        """Submit chunk after chunk, the next while the one before is under way."""
        tickets, found = {}, {}
        while chunks or len(found) < len(tickets):
            for ask in chunks.pop(0) if chunks else []:
                tickets[backend.submit(ask)] = ask
            found |= {tickets[ticket]: answer for ticket, answer in backend.advance()}
        return found

    together, late, alone = answers_to([asks]), answers_to([asks[:3], asks[3:5], asks[5:]]), {}
    for ask in asks:
        alone |= answers_to([[ask]])
    for ask in asks:
        for other in (late, alone):
            assert together[ask].token_ids == other[ask].token_ids
            np.testing.assert_allclose(together[ask].logprobs, other[ask].logprobs, atol=TOLERANCE)


def test_temperature_0_takes_the_best_token(
    transformers_engine: Engine, plain_model: Model, brute_force: BruteForce, cases: Cases
) -> None:
    contexts, _ = cases(5)
    for context, (found,) in zip(contexts, transformers_engine.generate(contexts, 4, 0.0), strict=True):
        answer: list[int] = []
        for _ in range(4):
            scores = [brute_force(plain_model, context, [*answer, token])[-1] for token in range(320)]
            answer.append(int(np.argmax(scores)))
            if answer[-1] == transformers_engine.tokenizer.eos_token_id:
                break
        assert list(found.token_ids) == answer
        np.testing.assert_allclose(found.logprobs, brute_force(plain_model, context, answer), atol=1e-4)


def test_answers_end_at_the_end_of_sequence_and_at_stop_texts(transformers_engine: Engine) -> None:
    contexts = [[generator, 5, 9] for generator in range(20, 60)]
    answers = [one for (one,) in transformers_engine.generate(contexts, 12, 2.0, seed=1, stop=("e", "t "))]
    whole = [one for (one,) in transformers_engine.generate(contexts, 12, 2.0, seed=1)]
    reasons = set()
    for stopped, free in zip(answers, whole, strict=True):
        text = transformers_engine.tokenizer.decode(list(free.token_ids), skip_special_tokens=True)
        assert free.text == text
        assert free.finish_reason == (
            "stop" if free.token_ids[-1] == transformers_engine.tokenizer.eos_token_id else "length"
        )
        places = [text.index(stop) for stop in ("e", "t ") if stop in text]
        assert free.token_ids[: len(stopped.token_ids)] == stopped.token_ids
        assert stopped.text == (text[: min(places)] if places else text)
        reasons.add((stopped.finish_reason, bool(places)))
    assert {("stop", True), ("length", False)} <= reasons


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_constrained_samples_follow_the_trie_of_candidates(
    transformers_engine: Engine, plain_model: Model, temperature: float, brute_force: BruteForce
) -> None:
    context, candidates = [5, 6, 7], [[10, 11], [10, 12, 13], [10], [14, 15]]
    options = tuple(map(tuple, candidates))
    closed = close_prefixes(options, transformers_engine.tokenizer.eos_token_id)
    tokens = [brute_force(plain_model, context, list(ids)).astype(np.float32) for ids in closed]
    expected = constrained_logprobs(closed, tokens, temperature)
    num_draws = 600
    choices = transformers_engine.act(
        [context] * num_draws, [candidates] * num_draws, Acting("constrained", temperature=temperature), seed=3
    )
    for choice in choices:
        assert choice.logprob == pytest.approx(float(expected[choice.index]), abs=1e-4)
    counts = np.bincount([choice.index for choice in choices], minlength=len(candidates))
    np.testing.assert_allclose(counts / num_draws, np.exp(expected), atol=0.07)


def test_the_same_seed_draws_the_same_and_none_draws_anew(
    transformers_engine: Engine, cases: Cases, assert_scores: AssertScores
) -> None:
    contexts, _ = cases(6)
    first, second, third = (transformers_engine.generate(contexts, 5, 2.0, seed=seed) for seed in (1, 1, 2))
    assert [one.token_ids for (one,) in first] == [one.token_ids for (one,) in second]
    assert [one.token_ids for (one,) in first] != [one.token_ids for (one,) in third]
    free = [transformers_engine.generate(contexts, 5, 2.0) for _ in range(2)]
    assert [one.token_ids for (one,) in free[0]] != [one.token_ids for (one,) in free[1]]
