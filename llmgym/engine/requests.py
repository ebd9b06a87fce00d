"""Requests as token ids: what every engine makes of contexts and candidates before it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    return tuple(int(token) for token in text)


def encode_contexts(
    tokenizer: Tokenizer, contexts: Sequence[Context], num_answer_tokens: int, max_context_tokens: int
) -> list[TokenIds]:
    """Encode contexts, and check that each leaves room for its answer.

    Raises:
        EngineError: there is no context, or one is empty.
        PromptError: a context and its answer are longer than the model's context.
    """
    if isinstance(contexts, str):
        raise EngineError("Expected a list of contexts, found one text. Put it into a list: [context].")
    if len(contexts) == 0:
        raise EngineError("Expected at least one context, got an empty list. Leave the call out where there is none.")
    encoded = [encode(tokenizer, context) for context in contexts]
    for position, ids in enumerate(encoded):
        if not ids:
            raise EngineError(f"Expected every context to have a token, but context {position} is empty.")
        if len(ids) + num_answer_tokens > max_context_tokens:
            raise PromptError(
                f"Expected a context and its answer of at most {max_context_tokens} tokens, but context {position} "
                f"has {len(ids)} and its answer up to {num_answer_tokens}. Shorten the history, or take a model "
                "with a longer context."
            )
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
    encode_contexts(tokenizer, contexts, 0, max_context_tokens)
    if len(contexts) != len(candidates):
        raise EngineError(
            f"Expected one list of candidates a context, found {len(contexts)} contexts and {len(candidates)} lists."
        )
    known: dict[Context, TokenIds] = {}
    requests = []
    for position, (context, options) in enumerate(zip(contexts, candidates, strict=True)):
        if isinstance(options, str) or len(options) == 0:
            raise EngineError(
                f"Expected a list of at least one candidate for context {position}, found {options!r}. "
                "Give every context its actions."
            )
        encoded = []
        for option in options:
            key = option if isinstance(option, str) else tuple(option)
            if key not in known:
                known[key] = encode(tokenizer, key)
            if not known[key]:
                raise EngineError(
                    f"Expected every candidate to have a token, but {option!r} of context {position} has none."
                )
            encoded.append(known[key])
        context_ids = encode_contexts(tokenizer, [context], max(map(len, encoded)), max_context_tokens)[0]
        requests.append(ScoreRequest(context_ids, tuple(encoded)))
    return requests
