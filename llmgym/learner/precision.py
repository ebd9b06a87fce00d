"""Precision: which number formats a policy computes in and is kept in. Knows no losses and no engines.

With "bf16" matrix products are taken in bfloat16 (autocast), weights that learn and their optimizer keep float32 (a
step at a rate of 1e-6 would vanish in bfloat16), and weights that are frozen under an adapter are kept in bfloat16.
Heads, softmax, log-probabilities and losses are computed in float32 either way.
"""

from __future__ import annotations

from typing import Any, get_args

import torch

from llmgym.errors import LearnerError
from llmgym.learner.settings import Precision

__all__ = ["CANARY_TOLERANCES", "SCORE_TOLERANCES", "autocast", "check_precision", "frozen_dtype", "round_weights"]

CANARY_TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bf16": 0.25}
"""Largest difference, in nats, between the canary's scores by engine and learner that is taken for rounding.

bfloat16 keeps 8 bits: a logit of 10 is known to 0.04, and a candidate of three tokens adds three of them up.
"""
SCORE_TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bf16": 0.05}
"""Largest difference between two ways to compute a score, as a share of it."""


def check_precision(precision: Precision, device: torch.device, *, load_in_4bit: bool) -> None:
    """Refuse a precision that there is not, or not here.

    Raises:
        LearnerError: says which there is.
    """
    if precision not in get_args(Precision):
        raise LearnerError(
            f"Expected a precision among {', '.join(get_args(Precision))}, got {precision!r}. Take one of them."
        )
    if precision == "float32":
        return
    if load_in_4bit:
        raise LearnerError(
            "Expected precision='float32' with load_in_4bit=True, whose layers choose the format they compute in "
            "(bfloat16 on a GPU) by themselves, got 'bf16'. Leave one of them out."
        )
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise LearnerError(
            f"Expected a GPU that computes in bfloat16 for precision='bf16', got {torch.cuda.get_device_name(device)}. "
            "Take 'float32'."
        )


def frozen_dtype(precision: Precision, *, has_adapter: bool) -> torch.dtype:
    """Return the format that the model is loaded in: bfloat16 only where an adapter learns in its place."""
    return torch.bfloat16 if precision == "bf16" and has_adapter else torch.float32


def round_weights(model: Any, dtype: torch.dtype) -> Any:
    """Round the parameters of a model, which is changed in place, and nothing else.

    `Module.to` would round the frequencies of rotary positions, too, which are no weights.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which a model computes in a precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
