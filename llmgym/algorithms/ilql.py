"""Implicit language Q-learning (Snell et al. 2022, https://arxiv.org/abs/2206.11871): learn from recorded episodes to
act better than whoever played them. It is implicit Q-learning (Kostrikov et al. 2021,
https://arxiv.org/abs/2110.06169) with conservative Q-learning's penalty (Kumar et al. 2020,
https://arxiv.org/abs/2006.04779).

Where the paper takes a token for an action, an action here is a whole candidate of a turn: Q reads where a candidate
ends, and V where the prompt does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llmgym.algorithms.returns import ReturnSettings, returns_to_go
from llmgym.algorithms.units import Estimates, Outputs, Reads, Targets, Transitions, head_output
from llmgym.errors import LearnerError
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ILQL", "conservative_loss", "expectile_loss", "td_loss"]

_TARGET = "target_"


@dataclass(frozen=True, slots=True)
class ILQL:
    """Settings of ILQL, and its loss: TD of Q, expectile regression of V, and imitation of what was done.

    Attributes:
        tau: expectile of V, above 0 to below 1: 0.5 is worth what was done on average, larger the best of it.
        cql_scale: weight of the conservative loss, at least 0; larger holds Q of actions that were not taken lower.
        awac_scale: weight of imitating what was done, at least 0.
        awac_beta: how much more good actions are imitated than bad ones, at least 0; at 0 all are alike.
        two_qs: whether the smaller of two Qs counts, which takes less of their errors for gains.
        alpha: share of the way that the target Qs go to the Qs when they follow them, above 0 to 1; 1 copies.
        sync_every: gradient steps between two times that they do.
        beta: how much the smaller target Q, less V, counts when actions are drawn, at least 0; 0 draws from the
            policy, which imitates.
        epochs: how often an update goes through its batch.
        minibatch_turns: about how many turns a gradient step is taken on.
    """

    needs_values: ClassVar[bool] = False
    learns_offline: ClassVar[bool] = True
    bootstrap_head: ClassVar[str] = "value"

    tau: float = 0.7
    cql_scale: float = 0.1
    awac_scale: float = 1.0
    awac_beta: float = 0.0
    two_qs: bool = True
    alpha: float = 0.005
    sync_every: int = 1
    beta: float = 4.0
    epochs: int = 1
    minibatch_turns: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.tau < 1:
            raise LearnerError(f"Expected tau above 0 and below 1, got {self.tau}. Set 0.7, or 0.5 for the mean.")
        if not 0 < self.alpha <= 1 or self.sync_every < 1:
            raise LearnerError(
                f"Expected alpha above 0 to 1 and sync_every of at least 1, got {self.alpha} and {self.sync_every}. "
                "Change them."
            )
        if min(self.cql_scale, self.awac_scale, self.awac_beta, self.beta) < 0:
            raise LearnerError(
                f"Expected scales and betas of at least 0, got cql_scale={self.cql_scale}, awac_scale="
                f"{self.awac_scale}, awac_beta={self.awac_beta} and beta={self.beta}. Change them."
            )

    @property
    def qs(self) -> tuple[str, ...]:
        """Names of the heads that say what a candidate is worth."""
        return ("q1", "q2") if self.two_qs else ("q1",)

    @property
    def heads(self) -> Mapping[str, Reads]:
        """V reads states, Q candidates."""
        return {"value": "state", **dict.fromkeys(self.qs, "candidates")}

    @property
    def target_heads(self) -> Mapping[str, str]:
        """Every Q has a slow copy."""
        return {_TARGET + name: name for name in self.qs}

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Add the rewards up, which tells how well V foresees them; nothing else is learned from the sums."""
        returns = [returns_to_go(trajectory, settings) for trajectory in trajectories]
        return Estimates([np.zeros_like(each) for each in returns], returns)

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the sum of the losses, each a mean over turns, and metrics.

        Raises:
            LearnerError: a head is missing, actions are named by free text, or the batch does not say what followed.
        """
        followed = targets.transitions
        if followed is None:
            raise LearnerError(
                "Expected a batch that says what followed every turn, got one that does not. Make it with "
                "llmgym.rollout.batch.make_batch, and this algorithm."
            )
        qs = [head_output(outputs, name) for name in self.qs]
        if qs[0].shape[1] == 0:
            raise LearnerError(
                "Expected candidates to tell the worth of, got free text. Set acting.how to score or constrained."
            )
        value = head_output(outputs, "value")
        target_q = _taken(self._least(outputs.heads), targets.actions).detach()
        td = targets.mean(_total([td_loss(_taken(q, targets.actions), followed) for q in qs]))
        expectile = targets.mean(expectile_loss(target_q - value, self.tau))
        conservative = targets.mean(_total([conservative_loss(q, targets.actions) for q in qs]))
        weights = (self.awac_beta * (target_q - value.detach())).exp()
        imitation = targets.mean(-outputs.logprobs * weights)
        loss = td + expectile + self.cql_scale * conservative + self.awac_scale * imitation
        metrics = {
            "td_loss": td,
            "value_loss": expectile,
            "cql_loss": conservative,
            "awac_loss": imitation,
            "q": targets.mean(_taken(qs[0], targets.actions)),
            "v": targets.mean(value),
            "entropy": targets.mean(outputs.entropies),
        }
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def guidance(self, heads: Mapping[str, Tensor]) -> Tensor:
        """Return min of the target Qs, less V: what each candidate is worth above the state."""
        return self._least(heads) - heads["value"][:, None]

    def _least(self, heads: Mapping[str, Tensor]) -> Tensor:
        """Return float32 (B, most candidates): the smaller target Q."""
        least, *others = (heads[name] for name in self.target_heads)
        for other in others:
            least = least.minimum(other)
        return least


def td_loss(q: Tensor, followed: Transitions) -> Tensor:
    """Return (Q(s, a) - (r + gamma * V(s')))^2, float32 (B,); 0 where s' is not known. V(s') has no gradient.

    Args:
        q: float32 (B,); of the actions taken.
        followed: what followed them.
    """
    aims = followed.rewards + followed.discounts * followed.next_values
    return (q - aims).square() * followed.known_mask


def expectile_loss(differences: Tensor, tau: float) -> Tensor:
    """Return |tau - 1(u < 0)| * u^2, float32 (B,) (Kostrikov et al. 2021, equation 5); half the square at tau 0.5.

    Args:
        differences: float32 (B,); u = Q - V.
        tau: above 0 to below 1.
    """
    weights = (differences < 0).float() * (1 - 2 * tau) + tau
    return weights * differences.square()


def conservative_loss(q: Tensor, actions: Tensor) -> Tensor:
    """Return -log softmax(Q(s, .))[a], float32 (B,): it lifts Q of the action taken above Q of the others.

    Args:
        q: float32 (B, most candidates); -inf behind a turn's last.
        actions: int64 (B,); the actions taken.
    """
    return -_taken(q.log_softmax(dim=-1), actions)


def _total(each: Sequence[Tensor]) -> Tensor:
    """Add losses up, at least one."""
    first, *others = each
    for other in others:
        first = first + other
    return first


def _taken(table: Tensor, actions: Tensor) -> Tensor:
    """Pick float32 (B,): the entries of the actions taken."""
    return table.gather(1, actions[:, None]).squeeze(1)
