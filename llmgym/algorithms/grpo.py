"""Group relative policy optimisation (Shao et al. 2024, https://arxiv.org/abs/2402.03300)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmgym.algorithms.groups import estimate_by_group, standardized
from llmgym.algorithms.kl import k3
from llmgym.algorithms.ppo import clipped_policy_loss, policy_metrics
from llmgym.algorithms.returns import ReturnSettings
from llmgym.algorithms.units import Credit, Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GRPO"]


@dataclass(frozen=True, slots=True)
class GRPO:
    """Settings of GRPO with outcome supervision, and its loss: equation 3, with the sign turned.

    Attributes:
        clip: how far a probability ratio may leave 1 and still be rewarded for it, above 0.
        reference_coef: weight of the divergence from the reference policy (beta), at least 0; the paper has 0.04.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer. The paper has none.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
        credit: whether every "draw" has a ratio of its own, as in the paper, or all of a "turn" one together.
    """

    needs_values: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = True

    clip: float = 0.2
    reference_coef: float = 0.0
    entropy_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 512
    credit: Credit = "draw"

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Give all of an episode its return, shifted and scaled within its group (section 4.1.2)."""
        return estimate_by_group(trajectories, settings, self.credit, standardized)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss + reference_coef * divergence - entropy_coef * entropy, and metrics.

        Each is a mean over trajectories of the mean over the units of each, so long episodes count as much as short
        ones.
        """
        log_ratio = outputs.logprobs - targets.behaviour_logprobs
        surrogate = clipped_policy_loss(log_ratio, targets.advantages, self.clip)
        policy = targets.mean_by_trajectory(targets.weighted(surrogate))
        entropy = targets.mean_by_trajectory(outputs.entropies)
        loss = policy - self.entropy_coef * entropy
        metrics = {"policy_loss": policy, "entropy": entropy, **policy_metrics(log_ratio, targets, self.clip)}
        if self.reference_coef > 0:
            assert targets.reference_logprobs is not None, "asked for by reference_coef"
            # Equation 4.
            divergence = k3(outputs.logprobs - targets.reference_logprobs)
            reference = targets.mean_by_trajectory(targets.weighted(divergence))
            loss = loss + self.reference_coef * reference
            metrics["reference_kl"] = reference
        return loss, {name: metric.detach() for name, metric in metrics.items()}
