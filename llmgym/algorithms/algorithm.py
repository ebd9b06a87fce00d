"""An algorithm: a loss, how often to take it, and what advantage is. Knows no model and no optimizer.

A user's own algorithm is a class of ten lines; nothing needs to be inherited or registered:

    @dataclass(frozen=True)
    class Reinforce:
        epochs: int = 1
        minibatch_turns: int = 256

        def loss(self, outputs, targets):
            loss = targets.mean(-targets.returns * outputs.logprobs)
            return loss, {"policy_loss": loss}

Without more, credit is given to turns, and advantages are estimated with a critic (`llmgym.algorithms.gae`). What else
an algorithm may want, it says by having the attributes of one of the protocols behind `Algorithm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from llmgym.algorithms.returns import ReturnSettings
from llmgym.algorithms.units import Credit, Estimates, Outputs, Reads, Targets
from llmgym.types import FloatArray, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Algorithm",
    "Bootstraps",
    "ComparesGroups",
    "ComparesStates",
    "ComparesToReference",
    "CreditsDraws",
    "EstimatesAdvantages",
    "FollowsHeads",
    "Guides",
    "LearnsOffline",
    "ReadsHeads",
    "ReadsText",
    "SamplesDynamically",
    "StopsEarly",
    "compares_groups",
    "compares_states",
    "credit_of",
    "learns_offline",
    "needs_values",
    "wants_reference",
]


class Algorithm(Protocol):
    """A loss, and how it is taken over a batch."""

    @property
    def epochs(self) -> int:
        """How often an update goes through its batch."""
        ...

    @property
    def minibatch_turns(self) -> int:
        """About how many turns a gradient step is taken on."""
        ...

    def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss to minimise, a scalar, and metrics, scalars without gradient.

        Both are `targets.mean` of something per unit, or one of its like, or a sum of such: parts of a minibatch are
        added up.

        What is an expectation over draws goes through `targets.weighted` first, where `collect.staleness` is to be
        corrected for.
        """
        ...


@runtime_checkable
class StopsEarly(Protocol):
    """An algorithm that may end an update before its last epoch."""

    def is_done(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether to stop, from an epoch's metrics (means over its turns)."""
        ...


@runtime_checkable
class ReadsText(Protocol):
    """An algorithm that may learn from what is read, too. Its `Outputs.text_logprobs` cost logits of every token."""

    @property
    def reads_text(self) -> bool:
        """Whether it wants them."""
        ...


@runtime_checkable
class CreditsDraws(Protocol):
    """An algorithm that may give credit to every draw instead of to turns."""

    @property
    def credit(self) -> Credit:
        """What a unit is."""
        ...


@runtime_checkable
class EstimatesAdvantages(Protocol):
    """An algorithm that has its own way to estimate advantages; without one, they are estimated as by `gae`."""

    @property
    def needs_values(self) -> bool:
        """Whether it needs a critic's values. An algorithm that does not is given whole episodes."""
        ...

    def estimate(
        self, trajectories: Sequence[Trajectory], values: Sequence[FloatArray] | None, settings: ReturnSettings
    ) -> Estimates:
        """Estimate advantages and returns.

        Args:
            trajectories: stretches of episodes; whole ones where needs_values is False.
            values: for each, float32 (num_units + 1,): of the state of every unit, and of that after the last turn;
                None where needs_values is False.
            settings: how rewards add up.
        """
        ...


@runtime_checkable
class ComparesGroups(Protocol):
    """An algorithm that may compare episodes from the same start."""

    @property
    def needs_groups(self) -> bool:
        """Whether several episodes have to begin alike."""
        ...


@runtime_checkable
class ComparesStates(Protocol):
    """An algorithm that compares turns in the same state of the environment, by `Turn.state_key`."""

    @property
    def needs_states(self) -> bool:
        """Whether turns have to know their states."""
        ...


@runtime_checkable
class SamplesDynamically(Protocol):
    """An algorithm that collects again until enough of what it collects is kept."""

    @property
    def max_collections(self) -> int:
        """How often, at most, an update collects."""
        ...


@runtime_checkable
class ComparesToReference(Protocol):
    """An algorithm that may hold the policy near to what it was."""

    @property
    def reference_coef(self) -> float:
        """Weight of the distance, at least 0; at 0 the reference policy is not asked."""
        ...


@runtime_checkable
class ReadsHeads(Protocol):
    """An algorithm that has heads of its own, beside "value"."""

    @property
    def heads(self) -> Mapping[str, Reads]:
        """Their names, and what each reads."""
        ...


@runtime_checkable
class FollowsHeads(Protocol):
    """An algorithm with target heads: frozen copies of heads that follow these slowly."""

    @property
    def target_heads(self) -> Mapping[str, str]:
        """Name of each to the head it follows."""
        ...

    @property
    def alpha(self) -> float:
        """Share of the way that they go at once, above 0 to 1; 1 copies."""
        ...

    @property
    def sync_every(self) -> int:
        """Gradient steps between two times they follow."""
        ...


@runtime_checkable
class Bootstraps(Protocol):
    """An algorithm that learns what a turn is worth from the state after it, by `Targets.transitions`."""

    @property
    def bootstrap_head(self) -> str:
        """The head whose value of that state it wants, as it is before each step."""
        ...


@runtime_checkable
class LearnsOffline(Protocol):
    """An algorithm that may learn from what any policy did, whose probabilities nobody knows."""

    @property
    def learns_offline(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class Guides(Protocol):
    """An algorithm whose heads guide the policy when it acts."""

    @property
    def beta(self) -> float:
        """How much they count, at least 0; at 0 the policy acts alone."""
        ...

    def guidance(self, heads: Mapping[str, Tensor]) -> Tensor:
        """Return float32 (N, most candidates): what is added, times beta, to the log-probability of every action.

        Args:
            heads: as in `Outputs`, of N states; padding is -inf.
        """
        ...


def credit_of(algorithm: Algorithm) -> Credit:
    """Return what an algorithm gives credit to."""
    return algorithm.credit if isinstance(algorithm, CreditsDraws) else "turn"


def needs_values(algorithm: Algorithm) -> bool:
    """Tell whether an algorithm needs a critic's values; one that does not is given whole episodes."""
    return not isinstance(algorithm, EstimatesAdvantages) or algorithm.needs_values


def compares_groups(algorithm: Algorithm) -> bool:
    """Tell whether an algorithm needs several episodes from each start."""
    return isinstance(algorithm, ComparesGroups) and algorithm.needs_groups


def compares_states(algorithm: Algorithm) -> bool:
    """Tell whether an algorithm needs `Turn.state_key`."""
    return isinstance(algorithm, ComparesStates) and algorithm.needs_states


def wants_reference(algorithm: Algorithm) -> bool:
    """Tell whether an algorithm needs `Targets.reference_logprobs`."""
    return isinstance(algorithm, ComparesToReference) and algorithm.reference_coef > 0


def learns_offline(algorithm: Algorithm) -> bool:
    """Tell whether an algorithm may learn from recorded episodes, whoever played them."""
    return isinstance(algorithm, LearnsOffline) and algorithm.learns_offline
