"""Dr. GRPO, "GRPO done right" (Liu et al. 2025, https://arxiv.org/abs/2503.20783)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmgym.algorithms.groups import centred, estimate_by_group
from llmgym.algorithms.ppo import clipped_policy_loss, policy_metrics
from llmgym.algorithms.returns import ReturnSettings
from llmgym.algorithms.units import Credit, Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DrGRPO"]


@dataclass(frozen=True, slots=True)
class DrGRPO:
    """Settings of Dr. GRPO, and its loss: GRPO without its two biases.

    A group in which all but one fare alike does not count more (no division by the deviation), and a long episode's
    draws do not count less (no division by its length).

    Attributes:
        clip: how far a probability ratio may leave 1 and still be rewarded for it, above 0.
        max_units: what the sum over an episode is divided by, at least 1: a constant, such as the longest episode.
            Larger steps less far.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer. The paper has none.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
        credit: whether every "draw" has a ratio of its own, as in the paper, or all of a "turn" one together.
    """

    needs_values: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = True

    clip: float = 0.2
    max_units: int = 64
    entropy_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 512
    credit: Credit = "draw"

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Give all of an episode what it returned above the mean of its group."""
        return estimate_by_group(trajectories, settings, self.credit, centred)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss - entropy_coef * entropy, each summed over an episode over max_units, and metrics."""
        log_ratio = outputs.logprobs - targets.behaviour_logprobs
        surrogate = clipped_policy_loss(log_ratio, targets.advantages, self.clip)
        policy = targets.sum_by_trajectory(targets.weighted(surrogate)) / self.max_units
        entropy = targets.mean(outputs.entropies)
        bonus = targets.sum_by_trajectory(outputs.entropies) / self.max_units
        metrics = {"policy_loss": policy, "entropy": entropy, **policy_metrics(log_ratio, targets, self.clip)}
        return policy - self.entropy_coef * bonus, {name: metric.detach() for name, metric in metrics.items()}
