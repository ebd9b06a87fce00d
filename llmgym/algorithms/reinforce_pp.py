"""REINFORCE++ (Hu et al. 2025, https://arxiv.org/abs/2501.03262)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llmgym.algorithms.groups import centred, check_whole, estimate_by_group, on_units
from llmgym.algorithms.kl import k2
from llmgym.algorithms.ppo import clipped_policy_loss, policy_metrics
from llmgym.algorithms.returns import ReturnSettings, returns_to_go
from llmgym.algorithms.units import Credit, Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ReinforcePP"]


@dataclass(frozen=True, slots=True)
class ReinforcePP:
    """Settings of REINFORCE++, and its loss: PPO's, with returns that are normalised over the whole batch.

    The divergence from a reference policy is a loss here, as in the paper's variant with a baseline; that without one
    puts it into the rewards.

    Attributes:
        clip: how far a probability ratio may leave 1 and still be rewarded for it, above 0.
        has_baseline: whether the mean of its group is subtracted from an episode's return first ("REINFORCE++ with
            baseline"); otherwise every turn has the return from there on.
        reference_coef: weight of the divergence from the reference policy, at least 0.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer. The paper has none.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
        credit: whether every "draw" has a ratio of its own, as in the paper, or all of a "turn" one together.
    """

    needs_values: ClassVar[bool] = False

    clip: float = 0.2
    has_baseline: bool = False
    reference_coef: float = 0.0
    entropy_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 512
    credit: Credit = "draw"

    @property
    def needs_groups(self) -> bool:
        """Only for the baseline."""
        return self.has_baseline

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Give every turn the return from there on, or all of an episode its return above the mean of its group."""
        if self.has_baseline:
            return estimate_by_group(trajectories, settings, self.credit, centred)
        for position, trajectory in enumerate(trajectories):
            check_whole(trajectory, position)
        returns = [on_units(each, returns_to_go(each, settings), self.credit) for each in trajectories]
        return Estimates(advantages=returns, returns=returns)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss + reference_coef * divergence - entropy_coef * entropy, means over units, and metrics."""
        log_ratio = outputs.logprobs - targets.behaviour_logprobs
        surrogate = clipped_policy_loss(log_ratio, targets.normalized_advantages, self.clip)
        policy = targets.mean(targets.weighted(surrogate))
        entropy = targets.mean(outputs.entropies)
        loss = policy - self.entropy_coef * entropy
        metrics = {"policy_loss": policy, "entropy": entropy, **policy_metrics(log_ratio, targets, self.clip)}
        if self.reference_coef > 0:
            assert targets.reference_logprobs is not None, "asked for by reference_coef"
            reference = targets.mean(targets.weighted(k2(outputs.logprobs - targets.reference_logprobs)))
            loss = loss + self.reference_coef * reference
            metrics["reference_kl"] = reference
        return loss, {name: metric.detach() for name, metric in metrics.items()}
