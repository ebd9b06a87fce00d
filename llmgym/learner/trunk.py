"""The trunk: a transformers model over a pack, up to its last hidden states. Knows no heads and no logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llmgym.learner.packing import Pack

__all__ = ["trunk_states"]


def trunk_states(causal_model: Any, pack: Pack) -> Tensor:
    """Return the last hidden states, after the final norm: (R*T, D), the rows one behind the other."""
    outputs = causal_model.base_model(
        input_ids=pack.input_ids,
        attention_mask=pack.branch_mask,
        position_ids=pack.position_ids,
        use_cache=False,
    )
    states: Tensor = outputs.last_hidden_state
    return states.reshape(-1, states.shape[-1])
