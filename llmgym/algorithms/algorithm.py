"""An algorithm: a loss over turns, and how often to take it. Knows no model and no optimizer.

A user's own algorithm is a class of ten lines; nothing needs to be inherited or registered:

    @dataclass(frozen=True)
    class Reinforce:
        epochs: int = 1
        minibatch_turns: int = 256

        def loss(self, outputs, targets):
            loss = targets.mean(-targets.returns * outputs.logprobs)
            return loss, {"policy_loss": loss}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from llmgym.errors import LearnerError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Algorithm", "Outputs", "ReadsText", "StopsEarly", "Targets", "head_output"]


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What the learner says now of B turns, differentiable.

    Attributes:
        logprobs: float32 (B,); log-probability of all that was drawn: of the free tokens, and of the action.
        action_logprobs: float32 (B, most actions); of every action, -inf where a turn has fewer; no column where
            actions are named by free text.
        entropies: float32 (B,); of the distribution over actions, in nats; with free tokens, the sum along them of
            the entropy that each was drawn with, which estimates that of the whole answer.
        heads: name of each head to float32 (B,).
        text_logprobs: float32 (B,); mean log-probability of the tokens that each turn's prompt adds to the one before
            (what was said, and what was observed then); None unless the algorithm `ReadsText`.
    """

    logprobs: Tensor
    action_logprobs: Tensor
    entropies: Tensor
    heads: Mapping[str, Tensor]
    text_logprobs: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What was recorded of the same B turns: one part of a minibatch of num_turns turns.

    Attributes:
        actions: int64 (B,); index of the action taken.
        behaviour_logprobs: float32 (B,); log-probability of all that was drawn, when it was.
        advantages: float32 (B,).
        normalized_advantages: float32 (B,); shifted and scaled to mean 0 and deviation 1 over the whole batch.
        returns: float32 (B,); target of the value head.
        values: float32 (B,); what the value head said when the batch was made.
        num_turns: turns of the whole minibatch, at least B.
    """

    actions: Tensor
    behaviour_logprobs: Tensor
    advantages: Tensor
    normalized_advantages: Tensor
    returns: Tensor
    values: Tensor
    num_turns: int

    def mean(self, per_turn: Tensor) -> Tensor:
        """Return this part's share of the minibatch's mean of per_turn, float32 (B,): a scalar.

        The sum is divided by the turns of the whole minibatch, so that its parts add up to the same loss and the
        same gradient however it is split to fit into memory.
        """
        return per_turn.sum() / self.num_turns


class Algorithm(Protocol):
    """A loss, and how it is taken over a batch."""

    @property
    def epochs(self) -> int:
        """How often an update goes through its batch."""
        ...

    @property
    def minibatch_turns(self) -> int:
        """About how many turns a gradient step is taken on."""
        ...

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss to minimise, a scalar, and metrics, scalars without gradient.

        Both are `targets.mean` of something per turn, or a sum of such: parts of a minibatch are added up.
        """
        ...


@runtime_checkable
class StopsEarly(Protocol):
    """An algorithm that may end an update before its last epoch."""

    def is_done(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether to stop, from an epoch's metrics (means over its turns)."""
        ...


@runtime_checkable
class ReadsText(Protocol):
    """An algorithm that may learn from what is read, too. Its `Outputs.text_logprobs` cost logits of every token."""

    @property
    def reads_text(self) -> bool:
        """Whether it wants them."""
        ...


def head_output(outputs: Outputs, name: str) -> Tensor:
    """Return what a head said: float32 (B,).

    Raises:
        LearnerError: the learner has no such head.
    """
    if name not in outputs.heads:
        found = ", ".join(outputs.heads) or "none"
        raise LearnerError(
            f"Expected the learner to have a head {name!r}, found: {found}. "
            f"Pass heads={{{name!r}: ValueHead}} to Learner, or set the algorithm's value_coef to 0."
        )
    return outputs.heads[name]
