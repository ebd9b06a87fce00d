"""Requests as token ids: what every engine makes of contexts and candidates before it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from llmgym.errors import EngineError, PromptError
from llmgym.types import Acting, Context, TokenIds, Tokenizer

__all__ = [
    "Decision",
    "ScoreRequest",
    "encode",
    "encode_contexts",
    "encode_decisions",
    "encode_joint_requests",
    "encode_score_requests",
]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One context with its candidates, in token ids.

    Attributes:
        context_ids: at least one token.
        candidate_ids: at least one candidate, each of at least one token.
    """

    context_ids: TokenIds
    candidate_ids: tuple[TokenIds, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """One state to act in.

    Attributes:
        context_ids: what the model sees; at least one token.
        candidate_ids: token ids of the actions, the end of the sequence included where it counts.
        actions: the same as texts; () where nobody reads them.
        cue_ids: what stands between a thought and the action.
    """

    context_ids: TokenIds
    candidate_ids: tuple[TokenIds, ...]
    actions: tuple[str, ...]
    cue_ids: TokenIds


def encode(tokenizer: Tokenizer, text: Context) -> TokenIds:
    """Return token ids of a text without special tokens; token ids pass through as they are."""
    if isinstance(text, str):
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    if isinstance(text, np.ndarray):
        return tuple(text.tolist())
    # A tuple comes back as it is, without a copy.
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
    *,
    ends: bool = False,
    num_free_tokens: int = 0,
    candidates_follow: bool = True,
) -> list[ScoreRequest]:
    """Encode contexts and candidates apart from each other, and check that each fits.

    Args:
        ends: append the end of the sequence to every candidate.
        num_free_tokens: tokens that will stand behind the context, before any candidate.
        candidates_follow: whether a candidate will be put behind them, for which there must be room.

    Raises:
        EngineError: a list is empty, the lengths differ, or a candidate has no token.
        PromptError: a context with its answer is longer than the model's context.
    """
    encoded = _encode_contexts(tokenizer, contexts)
    _check_lengths(contexts, candidates)
    end = _end(tokenizer) if ends else ()
    known: dict[str | TokenIds, TokenIds] = {}
    last: tuple[Context, ...] | None = None
    candidate_ids: tuple[TokenIds, ...] = ()
    num_answer_tokens = num_free_tokens
    requests = []
    for position, (context_ids, options) in enumerate(zip(encoded, candidates, strict=True)):
        # Mostly all contexts have the same candidates.
        if options is not last and not (last is not None and _is_plain(options) and options == last):
            candidate_ids = _encode_candidates(tokenizer, options, position, known)
            if end:
                candidate_ids = tuple((*ids, *end) for ids in candidate_ids)
            if candidates_follow:
                num_answer_tokens = num_free_tokens + max(map(len, candidate_ids))
            last = options if _is_plain(options) else None
        _check_length(position, len(context_ids), num_answer_tokens, max_context_tokens)
        requests.append(ScoreRequest(context_ids, candidate_ids))
    return requests


def encode_joint_requests(
    tokenizer: Tokenizer,
    contexts: Sequence[Context],
    candidates: Sequence[Sequence[Context]],
    max_context_tokens: int,
    *,
    ends: bool = False,
) -> list[ScoreRequest]:
    """Encode every context together with each of its candidates, as the tokenizer writes the whole text.

    A token may then span the border. The context becomes the tokens that its own encoding shares with all whole texts
    of its candidates, and a candidate all that follows: every candidate of a context is scored over the same text.

    Raises:
        EngineError: a text is given as token ids; or as for `encode_score_requests`.
        PromptError: a whole text is longer than the model's context.
    """
    alone = _encode_contexts(tokenizer, contexts)
    _check_lengths(contexts, candidates)
    end = _end(tokenizer) if ends else ()
    requests = []
    for position, (context, context_ids, options) in enumerate(zip(contexts, alone, candidates, strict=True)):
        _encode_candidates(tokenizer, options, position, {})
        if not isinstance(context, str) or not all(isinstance(option, str) for option in options):
            raise EngineError(
                f"Expected texts to tokenize jointly, but context {position} or one of its candidates is given as "
                "token ids. Give texts, or use tokenization='separate'."
            )
        wholes = [encode(tokenizer, f"{context}{option}") for option in options]
        # At least one token stays in the context, and at least one in every candidate.
        longest = min(len(context_ids), *(len(whole) - 1 for whole in wholes))
        num_shared = 0
        while num_shared < longest and all(whole[num_shared] == context_ids[num_shared] for whole in wholes):
            num_shared += 1
        if num_shared == 0:
            raise EngineError(
                f"Expected context {position} and its joint texts to begin with the same token, but none is shared. "
                "Use tokenization='separate'."
            )
        candidate_ids = tuple((*whole[num_shared:], *end) for whole in wholes)
        _check_length(position, num_shared, max(map(len, candidate_ids)), max_context_tokens)
        requests.append(ScoreRequest(context_ids[:num_shared], candidate_ids))
    return requests


def encode_decisions(
    tokenizer: Tokenizer,
    contexts: Sequence[Context],
    candidates: Sequence[Sequence[Context]],
    max_context_tokens: int,
    acting: Acting,
) -> list[Decision]:
    """Encode states to act in, and check that each fits with the longest answer that may be given in it.

    Raises:
        EngineError: as for `encode_score_requests`.
        PromptError: as for `encode_score_requests`.
    """
    cue_ids = encode(tokenizer, acting.cue) if acting.how == "reason" else ()
    is_free = acting.how in ("text", "reason")
    requests = encode_score_requests(
        tokenizer,
        contexts,
        candidates,
        max_context_tokens,
        ends=acting.ends_candidates,
        num_free_tokens=acting.max_new_tokens + len(cue_ids) if is_free else 0,
        candidates_follow=acting.how != "text",
    )
    decisions = []
    for request, options in zip(requests, candidates, strict=True):
        actions: tuple[str, ...] = ()
        if acting.how == "text":
            actions = tuple(option if isinstance(option, str) else tokenizer.decode(option) for option in options)
        decisions.append(Decision(request.context_ids, request.candidate_ids, actions, cue_ids))
    return decisions


def _end(tokenizer: Tokenizer) -> TokenIds:
    if tokenizer.eos_token_id is None:
        raise EngineError("Expected a tokenizer with an end of sequence to score it, but this one has none.")
    return (tokenizer.eos_token_id,)


def _check_lengths(contexts: Sequence[Context], candidates: Sequence[Sequence[Context]]) -> None:
    if len(contexts) != len(candidates):
        raise EngineError(
            f"Expected one list of candidates a context, found {len(contexts)} contexts and {len(candidates)} lists."
        )


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


def _is_plain(options: Sequence[Context]) -> TypeGuard[tuple[Context, ...]]:
    """Tell whether two such lists can be compared by ==, which numpy's arrays cannot."""
    return isinstance(options, tuple) and all(isinstance(option, str | tuple) for option in options)


def _check_length(position: int, num_tokens: int, num_answer_tokens: int, max_context_tokens: int) -> None:
    if num_tokens + num_answer_tokens > max_context_tokens:
        raise PromptError(
            f"Expected a context and its answer of at most {max_context_tokens} tokens, but context {position} "
            f"has {num_tokens} and its answer up to {num_answer_tokens}. Shorten the history, or take a model "
            "with a longer context.",
            position=position,
        )
