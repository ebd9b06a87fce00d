"""Loading: a causal language model to learn with, and the tokenizer beside it. Knows no adapter and no heads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from llmgym.errors import LearnerError
from llmgym.learner.precision import check_precision, frozen_dtype, round_weights
from llmgym.learner.settings import Precision
from llmgym.nf4 import compute_exactly, nf4_options
from llmgym.progress import without_progress_bars
from llmgym.types import Tokenizer

__all__ = ["load_model", "load_tokenizer"]


def load_model(
    model: Any,
    *,
    device: str | torch.device | None = None,
    load_in_4bit: bool = False,
    precision: Precision = "float32",
    has_adapter: bool = False,
) -> Any:
    """Load a causal language model from a folder or a hub id, or take a copy of one that is given.

    Args:
        model: a folder, a hub id, or a transformers PreTrainedModel, which is copied so that it stays as it is.
        device: where to put it; a GPU if there is one, by default.
        load_in_4bit: pack the weights of linear layers into 4 bits: see `llmgym.nf4`.
        precision: what it is to compute in.
        has_adapter: whether an adapter learns in its place.

    Raises:
        LearnerError: there is no such model, it is not one that this learner can train, or the precision is not one
            that it can compute in.
    """
    from transformers import AutoModelForCausalLM, PreTrainedModel

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_precision(precision, device, load_in_4bit=load_in_4bit)
    dtype = frozen_dtype(precision, has_adapter=has_adapter)
    if isinstance(model, PreTrainedModel):
        if load_in_4bit:
            raise LearnerError(
                "Expected a folder or hub id to load in 4 bits, got a module. Save it first with save_pretrained."
            )
        return round_weights(copy.deepcopy(model).to(device=device, dtype=torch.float32), dtype)
    try:
        with without_progress_bars():
            loaded = AutoModelForCausalLM.from_pretrained(
                str(model),
                dtype=dtype,
                attn_implementation="sdpa",
                **(nf4_options(str(device)) if load_in_4bit else {}),
            )
    except (OSError, ValueError) as error:
        where = "the folder" if Path(str(model)).is_dir() else "no folder, and the hub id"
        raise LearnerError(
            f"Expected a causal language model to learn with, but {where} {str(model)!r} cannot be loaded: {error} "
            "Give a folder with config.json and safetensors, or a hub id."
        ) from error
    if load_in_4bit:
        compute_exactly(loaded)
        return loaded
    return loaded.to(device)


def load_tokenizer(source: str | None) -> Tokenizer:
    """Load the tokenizer beside a model, which reads what looks like a special token as text, as the engine's does.

    Raises:
        LearnerError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        if source is not None:
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(source, split_special_tokens=True)
            return tokenizer
        reason = "the model was given as a module"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise LearnerError(f"Expected a tokenizer beside the model, but {reason}. Load the tokenizer from its own folder.")
