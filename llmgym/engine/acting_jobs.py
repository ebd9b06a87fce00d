"""Ways to act, as jobs: score, constrained, text and reason. Each returns a choice and its log-probability."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmgym.candidates import build_trie, close_prefixes
from llmgym.engine.answers import Entropy, choose_candidate, sampling_seed
from llmgym.engine.asks import Ask, AskSample, Backend, Sampled
from llmgym.engine.jobs import NonFiniteError, node_logprobs
from llmgym.engine.parser import find_action, load_parser
from llmgym.engine.requests import Decision
from llmgym.errors import EngineError
from llmgym.types import Acting, Choice, FloatArray, Parser

__all__ = ["ActRequest", "act"]

ChoiceJob = Generator[Sequence[Ask], list[Any], Choice]


@dataclass(frozen=True, slots=True)
class ActRequest:
    """One decision to be made.

    Attributes:
        decision: what the model sees, and the actions.
        acting: how the action is taken.
        entropy: of the draws; None for draws that cannot be repeated.
        parse: finds the action in a free answer.
        adapter: who answers.
        version: policy version that answers.
    """

    decision: Decision
    acting: Acting
    entropy: Entropy
    parse: Parser | None
    adapter: str
    version: int


def act(request: ActRequest, backend: Backend) -> ChoiceJob:
    """Return the job that makes one decision."""
    if request.acting.how == "text":
        return _write(request, backend)
    if request.acting.how == "reason":
        return _reason(request, backend)
    if request.acting.how == "constrained":
        return _constrain(request, backend)
    return _score(request, backend)


def _score(request: ActRequest, backend: Backend) -> ChoiceJob:
    """Draw among the candidates by the softmax over their sequence log-probabilities."""
    trie = build_trie(request.decision.candidate_ids)
    logprobs = yield from node_logprobs(request.decision.context_ids, trie, request.adapter, backend)
    index, distribution = choose_candidate(trie, logprobs, request.acting, request.entropy)
    return Choice(index, float(distribution[index]), distribution, request.decision.candidate_ids, request.version)


def _constrain(request: ActRequest, backend: Backend) -> ChoiceJob:
    """Sample a candidate token by token; where one token tells them apart, draw it here."""
    closed = close_prefixes(request.decision.candidate_ids, backend.tokenizer.eos_token_id)
    if all(len(ids) == 1 for ids in closed):
        return (yield from _score(request, backend))
    longest = max(map(len, closed))
    ask = AskSample(
        request.decision.context_ids,
        longest,
        request.acting.temperature,
        seed=sampling_seed(request.entropy),
        allowed=closed,
        adapter=request.adapter,
    )
    (sampled,) = yield [ask]
    index = closed.index(sampled.token_ids)
    logprobs: FloatArray = np.full(len(closed), np.nan, dtype=np.float32)
    logprobs[index] = math.fsum(_drawn(sampled, ask))
    return Choice(index, float(logprobs[index]), logprobs, request.decision.candidate_ids, request.version)


def _write(request: ActRequest, backend: Backend) -> ChoiceJob:
    """Sample an answer freely, and find the action that it names."""
    # Before anything is computed: a parser that cannot be loaded is a mistake in the settings.
    parse = request.parse or (load_parser(request.acting.parser) if request.acting.parser else find_action)
    sampled, logprobs = yield from _sample(request)
    found = parse(sampled.text, request.decision.actions)
    num_actions = len(request.decision.actions)
    if found is not None and not 0 <= found < num_actions:
        raise EngineError(
            f"Expected the parser to return None or an index from 0 to {num_actions - 1}, found {found!r} for the "
            f"answer {sampled.text!r}. Mend the parser."
        )
    index = _fallback(request) if found is None else int(found)
    unknown: FloatArray = np.full(num_actions, np.nan, dtype=np.float32)
    return Choice(
        index,
        math.fsum(logprobs),
        unknown,
        request.decision.candidate_ids,
        request.version,
        sampled_ids=sampled.token_ids,
        text=sampled.text,
        is_parsed=found is not None,
        is_ended=_is_ended(sampled, backend),
        draw_logprobs=logprobs,
    )


def _reason(request: ActRequest, backend: Backend) -> ChoiceJob:
    """Sample a thought, put the cue behind it, and draw among the candidates; the log-probability is of both."""
    sampled, thought_logprobs = yield from _sample(request)
    is_ended = _is_ended(sampled, backend)
    kept_ids = sampled.token_ids[:-1] if is_ended else sampled.token_ids
    cue_ids = request.decision.cue_ids
    context_ids = (*request.decision.context_ids, *kept_ids, *cue_ids)
    trie = build_trie(request.decision.candidate_ids)
    logprobs = yield from node_logprobs(context_ids, trie, request.adapter, backend)
    index, distribution = choose_candidate(trie, logprobs, request.acting, request.entropy)
    draw_logprobs = (*thought_logprobs, float(distribution[index]))
    return Choice(
        index,
        math.fsum(draw_logprobs),
        distribution,
        request.decision.candidate_ids,
        request.version,
        sampled_ids=sampled.token_ids,
        cue_ids=cue_ids,
        text=sampled.text,
        is_ended=is_ended,
        draw_logprobs=draw_logprobs,
    )


def _is_ended(sampled: Sampled, backend: Backend) -> bool:
    """Tell whether the last token sampled is the end of the sequence (a model may have several such tokens)."""
    if sampled.finish_reason != "stop" or not sampled.token_ids:
        return False
    last = sampled.token_ids[-1]
    is_special: bool = backend.tokenizer.decode([last], skip_special_tokens=True) == ""
    return last == backend.tokenizer.eos_token_id or is_special


def _sample(request: ActRequest) -> Generator[Sequence[Ask], list[Any], tuple[Sampled, tuple[float, ...]]]:
    """Sample freely; return the answer and the log-probability of each of its tokens."""
    ask = AskSample(
        request.decision.context_ids,
        request.acting.max_new_tokens,
        request.acting.temperature,
        request.acting.stop,
        sampling_seed(request.entropy),
        adapter=request.adapter,
    )
    (sampled,) = yield [ask]
    return sampled, _drawn(sampled, ask)


def _drawn(sampled: Sampled, ask: AskSample) -> tuple[float, ...]:
    """Return the log-probability of every sampled token; at temperature 0 the draws were certain."""
    if np.isnan(sampled.logprobs).any():
        raise NonFiniteError(ask)
    return tuple(0.0 if ask.temperature == 0 else float(logprob) for logprob in sampled.logprobs)


def _fallback(request: ActRequest) -> int:
    """Return the action to take where an answer names none."""
    wanted = request.acting.fallback
    return request.decision.actions.index(wanted) if wanted in request.decision.actions else 0
