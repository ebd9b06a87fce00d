"""One update: epochs of minibatches over a batch, a gradient step each. Knows neither engines nor environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from llmgym.algorithms.algorithm import Algorithm, StopsEarly, credit_of
from llmgym.errors import LearnerError
from llmgym.learner.gradient import Gradients, Met
from llmgym.learner.inference import infer_draw_logprobs, infer_logprobs
from llmgym.learner.minibatch import behaviour_logprobs, check_batch, open_ledger, split_minibatches
from llmgym.learner.optimizer import take_step
from llmgym.learner.ranks.rank import Rank
from llmgym.learner.reference import Reference
from llmgym.learner.row import Row
from llmgym.types import Acting, Batch, FloatArray

__all__ = ["Update", "run_update"]


@dataclass(frozen=True, slots=True)
class Update:
    """How an update is taken.

    Attributes:
        algorithm: the loss.
        acting: how actions are drawn.
        max_tokens: of one forward pass, padding included.
        max_grad_norm: longest gradient that is not scaled down; None for no limit.
    """

    algorithm: Algorithm
    acting: Acting
    max_tokens: int
    max_grad_norm: float | None


@dataclass(slots=True)
class _Meter:
    """Means of metrics over turns."""

    sums: dict[str, float] = field(default_factory=dict)
    num_turns: int = 0

    def add(self, metrics: Mapping[str, float], num_turns: int) -> None:
        """Count means over some turns in."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * num_turns
        self.num_turns += num_turns

    def means(self) -> dict[str, float]:
        """Return the means over all turns."""
        return {name: total / self.num_turns for name, total in self.sums.items()}


class _Seen:
    """What the policy said of each unit in the first epoch, before the step that it took part in."""

    def __init__(self, num_units: int) -> None:
        self._logprobs: FloatArray = np.full(num_units, np.nan, np.float32)
        self._values: FloatArray = np.full(num_units, np.nan, np.float32)

    def add(self, met: Sequence[Met]) -> None:
        """Note what this rank met."""
        for one in met:
            self._logprobs[one.units] = one.logprobs
            if one.values is not None:
                self._values[one.units] = one.values

    def gap(self, behaviour: FloatArray, rank: Rank) -> float:
        """Return the largest difference between the log-probabilities that all ranks noted and behaviour's."""
        gaps = np.abs(self._logprobs - behaviour)
        return max(rank.gather(float(np.max(gaps, where=~np.isnan(gaps), initial=0.0))))

    def values(self, rank: Rank) -> FloatArray:
        """Return float32 (num_units,): the values that all ranks noted; NaN without a head "value"."""
        values: FloatArray = np.fmax.reduce(rank.gather(self._values))
        return values


def run_update(
    gradients: Gradients,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    batch: Batch,
    *,
    update: Update,
    rng: np.random.Generator,
    reference: Reference | None = None,
) -> dict[str, float]:
    """Take an update's steps and return its metrics; see `Learner.update`.

    Every rank is given the same, draws the same minibatches, and takes the same steps.

    Args:
        gradients: of the policy that learns, taken together with the other ranks.
        optimizer: over its parameters.
        rows: the batch's turns, packed.
        batch: what was recorded of them.
        update: how it is taken.
        rng: draws the minibatches.
        reference: what the policy was, where the algorithm asks how far it is from that.

    Raises:
        LearnerError: the batch is not usable, or a loss or gradient is not finite; its step is not taken.
    """
    algorithm, policy, rank = update.algorithm, gradients.policy, gradients.rank
    credit = credit_of(algorithm)
    check_batch(batch, credit)
    reference_logprobs = None
    if reference is not None:
        infer = infer_draw_logprobs if credit == "draw" else infer_logprobs
        with reference.in_place_of(policy):
            reference_logprobs = infer(policy, rows, batch.turns, update.acting, update.max_tokens, rank=rank)
    ledger = open_ledger(batch, credit, policy.device, reference_logprobs=reference_logprobs)
    seen = _Seen(len(batch.advantages))
    total, steps, epochs, first_gap = _Meter(), 0, 0, 0.0
    for _ in range(algorithm.epochs):
        epoch = _Meter()
        for minibatch in split_minibatches(rows, algorithm.minibatch_turns, rng):
            taken = gradients.take(
                minibatch, ledger, algorithm=algorithm, acting=update.acting, max_tokens=update.max_tokens
            )
            _check_loss(taken.metrics, optimizer)
            grad_norm = take_step(optimizer, policy, update.max_grad_norm)
            epoch.add({**taken.metrics, "grad_norm": grad_norm}, sum(row.num_states for row in minibatch))
            if epochs == 0:
                seen.add(taken.met)
            if steps == 0:
                first_gap = seen.gap(behaviour_logprobs(batch.turns, credit), rank)
            steps += 1
        total.add(epoch.means(), epoch.num_turns)
        epochs += 1
        if isinstance(algorithm, StopsEarly) and algorithm.is_done(epoch.means()):
            break
    metrics = {**total.means(), "behaviour_gap": first_gap, "epochs": float(epochs), "steps": float(steps)}
    if "value" in policy.heads:
        metrics["explained_variance"] = _explained_variance(seen.values(rank), batch.returns)
    return metrics


def _check_loss(metrics: Mapping[str, float], optimizer: torch.optim.Optimizer) -> None:
    """Refuse the step of a loss that is not finite; it is the same on all ranks, so that none steps alone."""
    if np.isfinite(metrics["loss"]):
        return
    optimizer.zero_grad(set_to_none=True)
    others = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "loss")
    raise LearnerError(
        f"Expected a finite loss, got {metrics['loss']} ({others}). The step was not taken. "
        "Lower the learning rate, or check the batch's rewards and log-probabilities."
    )


def _explained_variance(values: FloatArray, returns: FloatArray) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 is perfect, 0 a constant; 0 too where returns are equal."""
    variance = float(np.var(returns, dtype=np.float64))
    if variance < 1e-12:
        return 0.0
    return 1.0 - float(np.var(returns - values, dtype=np.float64)) / variance
