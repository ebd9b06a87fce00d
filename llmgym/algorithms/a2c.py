"""Advantage actor-critic (Mnih et al. 2016, https://arxiv.org/abs/1602.01783), synchronous."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmgym.algorithms.ppo import value_loss
from llmgym.algorithms.units import Credit, Outputs, Targets, head_output

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["A2C", "policy_gradient_loss"]


@dataclass(frozen=True, slots=True)
class A2C:
    """Settings of A2C, and its loss: the gradient of section 4 with an entropy bonus.

    One step a batch, since nothing corrects for a policy that has moved on. The returns of the paper, of at most n
    steps, are those of `returns.lam=1` where collection cuts after n steps.

    Attributes:
        value_coef: weight of the value loss, at least 0.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
        normalize_advantages: whether advantages are shifted and scaled over the batch to mean 0 and deviation 1.
        credit: whether a "turn" has one advantage, or every "draw" in it.
    """

    value_coef: float = 0.5
    entropy_coef: float = 0.01
    epochs: int = 1
    minibatch_turns: int = 4096
    normalize_advantages: bool = False
    credit: Credit = "turn"

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss + value_coef * value loss - entropy_coef * entropy, a mean over units, and metrics.

        Raises:
            LearnerError: value_coef is above 0 and the learner has no head "value".
        """
        advantages = targets.normalized_advantages if self.normalize_advantages else targets.advantages
        policy = targets.mean(targets.weighted(policy_gradient_loss(outputs.logprobs, advantages)))
        entropy = targets.mean(outputs.entropies)
        loss = policy - self.entropy_coef * entropy
        metrics = {"policy_loss": policy, "entropy": entropy}
        if self.value_coef > 0:
            value = targets.mean(value_loss(head_output(outputs, "value"), targets.returns, targets.values, None))
            loss = loss + self.value_coef * value
            metrics["value_loss"] = value
        return loss, {name: metric.detach() for name, metric in metrics.items()}


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Return -A log pi of each unit, whose gradient is the policy gradient where the units were drawn from pi.

    Args:
        logprobs: float32 (B,).
        advantages: float32 (B,).

    Returns:
        float32 (B,).
    """
    return -advantages * logprobs
