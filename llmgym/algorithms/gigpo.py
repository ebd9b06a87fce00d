"""Group-in-group policy optimisation (Feng et al. 2025, https://arxiv.org/abs/2505.10978)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llmgym.algorithms.groups import (
    centred,
    episode_groups,
    estimate_by_group,
    group_metrics,
    on_units,
    per_group,
    standardized,
)
from llmgym.algorithms.grpo import GRPO
from llmgym.algorithms.returns import ReturnSettings, episode_returns, returns_to_go
from llmgym.algorithms.units import Credit, Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GiGPO", "anchor_groups"]


@dataclass(frozen=True, slots=True)
class GiGPO:
    """Settings of GiGPO, and its loss: GRPO's, with advantages of two levels.

    Attributes:
        step_coef: weight of a turn's advantage among the turns of its group in the same state of the environment
            (omega), at least 0; 0 is GRPO.
        scales_by_deviation: whether both advantages are divided by the deviation of what they are measured by.
        clip: how far a probability ratio may leave 1 and still be rewarded for it, above 0.
        reference_coef: weight of the divergence from the reference policy, at least 0; the paper has 0.01.
        entropy_coef: weight of the entropy bonus, at least 0; larger explores longer. The paper has none.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
        credit: whether every "draw" has a ratio of its own, or all of a "turn" one together.
    """

    needs_values: ClassVar[bool] = False
    needs_groups: ClassVar[bool] = True
    needs_states: ClassVar[bool] = True

    step_coef: float = 1.0
    scales_by_deviation: bool = True
    clip: float = 0.2
    reference_coef: float = 0.0
    entropy_coef: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 512
    credit: Credit = "draw"

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Add up an episode's advantage in its group and a turn's among those in its state."""
        compare = standardized if self.scales_by_deviation else centred
        episodes = estimate_by_group(trajectories, settings, self.credit, compare)
        anchors = anchor_groups(trajectories)
        to_go = np.concatenate([returns_to_go(trajectory, settings) for trajectory in trajectories])
        steps = per_group(to_go, anchors, compare)
        ends = np.cumsum([len(trajectory.turns) for trajectory in trajectories])[:-1]
        advantages = [
            episode + self.step_coef * on_units(trajectory, step, self.credit)
            for trajectory, episode, step in zip(trajectories, episodes.advantages, np.split(steps, ends), strict=True)
        ]
        metrics = {
            **group_metrics(episode_returns(trajectories, settings), episode_groups(trajectories)),
            "anchored_turns": sum(len(anchor) for anchor in anchors if len(anchor) > 1) / len(to_go),
        }
        return Estimates(advantages, episodes.returns, metrics=metrics)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of GRPO: its advantages are what differs."""
        return GRPO(self.clip, self.reference_coef, self.entropy_coef).loss(outputs, targets)


def anchor_groups(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """Return the positions, among all turns of all trajectories, of those taken in the same state of the same group."""
    keys = [(trajectory.seed, turn.state_key) for trajectory in trajectories for turn in trajectory.turns]
    anchors: dict[tuple[int | None, int], list[int]] = {}
    for position, key in enumerate(keys):
        anchors.setdefault(key, []).append(position)
    return list(anchors.values())
