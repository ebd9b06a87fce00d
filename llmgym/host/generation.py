"""Generation by transformers' own sampler, in batches: tokens with the log-probabilities they were drawn with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmgym.errors import HostError
from llmgym.host.inputs import InputSettings, encode_contexts
from llmgym.types import FloatArray, TokenIds

__all__ = ["Sampled", "sample"]

DEFAULT_NEW_TOKENS = 20
"""Tokens that are generated where nobody says how many."""

_LENGTH_OPTIONS = frozenset({"max_length", "max_new_tokens", "max_time", "generation_config"})
_OWN_OPTIONS = frozenset({"input_ids", "attention_mask", "return_dict_in_generate", "output_scores", "tokenizer"})


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """One generated answer.

    Attributes:
        text: the answer without special tokens.
        token_ids: what was generated, the end-of-sequence token included if there is one, without padding.
        logprobs: float32 (num_tokens,); log-probability of each token under the distribution it was drawn from.
        beam_score: what beam search ranks by; None without beams.
    """

    text: str
    token_ids: TokenIds
    logprobs: FloatArray
    beam_score: float | None


@torch.no_grad()
def sample(
    model: Any,
    inputs: InputSettings,
    contexts: Sequence[Any],
    generation: Mapping[str, Any],
    minibatch_size: int | None = None,
) -> list[list[Sampled]]:
    """Generate answers for every context.

    Args:
        model: a transformers model, with or without an adapter.
        inputs: how it is fed.
        contexts: texts or token ids.
        generation: options of transformers' `generate`; 20 new tokens where they set no length.
        minibatch_size: sequences generated at once; the model's own if None.

    Raises:
        HostError: an option is not the caller's to set, or transformers refuses one.
        PromptError: a context does not fit into the model.
    """
    if taken := sorted(_OWN_OPTIONS & set(generation)):
        raise HostError(f"Expected options of generate, found {taken[0]!r}, which is set from the contexts. Remove it.")
    options = dict(generation)
    if not _LENGTH_OPTIONS & set(options):
        options["max_new_tokens"] = DEFAULT_NEW_TOKENS
    encoded = encode_contexts(inputs, contexts, int(options.get("max_new_tokens") or 1))
    num_answers = int(options.get("num_return_sequences") or 1)
    size = max(1, (minibatch_size or inputs.minibatch_size) // num_answers)
    answers: list[list[Sampled]] = []
    for start in range(0, len(encoded), size):
        answers += _sample_batch(model, inputs, encoded[start : start + size], options, num_answers)
    return answers


def _sample_batch(
    model: Any, inputs: InputSettings, contexts: Sequence[TokenIds], options: Mapping[str, Any], num_answers: int
) -> list[list[Sampled]]:
    """Generate for one batch of contexts, padded on the side that the model reads on from."""
    longest = max(map(len, contexts))
    input_ids = torch.full((len(contexts), longest), inputs.pad_token_id, dtype=torch.long, device=inputs.device)
    mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(contexts):
        place = slice(0, len(ids)) if inputs.is_encoder_decoder else slice(longest - len(ids), longest)
        input_ids[row, place] = torch.tensor(ids, device=inputs.device)
        mask[row, place] = 1
    try:
        found = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            return_dict_in_generate=True,
            output_scores=True,
            tokenizer=inputs.tokenizer,
            **{"pad_token_id": inputs.pad_token_id, **options},
        )
    except (TypeError, ValueError) as error:
        raise HostError(f"transformers cannot generate with {dict(options)}: {error}") from error
    beams = getattr(found, "beam_indices", None)
    # Beams are ranked by log-probabilities already; what is sampled from are logits after temperature and filters.
    logprobs = model.compute_transition_scores(
        found.sequences, found.scores, beams, normalize_logits=beams is None
    ).float()
    tokens = found.sequences[:, -logprobs.shape[1] :]
    beam_scores = getattr(found, "sequences_scores", None)
    answers = [
        _sampled(inputs, _eos_ids(model), row.tolist(), row_logprobs.cpu().numpy(), beam_score)
        for row, row_logprobs, beam_score in zip(
            tokens, logprobs, [None] * len(tokens) if beam_scores is None else beam_scores.tolist(), strict=True
        )
    ]
    return [answers[start : start + num_answers] for start in range(0, len(answers), num_answers)]


def _sampled(
    inputs: InputSettings, eos_ids: frozenset[int], tokens: list[int], logprobs: Any, beam_score: float | None
) -> Sampled:
    """Cut the padding off an answer: it ends with its first end-of-sequence token."""
    length = next((place + 1 for place, token in enumerate(tokens) if token in eos_ids), len(tokens))
    kept = tokens[:length]
    text = inputs.tokenizer.decode(kept, skip_special_tokens=True)
    return Sampled(text, tuple(kept), np.asarray(logprobs[:length], np.float32), beam_score)


def _eos_ids(model: Any) -> frozenset[int]:
    """Return the tokens that end a sequence."""
    eos = model.generation_config.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [int(eos)])
