"""What vLLM answered, as answers to asks. Imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from llmgym.engine.asks import AskNext, AskPath, AskSample, Sampled
from llmgym.types import FloatArray, TokenIds, Tokenizer

__all__ = ["read_next", "read_path", "read_sampled"]


def read_next(ask: AskNext, outputs: Sequence[Any]) -> FloatArray:
    """Return float32 (len(ask.token_ids),), from the first position of each request."""
    told: dict[int, Any] = outputs[0].outputs[0].logprobs[0]
    for output in outputs[1:]:
        told = told | output.outputs[0].logprobs[0]
    return np.array([told[token].logprob for token in ask.token_ids], dtype=np.float32)


def read_path(ask: AskPath, output: Any) -> FloatArray:
    """Return float32 (len(ask.path_ids),), NaN where a prompt log-probability was not computed.

    The token at index i is predicted at index i - 1. Where that one came out of the cache, vLLM's entry is memory that
    nobody wrote.
    """
    result = np.full(len(ask.path_ids), np.nan, dtype=np.float32)
    num_context_tokens, num_cached_tokens = len(ask.context_ids), output.num_cached_tokens or 0
    for offset, token in enumerate(ask.path_ids[:-1]):
        index = num_context_tokens + offset
        if index - 1 >= num_cached_tokens:
            result[offset] = output.prompt_logprobs[index][token].logprob
    result[-1] = output.outputs[0].logprobs[0][ask.path_ids[-1]].logprob
    return result


def read_sampled(ask: AskSample, output: Any, tokenizer: Tokenizer) -> Sampled:
    """Return what was sampled; its log-probabilities are those after temperature and mask."""
    answer = output.outputs[0]
    token_ids = tuple(answer.token_ids)
    text = answer.text if ask.stop else tokenizer.decode(token_ids, skip_special_tokens=True)
    reason: Literal["stop", "length"] = "stop" if answer.finish_reason == "stop" else "length"
    if ask.allowed is not None:
        token_ids, reason = _whole(token_ids, ask.allowed), "stop"
    entries = list(answer.logprobs)[: len(token_ids)]
    logprobs = [entry[token].logprob for entry, token in zip(entries, token_ids, strict=True)]
    return Sampled(text, token_ids, np.array(logprobs, dtype=np.float32), reason)


def _whole(token_ids: TokenIds, allowed: tuple[TokenIds, ...]) -> TokenIds:
    """Return the allowed sequence that the sampled tokens begin with."""
    return next(ids for ids in allowed if token_ids[: len(ids)] == ids)
