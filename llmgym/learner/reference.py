"""The reference policy: what the learner was, kept as a frozen copy of the weights that learn. Knows no losses.

A second model is not needed: where an adapter or the top layers are learned, the rest is the same in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from llmgym.errors import LearnerError
from llmgym.learner.policy import Policy

__all__ = ["Reference"]


class Reference:
    """A frozen copy of the weights of a policy's model that are learned; heads are no part of it."""

    def __init__(self, policy: Policy, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Copy the weights as they are now, or take the ones given.

        Args:
            policy: what learns.
            tensors: name to weight, as `tensors` returns them.

        Raises:
            LearnerError: those given are not those that the policy learns.
        """
        learned = dict(policy.model_parameters())
        if tensors is not None and {name: value.shape for name, value in tensors.items()} != {
            name: value.shape for name, value in learned.items()
        }:
            raise LearnerError(
                "Expected the reference policy of the checkpoint to have the weights that are learned, found others. "
                "Load it with the model and adapter that it was saved with."
            )
        source = learned if tensors is None else tensors
        self._frozen = {name: source[name].detach().clone().to(value.device) for name, value in learned.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the frozen weights by name, on the CPU."""
        return {name: value.cpu().contiguous() for name, value in self._frozen.items()}

    @contextmanager
    def in_place_of(self, policy: Policy) -> Iterator[None]:
        """Let the policy answer as the reference as long as the context lasts; nothing may be learned meanwhile."""
        learned = dict(policy.model_parameters())
        kept = {name: value.data for name, value in learned.items()}
        try:
            with torch.no_grad():
                for name, value in learned.items():
                    value.data = self._frozen[name]
                yield
        finally:
            for name, value in learned.items():
                value.data = kept[name]
