"""Group sequence policy optimisation (Zheng et al. 2025, https://arxiv.org/abs/2507.18071)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmgym.algorithms.groups import estimate_by_group, standardized
from llmgym.algorithms.ppo import clipped_policy_loss, policy_metrics
from llmgym.algorithms.returns import ReturnSettings
from llmgym.algorithms.units import Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GSPO"]


@dataclass(frozen=True, slots=True)
class GSPO:
    """Settings of GSPO, and its loss: equation 5, with the sign turned. A sequence is all that was drawn in a turn.

    Attributes:
        clip: how far the ratio of a sequence may fall below 1 and still count, above 0.
        clip_high: how far it may rise above 1. A ratio is the geometric mean over the draws, so both are small where
            answers are long (the paper has 0.0003 and 0.0004), and those of PPO where a turn is a single draw.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer. The paper has none.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
    """

    needs_values: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = True

    clip: float = 0.0003
    clip_high: float = 0.0004
    entropy_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 512

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Give every turn its episode's return, shifted and scaled within its group."""
        return estimate_by_group(trajectories, settings, "turn", standardized)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss - entropy_coef * entropy, each a mean over turns, and metrics."""
        # The mean log-ratio of the draws: the ratio to the power of one over the length.
        log_ratio = (outputs.logprobs - targets.behaviour_logprobs) / targets.num_draws
        surrogate = clipped_policy_loss(log_ratio, targets.advantages, self.clip, clip_high=self.clip_high)
        policy, entropy = targets.mean(targets.weighted(surrogate)), targets.mean(outputs.entropies)
        moved = policy_metrics(log_ratio, targets, self.clip, self.clip_high)
        metrics = {"policy_loss": policy, "entropy": entropy, **moved}
        return policy - self.entropy_coef * entropy, {name: metric.detach() for name, metric in metrics.items()}
