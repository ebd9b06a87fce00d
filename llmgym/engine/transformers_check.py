"""The check of a transformer: what it says in a padded batch that shares contexts, against plain passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmgym.engine.transformers_forward import Transformer
from llmgym.engine.transformers_memory import MemoryBatch
from llmgym.errors import EngineError
from llmgym.nf4 import is_nf4
from llmgym.types import TokenIds

__all__ = ["check_sharing"]

CONTEXTS: tuple[TokenIds, ...] = ((1, 2, 3), (4,))
ROWS: tuple[TokenIds, ...] = ((5,), (6, 7))
TOLERANCE = 1e-3
"""Largest difference that is taken for rounding in float32, in nats."""
HALF_TOLERANCE = 0.5
"""The same where numbers have 16 bits."""


@torch.inference_mode()
def check_sharing(transformer: Transformer) -> None:
    """Refuse a model that does not keep what it reads as keys and values, or to which padding means something.

    Raises:
        EngineError: says how far a padded batch is from plain passes.
    """
    name = type(transformer.model).__name__
    try:
        past = MemoryBatch.stack(transformer.read(CONTEXTS))
        found, _ = transformer.run(past, ROWS, [1, 1])
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise EngineError(
            f"Expected a model that keeps keys and values of what it reads, but {name} does not ({error}). "
            "Use an architecture such as Llama, Qwen2, GPT-2 or T5."
        ) from error
    model = transformer.model
    is_half = model.dtype != torch.float32 or (is_nf4(model) and model.device.type != "cpu")
    tolerance = HALF_TOLERANCE if is_half else TOLERANCE
    for context_ids, ids, logprobs in zip(CONTEXTS, ROWS, found, strict=True):
        gap = float((_plain(transformer, context_ids, ids) - logprobs[-1]).abs().max())
        # A model of NaN passes: who asks it is told the layer.
        if gap > tolerance:
            raise EngineError(
                f"Expected {name} to say in a padded batch what it says of a row alone, within {tolerance:g}, found a "
                f"difference of {gap:.3g}. Use an architecture such as Llama, Qwen2, GPT-2 or T5."
            )


def _plain(transformer: Transformer, context_ids: TokenIds, row_ids: TokenIds) -> Tensor:
    """Return float32 (V,): what follows a context and a row, from one pass without padding or cache."""
    model: Any = transformer.model
    if transformer.is_encoder_decoder:
        inputs = {"input_ids": context_ids, "decoder_input_ids": (model.config.decoder_start_token_id, *row_ids)}
    else:
        inputs = {"input_ids": (*context_ids, *row_ids)}
    tensors = {name: torch.tensor([ids], device=model.device) for name, ids in inputs.items()}
    logprobs: Tensor = model(**tensors, use_cache=False).logits[0, -1].float().log_softmax(-1)
    return logprobs
