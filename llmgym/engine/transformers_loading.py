"""Loading a transformers model to answer: decoder-only or encoder-decoder, in its own numbers or in 4 bits."""

from __future__ import annotations

from typing import Any

import torch

from llmgym.engine.settings import EngineSettings
from llmgym.errors import EngineError
from llmgym.nf4 import compute_exactly, nf4_options

__all__ = ["end_token_ids", "load_transformer", "longest_context"]


def load_transformer(model: str, settings: EngineSettings) -> Any:
    """Load a model from a folder or hub id, in evaluation mode, on a GPU if there is one.

    Raises:
        EngineError: it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "float32" if settings.dtype == "auto" and device == "cpu" else settings.dtype
    try:
        config = AutoConfig.from_pretrained(model)
        maker = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        if settings.load_in_4bit:
            loaded = maker.from_pretrained(model, dtype=dtype, **nf4_options(device))
            compute_exactly(loaded)
        else:
            loaded = maker.from_pretrained(model, dtype=dtype).to(device)
    except (OSError, ValueError, ImportError) as error:
        raise EngineError(f"transformers cannot load the model {model!r}: {error}") from error
    return loaded.eval()


def longest_context(config: Any) -> int:
    """Return the longest sequence that a model can read, in tokens; without bound where positions are relative."""
    return getattr(config, "max_position_embeddings", None) or 2**31


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the tokenizer's, and those of the model's generation config."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = found if isinstance(found, list) else [found]
    return frozenset(int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None)
