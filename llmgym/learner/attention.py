"""Attention over packed rows: the trunk plainly causal, the branches through a mask. Knows rows only by shape.

transformers calls it by name, in place of its own. Splitting off the branches keeps the trunk, nearly all of a row,
on torch's causal kernel, which skips the half above the diagonal, and keeps the mask small.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention

from llmgym.errors import LearnerError
from llmgym.learner.flex import flex_attend

__all__ = ["PACKED_ATTENTION", "packed_attention", "use_packed_attention"]

PACKED_ATTENTION = "llmgym_packed"
"""The name under which transformers finds it."""

_UNKNOWN_TERMS = ("softcap", "s_aux", "position_bias")


def use_packed_attention(model: Any) -> None:
    """Make a transformers model attend over packed rows.

    Raises:
        LearnerError: the model's attention cannot be replaced.
    """
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False):
        raise LearnerError(
            f"Expected a model whose attention transformers can replace, but {type(model).__name__} has its own. Use "
            "an architecture such as Llama, Qwen2 or GPT-2."
        )
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    model.set_attn_implementation(PACKED_ATTENTION)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    *,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend, in the form in which transformers calls attention functions (hence the keyword bag).

    Args:
        module: the attention layer; not looked at.
        query: (R, num_heads, T, head size); the trunk's tokens, then those of the branches.
        key: (R, num_key_heads, T, head size).
        value: (R, num_key_heads, T, head size).
        attention_mask: float (R, 1, tokens of branches, T), added to the scores of the branches, or a rule of that
            shape; None without branches.
        scaling: of the scores; one over the root of the head size if None.
        others: what transformers passes besides.

    Returns:
        (R, T, num_heads, head size), and no attention weights.

    Raises:
        LearnerError: the model adds a term to its scores that this attention does not compute.
    """
    unknown = next((name for name in _UNKNOWN_TERMS if others.get(name) is not None), None)
    if unknown is not None:
        raise LearnerError(
            f"Expected plain attention, but this model adds {unknown!r} to its scores. Use an architecture such as "
            "Llama, Qwen2 or GPT-2."
        )
    num_groups = query.shape[1] // key.shape[1]
    if num_groups > 1:
        key, value = key.repeat_interleave(num_groups, dim=1), value.repeat_interleave(num_groups, dim=1)
    if attention_mask is None:
        result = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    else:
        num_trunk = query.shape[2] - attention_mask.shape[2]
        trunk = scaled_dot_product_attention(
            query[:, :, :num_trunk], key[:, :, :num_trunk], value[:, :, :num_trunk], is_causal=True, scale=scaling
        )
        asking = query[:, :, num_trunk:]
        if isinstance(attention_mask, Tensor):
            branches = scaled_dot_product_attention(asking, key, value, attn_mask=attention_mask, scale=scaling)
        else:
            branches = flex_attend(asking, key, value, attention_mask, scaling)
        result = torch.cat([trunk, branches], dim=2)
    return result.transpose(1, 2).contiguous(), None
