"""Units: what credit is given to, and what an algorithm is told of them. Knows no model and no optimizer.

A unit is a turn with all that was drawn in it, or, where the algorithm wants it, a single draw: a token that was
sampled freely, or the action. What is only read belongs to no unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmgym.errors import LearnerError
from llmgym.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Credit", "Estimates", "Outputs", "Reads", "Targets", "Transitions", "head_output"]

Credit = Literal["turn", "draw"]
"""What a unit is."""
Reads = Literal["state", "mean", "candidates", "tokens"]
"""What a head reads of a turn: the end of its prompt; the mean of its prompt's tokens; the end of every candidate;
every token that its prompt adds to the prompt before it."""


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What the learner says now of B units, differentiable.

    Attributes:
        logprobs: float32 (B,); log-probability of all that was drawn: of the free tokens, and of the action.
        action_logprobs: float32 (B, most actions); of every action, -inf where a turn has fewer; no column where
            actions are named by free text, or where units are draws.
        entropies: float32 (B,); of the distribution over actions, in nats; with free tokens, the sum along them of
            the entropy that each was drawn with, which estimates that of the whole answer.
        heads: name of each head to float32 (B,); read where the prompt ends, or, of a draw, where it was drawn. Of a
            head that reads candidates or tokens, float32 (B, most of them), -inf behind a turn's last.
        text_logprobs: float32 (B,); mean log-probability of the tokens that each turn's prompt adds to the one before
            (what was said, and what was observed then); None unless the algorithm `ReadsText`.
    """

    logprobs: Tensor
    action_logprobs: Tensor
    entropies: Tensor
    heads: Mapping[str, Tensor]
    text_logprobs: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Transitions:
    """What followed each of B turns, for an algorithm that learns what a state is worth from the state after it.

    Attributes:
        rewards: float32 (B,); scaled.
        discounts: float32 (B,); what the value of the state after counts: gamma, or 0 where the turn terminated the
            episode, or where that state is not known.
        next_values: float32 (B,); what a head says of the state after, before the step that is taken; 0 where the
            discount is.
        known_mask: bool (B,); False where the episode goes on and the state after is not known.
    """

    rewards: Tensor
    discounts: Tensor
    next_values: Tensor
    known_mask: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What was recorded of the same B units: one part of a minibatch of num_units units.

    A minibatch is computed in parts, to fit into memory, and by several ranks. Sums are divided by what the whole
    minibatch holds, so that the parts add up to the same loss and the same gradient however it is split.

    Attributes:
        actions: int64 (B,); index of the action taken.
        behaviour_logprobs: float32 (B,); log-probability of all that was drawn, under the policy that ratios are
            measured against: that which drew it, as recorded; where an older policy than the learner's drew and
            weights correct for it, the learner's own at the start of the update (the proximal policy of Hilton, Cobbe
            and Schulman 2022, https://arxiv.org/abs/2110.00641), so that a clip counts how far the update has moved.
        advantages: float32 (B,).
        normalized_advantages: float32 (B,); shifted and scaled to mean 0 and deviation 1 over the whole batch.
        returns: float32 (B,); target of the value head.
        values: float32 (B,); what the value head said when the batch was made.
        num_units: units of the whole minibatch, at least B.
        num_draws: float32 (B,); how often something was drawn in each unit, at least 1.
        trajectory_units: float32 (B,); units of the whole trajectory that each belongs to.
        num_trajectories: trajectories of the whole minibatch; one of which it holds a part counts as that part.
        reference_logprobs: float32 (B,); what the reference policy gives what was drawn; None unless the algorithm
            `ComparesToReference`.
        weights: float32 (B,); how much oftener the learner's policy draws this than the policy that drew it did, cut
            off as `llmgym.learner.correction` says; None for 1 everywhere. A loss has them by `weighted`.
        transitions: what followed each turn; None unless the algorithm `Bootstraps`.
    """

    actions: Tensor
    behaviour_logprobs: Tensor
    advantages: Tensor
    normalized_advantages: Tensor
    returns: Tensor
    values: Tensor
    num_units: int
    num_draws: Tensor
    trajectory_units: Tensor
    num_trajectories: float
    reference_logprobs: Tensor | None = None
    transitions: Transitions | None = None
    weights: Tensor | None = None

    def weighted(self, per_unit: Tensor) -> Tensor:
        """Return per_unit, float32 (B,), times the importance weights: what an older policy's draws stand for.

        For what is an expectation over draws, such as the policy's loss or a divergence that is estimated from them;
        not for what is learned of every state alike, such as values.
        """
        return per_unit if self.weights is None else self.weights * per_unit

    def mean(self, per_unit: Tensor) -> Tensor:
        """Return this part's share of the minibatch's mean of per_unit, float32 (B,): a scalar."""
        return per_unit.sum() / self.num_units

    def mean_by_trajectory(self, per_unit: Tensor) -> Tensor:
        """Return this part's share of the mean over trajectories of the mean over the units of each: a scalar."""
        return (per_unit / self.trajectory_units).sum() / self.num_trajectories

    def sum_by_trajectory(self, per_unit: Tensor) -> Tensor:
        """Return this part's share of the mean over trajectories of the sum over the units of each: a scalar."""
        return per_unit.sum() / self.num_trajectories


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """What an algorithm makes of trajectories before it learns from them.

    Attributes:
        advantages: for each trajectory, float32 (num_units,).
        returns: for each trajectory, float32 (num_units,); targets of the value head.
        kept: positions of the trajectories to learn from, in order; None for all.
        metrics: what else was found, by name.
    """

    advantages: Sequence[FloatArray]
    returns: Sequence[FloatArray]
    kept: Sequence[int] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


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
