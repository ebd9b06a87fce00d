"""Rejection-sampling fine-tuning: imitate one's own best episodes.

RAFT (Dong et al. 2023, https://arxiv.org/abs/2304.06767) keeps the best of each group; Yuan et al. 2023
(https://arxiv.org/abs/2308.01825) keep all that succeed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llmgym.algorithms.groups import check_whole, episode_groups, group_metrics, on_units
from llmgym.algorithms.returns import ReturnSettings, episode_returns, returns_to_go
from llmgym.algorithms.units import Estimates, Outputs, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RejectionSampling", "best_of"]


@dataclass(frozen=True, slots=True)
class RejectionSampling:
    """Settings of rejection-sampling fine-tuning, and its loss: cross-entropy of what was drawn in the episodes kept.

    Attributes:
        kept_share: share of each group that is kept, above 0 to 1: its best episodes, at least one. At 1 no groups are
            needed.
        least_return: an episode is kept only if its return is above this.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
    """

    needs_values: ClassVar[bool] = False
    learns_offline: ClassVar[bool] = True

    kept_share: float = 1.0
    least_return: float = 0.0
    epochs: int = 1
    minibatch_turns: int = 256

    @property
    def needs_groups(self) -> bool:
        """Only to keep the best of each."""
        return self.kept_share < 1

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Keep the best episodes."""
        for position, trajectory in enumerate(trajectories):
            check_whole(trajectory, position)
        returns = episode_returns(trajectories, settings)
        groups = episode_groups(trajectories) if self.needs_groups else [list(range(len(returns)))]
        best = [position for group in groups for position in best_of(returns, group, self.kept_share)]
        kept = [position for position in sorted(best) if returns[position] > self.least_return]
        metrics = {"kept": len(kept) / len(returns), **(group_metrics(returns, groups) if self.needs_groups else {})}
        to_go = [on_units(trajectory, returns_to_go(trajectory, settings), "turn") for trajectory in trajectories]
        return Estimates([np.ones_like(each) for each in to_go], to_go, kept, metrics)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return -log P(all that was drawn in a turn), a mean over the turns kept, and metrics."""
        loss = targets.mean(targets.weighted(-outputs.logprobs))
        return loss, {"policy_loss": loss.detach(), "entropy": targets.mean(outputs.entropies).detach()}


def best_of(returns: FloatArray, group: Sequence[int], share: float) -> list[int]:
    """Return the positions of a group's best episodes, the share of it, at least one; of equals the first.

    >>> best_of(np.array([0.0, 3.0, 1.0, 2.0]), [0, 1, 2, 3], 0.5)
    [1, 3]
    """
    count = max(1, round(share * len(group)))
    return sorted(group, key=lambda position: -float(returns[position]))[:count]
