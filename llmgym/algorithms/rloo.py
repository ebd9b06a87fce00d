"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llmgym.algorithms.a2c import policy_gradient_loss
from llmgym.algorithms.groups import are_equal, estimate_by_group
from llmgym.algorithms.returns import ReturnSettings
from llmgym.algorithms.units import Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RLOO", "leave_one_out"]


@dataclass(frozen=True, slots=True)
class RLOO:
    """Settings of RLOO, and its loss: an episode is one action, whose probability is that of all that was drawn in it.

    Attributes:
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer.
        epochs: how often an update goes through its batch; more than 1 is off the policy, and nothing corrects for it.
        minibatch_turns: about how many turns a gradient step is taken on.
    """

    needs_values: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = True

    entropy_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 4096

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Give every turn what its episode returned above the others of its group."""
        return estimate_by_group(trajectories, settings, "turn", leave_one_out)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the mean over episodes of -A log P(all that was drawn), less the entropy bonus, and metrics."""
        per_turn = policy_gradient_loss(outputs.logprobs, targets.advantages)
        policy = targets.sum_by_trajectory(targets.weighted(per_turn))
        entropy = targets.mean(outputs.entropies)
        metrics = {"policy_loss": policy, "entropy": entropy}
        return policy - self.entropy_coef * entropy, {name: metric.detach() for name, metric in metrics.items()}


def leave_one_out(returns: FloatArray) -> FloatArray:
    """Return what each return of a group is above the mean of the others; 0 where there are no others.

    R_i - sum of R_j over j != i / (k - 1), which is k / (k - 1) times what it is above the mean of all.

    >>> leave_one_out(np.array([0.0, 0.0, 3.0])).tolist()
    [-1.5, -1.5, 3.0]
    """
    count = len(returns)
    if count < 2 or are_equal(returns):
        return np.zeros_like(returns)
    above: FloatArray = (returns - returns.mean()) * (count / (count - 1))
    return above
