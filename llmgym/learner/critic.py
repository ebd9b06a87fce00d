"""The separate critic: a copy of the policy's model that learns by itself, for heads whose trunk is "separate".

It is what the policy was when it was loaded, with an adapter of its own where the policy learns one. Nothing that heads
on it learn moves the policy, and nothing that the policy learns moves it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llmgym.errors import LearnerError
from llmgym.learner.policy import Policy

__all__ = ["critic_tensors", "load_critic"]


def critic_tensors(policy: Policy) -> dict[str, Tensor] | None:
    """Return the weights of the critic that are learned, by name, on the CPU; None where there is none."""
    if policy.critic is None:
        return None
    return {name: value.detach().cpu().contiguous() for name, value in policy.critic_parameters()}


@torch.no_grad()
def load_critic(policy: Policy, tensors: Mapping[str, Tensor] | None) -> None:
    """Set the weights of the critic.

    Args:
        tensors: as `critic_tensors` returns them.

    Raises:
        LearnerError: they do not fit, or there is a critic on one side only.
    """
    learned, given = dict(policy.critic_parameters()), tensors or {}
    if {name: value.shape for name, value in learned.items()} != {name: value.shape for name, value in given.items()}:
        raise LearnerError(
            "Expected the separate critic of the checkpoint to have the weights that are learned, found others. Load "
            "it with the model, adapter and heads that it was saved with."
        )
    for name, value in learned.items():
        value.copy_(given[name])
