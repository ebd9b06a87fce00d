"""Proximal policy optimisation over turns (Schulman et al. 2017, https://arxiv.org/abs/1707.06347)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmgym.algorithms.algorithm import Outputs, Targets, head_output

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PPO", "approximate_kl", "clipped_policy_loss", "value_loss"]


@dataclass(frozen=True, slots=True)
class PPO:
    """Settings of PPO, and its loss: equation 9 of the paper, with the sign turned.

    Attributes:
        clip: how far a probability ratio may leave 1 and still be rewarded for it, above 0; larger moves faster.
        value_clip: how far a value may move from its old prediction, in units of return; None for no limit.
        value_coef: weight of the value loss, at least 0.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer.
        epochs: how often an update goes through its batch, at most.
        minibatch_turns: about how many turns a gradient step is taken on.
        normalize_advantages: whether advantages are shifted and scaled over the batch to mean 0 and deviation 1.
        target_kl: no further epoch is begun once an epoch's approximate KL is above it; None for no limit.
    """

    clip: float = 0.2
    value_clip: float | None = None
    value_coef: float = 0.5
    entropy_coef: float = 0.01
    epochs: int = 4
    minibatch_turns: int = 256
    normalize_advantages: bool = True
    target_kl: float | None = None

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss + value_coef * value loss - entropy_coef * entropy, and metrics.

        Raises:
            LearnerError: value_coef is above 0 and the learner has no head "value".
        """
        advantages = targets.normalized_advantages if self.normalize_advantages else targets.advantages
        log_ratio = outputs.logprobs - targets.behaviour_logprobs
        policy = targets.mean(clipped_policy_loss(log_ratio, advantages, self.clip))
        entropy = targets.mean(outputs.entropies)
        loss = policy - self.entropy_coef * entropy
        outside = (log_ratio.detach().exp() - 1).abs() > self.clip
        metrics = {
            "policy_loss": policy,
            "entropy": entropy,
            "approx_kl": targets.mean(approximate_kl(log_ratio.detach())),
            "clip_fraction": targets.mean(outside.float()),
        }
        if self.value_coef > 0:
            value = targets.mean(
                value_loss(head_output(outputs, "value"), targets.returns, targets.values, self.value_clip)
            )
            loss = loss + self.value_coef * value
            metrics["value_loss"] = value
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def is_done(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether an epoch moved the policy further than target_kl."""
        return self.target_kl is not None and metrics["approx_kl"] > self.target_kl


def clipped_policy_loss(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return minus the clipped surrogate objective of each turn: equation 7.

    Args:
        log_ratio: float32 (B,); log-probability now minus behaviour log-probability.
        advantages: float32 (B,).
        clip: epsilon of the paper.

    Returns:
        float32 (B,).
    """
    ratio = log_ratio.exp()
    return -(ratio * advantages).minimum(ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, returns: Tensor, old_values: Tensor, value_clip: float | None) -> Tensor:
    """Return the squared error of each value: L^VF of equation 9.

    Args:
        values: float32 (B,); predictions now.
        returns: float32 (B,); their targets.
        old_values: float32 (B,); predictions when the batch was made.
        value_clip: where given, the larger of this error and that of the value clipped to old_values +- value_clip
            counts (not in the paper, but in OpenAI's baselines).

    Returns:
        float32 (B,).
    """
    error = (values - returns).square()
    if value_clip is None:
        return error
    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    return error.maximum((clipped - returns).square())


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Return an estimate of KL(behaviour || now) from each turn, never below 0: k3 of Schulman 2020.

    http://joschu.net/blog/kl-approx.html, with r = now / behaviour: (r - 1) - log r, unbiased under the behaviour.

    Args:
        log_ratio: float32 (B,); log r.

    Returns:
        float32 (B,).
    """
    return log_ratio.expm1() - log_ratio
