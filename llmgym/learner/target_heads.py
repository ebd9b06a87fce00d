"""Target heads: frozen copies of heads that follow these slowly, so that what is learned towards does not run away.

A target head is a head like the others: it is read, saved and loaded with them, and counts the gradient steps itself.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from llmgym.algorithms.algorithm import Algorithm, FollowsHeads
from llmgym.errors import LearnerError
from llmgym.learner.heads import reads_of, trunk_of
from llmgym.learner.policy import Policy

__all__ = ["TargetHead", "attach_targets", "follow_heads"]


class TargetHead(nn.Module):
    """A frozen copy of a head, at first equal to it.

    Attributes:
        num_steps: int64 scalar; gradient steps since it was made.
    """

    num_steps: Tensor

    def __init__(self, followed: nn.Module) -> None:
        super().__init__()
        self.reads = reads_of(followed)
        self.trunk = trunk_of(followed)
        self.head = copy.deepcopy(followed).requires_grad_(False)
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return what the copy says."""
        values: Tensor = self.head(hidden_states)
        return values

    @torch.no_grad()
    def follow(self, followed: nn.Module, *, alpha: float, sync_every: int) -> None:
        """Count a gradient step, and every so many go a share of the way to the head: w = alpha * q + (1 - alpha) * w.

        Args:
            followed: the head that it is a copy of.
            alpha: above 0 to 1; 1 copies.
            sync_every: gradient steps between two times.
        """
        self.num_steps += 1
        if int(self.num_steps) % sync_every:
            return
        for own, other in zip(self.head.state_dict().values(), followed.state_dict().values(), strict=True):
            # Not lerp: at alpha 1 this is the head's own number, bit for bit.
            own.copy_(alpha * other + (1 - alpha) * own if own.is_floating_point() else other)


def attach_targets(policy: Policy, algorithm: Algorithm) -> Policy:
    """Return a policy with the target heads of an algorithm, equal to what they follow, in place of those of others.

    Raises:
        LearnerError: there is no such head to follow, or a head has the name of a target.
    """
    for name in [name for name, head in policy.heads.items() if isinstance(head, TargetHead)]:
        del policy.heads[name]
    targets = algorithm.target_heads if isinstance(algorithm, FollowsHeads) else {}
    for name, followed in targets.items():
        if followed not in policy.heads or name in policy.heads:
            raise LearnerError(
                f"Expected a head {followed!r} and none called {name!r}, which is to follow it, found "
                f"{', '.join(policy.heads) or 'none'}. Pass heads=heads_for(algorithm) to Learner."
            )
        policy.heads[name] = TargetHead(policy.heads[followed])
    return policy


def follow_heads(policy: Policy, algorithm: Algorithm) -> None:
    """Let target heads follow after a gradient step."""
    if isinstance(algorithm, FollowsHeads):
        for name, followed in algorithm.target_heads.items():
            target = policy.heads[name]
            assert isinstance(target, TargetHead), "attached with the algorithm"
            target.follow(policy.heads[followed], alpha=algorithm.alpha, sync_every=algorithm.sync_every)
