"""What is not finite: the error of a step that was not taken, with all that is needed to look into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from llmgym.errors import LearnerError
from llmgym.types import Turn

__all__ = ["NonFiniteError", "OnNonFinite"]

OnNonFinite = Literal["stop", "skip"]
"""Whether an update ends with an error at a step that cannot be taken, or goes on without it."""


class NonFiniteError(LearnerError):
    """A loss or a gradient is NaN or infinite. Its step was not taken: weights and optimizer are as they were before.

    Attributes:
        broken: names of what is not finite: the loss and its metrics, or the parameters by their gradients ("model." or
            "heads.", and the parameter's own name).
        turns: of the minibatch.
        turn_indices: where they stand in the batch.
        metrics: of the minibatch, as far as it was computed.
    """

    def __init__(self, message: str, broken: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.broken = broken
        self.turns: tuple[Turn, ...] = ()
        self.turn_indices: tuple[int, ...] = ()
        self.metrics: Mapping[str, float] = {}

    def set_turns(self, turns: Sequence[Turn], turn_indices: Sequence[int]) -> None:
        """Say which turns of a batch the minibatch is made of."""
        self.turn_indices = tuple(turn_indices)
        self.turns = tuple(turns[index] for index in turn_indices)
