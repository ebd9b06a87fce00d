"""The layout of rows: which token stands where, what is padding, and what is shared. Knows no weights.

Decoder-only: contexts are padded on the left, candidates on the right, and the last token of the context stands in
front of each candidate, so that its output predicts the candidate's first token:

    contexts encoded once     - - a b c | d x y          - is padding, a b c d the context, x y the candidate
    contexts in every row     - - a b c   d x y -

Encoder-decoder: the encoder reads the context, padded on the right; the decoder its start token and the candidate.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmgym.errors import HostError
from llmgym.host.inputs import EncodedPass, InputSettings, PassOptions
from llmgym.host.rows import RowInputs
from llmgym.types import TokenIds

__all__ = ["ContextLayout", "base_model", "lay_out_contexts", "lay_out_rows", "position_ids"]

PaddedContext = dict[str, list[int]]
"""One padded context: "input_ids" and "attention_mask"."""


class ContextLayout:
    """The padded contexts of a pass, and the tokens that open its candidates.

    Attributes:
        padded: one a context; of decoder-only models without the last token.
        openings: one token a context, which stands in front of each of its candidates.
    """

    def __init__(self, padded: Sequence[PaddedContext], openings: Sequence[int]) -> None:
        self.padded = tuple(padded)
        self.openings = tuple(openings)

    def tensors(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Return int64 (N, T) "input_ids" and "attention_mask" of some contexts, which have one length."""
        return {
            key: torch.tensor([self.padded[index][key] for index in indices], dtype=torch.long, device=device)
            for key in ("input_ids", "attention_mask")
        }


def lay_out_contexts(encoded: EncodedPass, inputs: InputSettings, options: PassOptions) -> ContextLayout:
    """Pad the contexts of a pass.

    Raises:
        HostError: the length asked for is shorter than a context.
    """
    longest = max(map(len, encoded.contexts), default=0)
    length = longest if options.context_length is None else options.context_length
    if length < longest:
        raise HostError(
            f"Expected a context length of at least {longest} tokens, the longest context, got {length}. "
            "Raise it, or leave it out."
        )
    if inputs.is_encoder_decoder:
        padded = [_padded(ids, length, inputs.pad_token_id) for ids in encoded.contexts]
        return ContextLayout(padded, [inputs.start_token_id] * len(padded))
    is_even = options.pad_contexts or inputs.pre_encode_inputs
    lengths = [length - 1 if is_even else len(ids) - 1 for ids in encoded.contexts]
    padded = [
        _padded(ids[:-1], size, inputs.pad_token_id, left=True)
        for ids, size in zip(encoded.contexts, lengths, strict=True)
    ]
    return ContextLayout(padded, [ids[-1] for ids in encoded.contexts])


def lay_out_rows(
    rows: Sequence[tuple[int, TokenIds]],
    contexts: ContextLayout,
    inputs: InputSettings,
    options: PassOptions,
    *,
    is_shared: bool,
    takes_positions: bool,
) -> RowInputs:
    """Make the inputs of a minibatch; the shared encoding of its contexts, where there is one, is still to be added.

    Args:
        rows: for each row the index of its context, and the candidate's token ids.
        contexts: padded.
        is_shared: whether the contexts themselves are encoded apart.
        takes_positions: whether the model takes position_ids.

    Raises:
        HostError: the sequence length asked for is too short.
    """
    answers = [(contexts.openings[index], *ids) for index, ids in rows]
    candidate_ids, candidate_mask = _candidate_tensors([ids for _, ids in rows], inputs)
    if inputs.is_encoder_decoder:
        made = _decoder_inputs(rows, answers, contexts, inputs, is_shared=is_shared)
        positions = torch.zeros(len(rows), dtype=torch.long, device=inputs.device)
        return RowInputs(made, positions, candidate_ids, candidate_mask)
    prefixes = [contexts.padded[index] for index, _ in rows]
    needed = max(len(prefix["input_ids"]) + len(answer) for prefix, answer in zip(prefixes, answers, strict=True))
    length = needed if options.sequence_length is None else options.sequence_length
    if length < needed:
        raise HostError(
            f"Expected a sequence length of at least {needed} tokens, the longest context with its candidate, got "
            f"{length}. Raise it, or leave it out."
        )
    whole = [
        {
            "input_ids": prefix["input_ids"] + behind["input_ids"],
            "attention_mask": prefix["attention_mask"] + behind["attention_mask"],
        }
        for prefix, answer in zip(prefixes, answers, strict=True)
        for behind in [_padded(answer, length - len(prefix["input_ids"]), inputs.pad_token_id)]
    ]
    mask = torch.tensor([row["attention_mask"] for row in whole], dtype=torch.long, device=inputs.device)
    fed = torch.tensor([row["input_ids"] for row in whole], dtype=torch.long, device=inputs.device)
    starts = [len(prefix["input_ids"]) for prefix in prefixes]
    first = starts[0] if is_shared else 0
    made = {"input_ids": fed[:, first:], "attention_mask": mask}
    if takes_positions:
        made["position_ids"] = position_ids(mask)[:, first:]
    positions = torch.tensor([start - first for start in starts], dtype=torch.long, device=inputs.device)
    return RowInputs(made, positions, candidate_ids, candidate_mask)


def position_ids(attention_mask: Tensor) -> Tensor:
    """Return int64 (N, T): each token's place among the tokens that count, so that padding moves nothing."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def base_model(model: Any) -> Any:
    """Return the transformers model under an adapter, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes_argument(model: nn.Module, name: str) -> bool:
    """Tell whether a model's forward names an argument."""
    return name in inspect.signature(base_model(model).forward).parameters


def _decoder_inputs(
    rows: Sequence[tuple[int, TokenIds]],
    answers: Sequence[TokenIds],
    contexts: ContextLayout,
    inputs: InputSettings,
    *,
    is_shared: bool,
) -> Mapping[str, Tensor]:
    """Make the inputs of an encoder-decoder model."""
    longest = max(map(len, answers))
    padded = [_padded(answer, longest, inputs.pad_token_id) for answer in answers]
    made = {
        "decoder_input_ids": torch.tensor([row["input_ids"] for row in padded], device=inputs.device),
        "decoder_attention_mask": torch.tensor([row["attention_mask"] for row in padded], device=inputs.device),
    }
    encoder = contexts.tensors([index for index, _ in rows], inputs.device)
    made["attention_mask"] = encoder["attention_mask"]
    if not is_shared:
        made["input_ids"] = encoder["input_ids"]
    return made


def _candidate_tensors(candidates: Sequence[TokenIds], inputs: InputSettings) -> tuple[Tensor, Tensor]:
    """Return token ids, int64 (R, C), and mask, bool (R, C)."""
    longest = max(map(len, candidates))
    padded = [_padded(ids, longest, inputs.pad_token_id) for ids in candidates]
    ids = torch.tensor([row["input_ids"] for row in padded], dtype=torch.long, device=inputs.device)
    mask = torch.tensor([row["attention_mask"] for row in padded], dtype=torch.bool, device=inputs.device)
    return ids, mask


def _padded(ids: Sequence[int], length: int, pad_token_id: int, *, left: bool = False) -> PaddedContext:
    """Fill token ids up to a length, on the right unless told otherwise."""
    fill = length - len(ids)
    padding, zeros = [pad_token_id] * fill, [0] * fill
    if left:
        return {"input_ids": [*padding, *ids], "attention_mask": [*zeros, *[1] * len(ids)]}
    return {"input_ids": [*ids, *padding], "attention_mask": [*[1] * len(ids), *zeros]}
