"""The rivals of exact candidate scoring, each as well as it can be had with the library it uses.

All take token ids, and return log P(candidate | context), float32 (num_candidates,) a context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmgym.types import FloatArray, TokenIds

__all__ = ["kv_repeat", "row_per_candidate", "vllm_as_documented"]

ROWS_A_BATCH = 64

Contexts = Sequence[TokenIds]
Candidates = Sequence[Sequence[TokenIds]]


def vllm_as_documented(llm: Any, contexts: Contexts, candidates: Candidates) -> list[FloatArray]:
    """Score with `prompt_logprobs`, as vLLM's documentation says: every candidate computes its whole context."""
    from vllm import SamplingParams, TokensPrompt

    parameters = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    prompts = [
        TokensPrompt(prompt_token_ids=[*context, *candidate])
        for context, options in zip(contexts, candidates, strict=True)
        for candidate in options
    ]
    outputs = iter(llm.generate(prompts, parameters, use_tqdm=False))
    results = []
    for context, options in zip(contexts, candidates, strict=True):
        scores = []
        for candidate in options:
            entries = next(outputs).prompt_logprobs[len(context) :]
            scores.append(sum(entry[token].logprob for entry, token in zip(entries, candidate, strict=True)))
        results.append(np.array(scores, dtype=np.float32))
    return results


@torch.inference_mode()
def row_per_candidate(model: Any, contexts: Contexts, candidates: Candidates) -> list[FloatArray]:
    """Score with transformers, context and candidate in one row; logits of the candidates' positions only."""
    results = []
    for context, options in zip(contexts, candidates, strict=True):
        scores = []
        for batch in _batches(options):
            rows = [(*context, *candidate) for candidate in batch]
            input_ids, mask = _pad(rows)
            keep = input_ids.shape[1] - len(context) + 1
            output = model(input_ids=input_ids, attention_mask=mask, use_cache=False, logits_to_keep=keep)
            logprobs = output.logits[:, :-1].float().log_softmax(-1)
            scores += _sums(logprobs, batch)
        results.append(np.array(scores, dtype=np.float32))
    return results


@torch.inference_mode()
def kv_repeat(model: Any, contexts: Contexts, candidates: Candidates) -> list[FloatArray]:
    """Score with transformers, the contexts' keys and values computed once and repeated for every candidate.

    This is Lamorel's algorithm. Contexts must be of one length; their last token goes in front of every candidate.
    """
    input_ids = torch.tensor([context[:-1] for context in contexts])
    past = model(input_ids=input_ids, use_cache=True, logits_to_keep=1).past_key_values
    rows = [
        (position, (contexts[position][-1], *candidate), candidate)
        for position, options in enumerate(candidates)
        for candidate in options
    ]
    scores: list[list[float]] = [[] for _ in contexts]
    for batch in _batches(rows):
        indices = torch.tensor([position for position, _, _ in batch])
        cache = _selected(past, indices)
        fed, mask = _pad([row[:-1] for _, row, _ in batch])
        whole_mask = torch.cat([torch.ones(len(batch), input_ids.shape[1], dtype=torch.long), mask], dim=1)
        output = model(input_ids=fed, attention_mask=whole_mask, past_key_values=cache, use_cache=True)
        sums = _sums(output.logits.float().log_softmax(-1), [candidate for _, _, candidate in batch])
        for (position, _, _), total in zip(batch, sums, strict=True):
            scores[position].append(total)
    return [np.array(one, dtype=np.float32) for one in scores]


def _selected(past: Any, indices: Tensor) -> Any:
    """Return a cache with one row of another an index."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, layer in enumerate(past.layers):
        cache.update(layer.keys[indices], layer.values[indices], number)
    return cache


def _pad(rows: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
    """Return int64 (num_rows, longest): token ids padded on the right, and the mask of what counts."""
    longest = max(map(len, rows))
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return input_ids, mask


def _sums(logprobs: Tensor, candidates: Sequence[TokenIds]) -> list[float]:
    """Add up each candidate's token log-probabilities: float32 (num_rows, longest, vocabulary), from its first on."""
    return [
        float(logprobs[row, range(len(candidate)), list(candidate)].sum()) for row, candidate in enumerate(candidates)
    ]


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), ROWS_A_BATCH):
        yield rows[start : start + ROWS_A_BATCH]
