"""Proximal policy optimisation over turns (Schulman et al. 2017, https://arxiv.org/abs/1707.06347)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmgym.algorithms.kl import k3
from llmgym.algorithms.units import Credit, Outputs, Targets, head_output

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PPO", "clipped_policy_loss", "policy_metrics", "value_loss"]


@dataclass(frozen=True, slots=True)
class PPO:
    """Settings of PPO, and its loss: equation 9 of the paper, with the sign turned.

    Attributes:
        clip: how far a probability ratio may leave 1 and still be rewarded for it, above 0; larger moves faster.
        dual_clip: ratio beyond which a bad draw is not punished harder, above 1 (Ye et al. 2020,
            https://arxiv.org/abs/1912.09729, dual-clip PPO); None for no limit.
        value_clip: how far a value may move from its old prediction, in units of return; None for no limit.
        value_coef: weight of the value loss, at least 0.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer.
        kl_coef: weight of the divergence from the policy that drew, KL(behaviour || now), at least 0: equation 8.
        reference_coef: weight of the divergence from the reference policy, KL(now || reference), at least 0.
        epochs: how often an update goes through its batch, at most.
        minibatch_turns: about how many turns a gradient step is taken on.
        normalize_advantages: whether advantages are shifted and scaled over the batch to mean 0 and deviation 1.
        target_kl: no further epoch is begun once an epoch's approximate KL is above it; None for no limit.
        credit: whether a "turn" has one ratio and one advantage, or every "draw" in it.
    """

    clip: float = 0.2
    dual_clip: float | None = None
    value_clip: float | None = None
    value_coef: float = 0.5
    entropy_coef: float = 0.01
    kl_coef: float = 0.0
    reference_coef: float = 0.0
    epochs: int = 4
    minibatch_turns: int = 256
    normalize_advantages: bool = True
    target_kl: float | None = None
    credit: Credit = "turn"

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss + value_coef * value loss - entropy_coef * entropy + divergences, and metrics.

        Raises:
            LearnerError: value_coef is above 0 and the learner has no head "value".
        """
        advantages = targets.normalized_advantages if self.normalize_advantages else targets.advantages
        log_ratio = outputs.logprobs - targets.behaviour_logprobs
        surrogate = clipped_policy_loss(log_ratio, advantages, self.clip, dual_clip=self.dual_clip)
        policy = targets.mean(targets.weighted(surrogate))
        entropy = targets.mean(outputs.entropies)
        loss = policy - self.entropy_coef * entropy
        metrics = {"policy_loss": policy, "entropy": entropy, **policy_metrics(log_ratio, targets, self.clip)}
        if self.kl_coef > 0:
            loss = loss + self.kl_coef * targets.mean(targets.weighted(k3(-log_ratio)))
        if self.reference_coef > 0:
            assert targets.reference_logprobs is not None, "asked for by reference_coef"
            reference = targets.mean(targets.weighted(k3(outputs.logprobs - targets.reference_logprobs)))
            loss = loss + self.reference_coef * reference
            metrics["reference_kl"] = reference
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


def clipped_policy_loss(
    log_ratio: Tensor,
    advantages: Tensor,
    clip: float,
    *,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """Return minus the clipped surrogate objective of each unit: equation 7.

    Args:
        log_ratio: float32 (B,); log-probability now minus behaviour log-probability.
        advantages: float32 (B,).
        clip: epsilon of the paper.
        clip_high: that above 1, where it is another (`llmgym.algorithms.dapo`); clip if None.
        dual_clip: c of Ye et al. 2020 (dual-clip PPO): what is bad counts as no worse than c times its advantage; None
            for no limit.

    Returns:
        float32 (B,).
    """
    ratio = log_ratio.exp()
    high = clip if clip_high is None else clip_high
    surrogate = (ratio * advantages).minimum(ratio.clamp(1 - clip, 1 + high) * advantages)
    if dual_clip is not None:
        surrogate = surrogate.where(advantages >= 0, surrogate.maximum(dual_clip * advantages))
    return -surrogate


def policy_metrics(
    log_ratio: Tensor, targets: Targets, clip: float, clip_high: float | None = None
) -> dict[str, Tensor]:
    """Return how far the policy is from the one that drew: approximate KL, and the share of ratios beyond the clip."""
    moved = log_ratio.detach()
    ratio, high = moved.exp(), clip if clip_high is None else clip_high
    outside = (ratio < 1 - clip) | (ratio > 1 + high)
    return {"approx_kl": targets.mean(k3(-moved)), "clip_fraction": targets.mean(outside.float())}


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
