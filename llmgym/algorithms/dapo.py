"""Decoupled clip and dynamic sampling policy optimisation (Yu et al. 2025, https://arxiv.org/abs/2503.14476)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from llmgym.algorithms.groups import are_equal, episode_groups, estimate_by_group, standardized
from llmgym.algorithms.ppo import clipped_policy_loss, policy_metrics
from llmgym.algorithms.returns import ReturnSettings, episode_returns
from llmgym.algorithms.units import Credit, Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory, Turn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DAPO", "overlong_penalty"]


@dataclass(frozen=True, slots=True)
class DAPO:
    """Settings of DAPO, and its loss: equation 8, with the sign turned.

    Attributes:
        clip: how far a probability ratio may fall below 1 and still count, above 0.
        clip_high: how far it may rise above 1: farther, so that what is unlikely can become likely.
        max_answer_tokens: tokens of an answer from which on the whole penalty for length counts; 0 for no penalty.
        answer_margin_tokens: tokens before these over which the penalty grows.
        max_collections: how often an update may collect until it has as many groups that differ in their returns as it
            plays at once: dynamic sampling. 1 learns from whatever groups differ.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer. The paper has none.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
        credit: whether every "draw" has a ratio of its own, as in the paper, or all of a "turn" one together.
    """

    needs_values: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = True

    clip: float = 0.2
    clip_high: float = 0.28
    max_answer_tokens: int = 0
    answer_margin_tokens: int = 0
    max_collections: int = 4
    entropy_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 512
    credit: Credit = "draw"

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Give all of an episode its return within its group; keep groups whose returns differ (equation 11)."""
        if self.max_answer_tokens:
            trajectories = [self._penalized(trajectory, settings) for trajectory in trajectories]
        estimates = estimate_by_group(trajectories, settings, self.credit, standardized)
        returns = episode_returns(trajectories, settings)
        kept = [group for group in episode_groups(trajectories) if not are_equal(returns[group])]
        return replace(estimates, kept=sorted(position for group in kept for position in group))

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return policy loss - entropy_coef * entropy, each a mean over all units of all episodes, and metrics."""
        log_ratio = outputs.logprobs - targets.behaviour_logprobs
        surrogate = clipped_policy_loss(log_ratio, targets.advantages, self.clip, clip_high=self.clip_high)
        policy, entropy = targets.mean(targets.weighted(surrogate)), targets.mean(outputs.entropies)
        moved = policy_metrics(log_ratio, targets, self.clip, self.clip_high)
        metrics = {"policy_loss": policy, "entropy": entropy, **moved}
        return policy - self.entropy_coef * entropy, {name: metric.detach() for name, metric in metrics.items()}

    def _penalized(self, trajectory: Trajectory, settings: ReturnSettings) -> Trajectory:
        """Return a trajectory whose turns are punished for answers that are too long."""

        def penalized(turn: Turn) -> Turn:
            penalty = overlong_penalty(len(turn.sampled_ids), self.max_answer_tokens, self.answer_margin_tokens)
            # In the rewards' own scale, whatever they will be multiplied by.
            return replace(turn, reward=turn.reward + penalty / settings.reward_scale)

        return replace(trajectory, turns=tuple(penalized(turn) for turn in trajectory.turns))


def overlong_penalty(num_tokens: int, max_tokens: int, margin_tokens: int) -> float:
    """Return what is added to the reward of an answer for its length, from 0 down to -1: equation 13.

    >>> [overlong_penalty(length, 10, 4) for length in (6, 7, 10, 11)]
    [0.0, -0.25, -1.0, -1.0]
    """
    if num_tokens <= max_tokens - margin_tokens:
        return 0.0
    return -min(1.0, (num_tokens - (max_tokens - margin_tokens)) / margin_tokens) if margin_tokens else -1.0
