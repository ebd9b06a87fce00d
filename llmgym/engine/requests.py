"""Requests as token ids: what every engine makes of contexts and candidates before it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmgym.errors import EngineError, PromptError
from llmgym.types import Context, TokenIds, Tokenizer

__all__ = ["ScoreRequest", "encode", "encode_contexts", "encode_score_requests"]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One context with its candidates, in token ids.

    Attributes:
        context_ids: at least one token.
        candidate_ids: at least one candidate, each of at least one token.
    """

    context_ids: TokenIds
    candidate_ids: tuple[TokenIds, ...]


def encode(tokenizer: Tokenizer, text: Context) -> TokenIds:
    """Return token ids of a text without special tokens; token ids pass through as they are."""
    if isinstance(text, str):
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    if isinstance(text, np.ndarray):
        return tuple(text.tolist())
    return tuple(text)


def encode_contexts(
    tokenizer: Tokenizer, contexts: Sequence[Context], num_answer_tokens: int, max_context_tokens: int
) -> list[TokenIds]:
    """Encode contexts, and check that each leaves room for its answer.

    Raises:
        EngineError: there is no context, or one is empty.
        PromptError: a context and its answer are longer than the model's context.
    """
    encoded = _encode_contexts(tokenizer, contexts)
    for position, ids in enumerate(encoded):
        _check_length(position, len(ids), num_answer_tokens, max_context_tokens)
    return encoded


def encode_score_requests(
    tokenizer: Tokenizer,
    contexts: Sequence[Context],
    candidates: Sequence[Sequence[Context]],
    max_context_tokens: int,
) -> list[ScoreRequest]:
    """Encode contexts and candidates apart from each other, and check that each fits.

    Raises:
        EngineError: a list is empty, the lengths differ, or a candidate has no token.
        PromptError: a context with its longest candidate is longer than the model's context.
    """
    encoded = _encode_contexts(tokenizer, contexts)
    if len(contexts) != len(candidates):
        raise EngineError(
            f"Expected one list of candidates a context, found {len(contexts)} contexts and {len(candidates)} lists."
        )
    known: dict[str | TokenIds, TokenIds] = {}
    requests = []
    for position, (context_ids, options) in enumerate(zip(encoded, candidates, strict=True)):
        candidate_ids = _encode_candidates(tokenizer, options, position, known)
        _check_length(position, len(context_ids), max(map(len, candidate_ids)), max_context_tokens)
        requests.append(ScoreRequest(context_ids, candidate_ids))
    return requests


def _encode_contexts(tokenizer: Tokenizer, contexts: Sequence[Context]) -> list[TokenIds]:
    if isinstance(contexts, str):
        raise EngineError("Expected a list of contexts, found one text. Put it into a list: [context].")
    if len(contexts) == 0:
        raise EngineError("Expected at least one context, got an empty list. Leave the call out where there is none.")
    encoded = [encode(tokenizer, context) for context in contexts]
    for position, ids in enumerate(encoded):
        if not ids:
            raise EngineError(f"Expected every context to have a token, but context {position} is empty.")
    return encoded


def _encode_candidates(
    tokenizer: Tokenizer, options: Sequence[Context], position: int, known: dict[str | TokenIds, TokenIds]
) -> tuple[TokenIds, ...]:
    """Encode the candidates of one context; `known` remembers those of the call."""
    if isinstance(options, str) or len(options) == 0:
        raise EngineError(
            f"Expected a list of at least one candidate for context {position}, found {options!r}. "
            "Give every context its actions."
        )
    encoded = []
    for option in options:
        key = option if isinstance(option, str) else encode(tokenizer, option)
        if key not in known:
            known[key] = encode(tokenizer, key)
        if not known[key]:
            raise EngineError(
                f"Expected every candidate to have a token, but {option!r} of context {position} has none."
            )
        encoded.append(known[key])
    return tuple(encoded)


def _check_length(position: int, num_tokens: int, num_answer_tokens: int, max_context_tokens: int) -> None:
    if num_tokens + num_answer_tokens > max_context_tokens:
        raise PromptError(
            f"Expected a context and its answer of at most {max_context_tokens} tokens, but context {position} "
            f"has {num_tokens} and its answer up to {num_answer_tokens}. Shorten the history, or take a model "
            "with a longer context."
        )
