"""One update: epochs of minibatches over a batch, a gradient step each. Knows neither engines nor environments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from llmgym.algorithms.algorithm import Algorithm, Bootstraps, StopsEarly, credit_of
from llmgym.learner.gradient import Gradients, Met
from llmgym.learner.inference import infer_logprobs, infer_next_values
from llmgym.learner.minibatch import Ledger, check_batch, open_ledger, proximal_logprobs, split_minibatches
from llmgym.learner.non_finite import NonFiniteError, OnNonFinite
from llmgym.learner.optimizer import take_step
from llmgym.learner.policy import Policy
from llmgym.learner.ranks.rank import Rank
from llmgym.learner.reference import Reference
from llmgym.learner.row import Row
from llmgym.learner.target_heads import follow_heads
from llmgym.types import Acting, Batch, FloatArray

__all__ = ["Update", "run_update"]

NextPrompts = Sequence[npt.NDArray[np.int32] | None]


@dataclass(frozen=True, slots=True)
class Update:
    """How an update is taken.

    Attributes:
        algorithm: the loss.
        acting: how actions are drawn.
        max_tokens: of one forward pass, padding included.
        max_grad_norm: longest gradient that is not scaled down; None for no limit.
        on_non_finite: what to do about a loss or gradient that is not finite.
    """

    algorithm: Algorithm
    acting: Acting
    max_tokens: int
    max_grad_norm: float | None
    on_non_finite: OnNonFinite = "stop"


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
    """What the head "value" said of each unit in the first epoch, before the step that it took part in."""

    def __init__(self, num_units: int) -> None:
        self._values: FloatArray = np.full(num_units, np.nan, np.float32)

    def add(self, met: Sequence[Met]) -> None:
        """Note what this rank met."""
        for one in met:
            if one.values is not None:
                self._values[one.units] = one.values

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
    skipped: list[NonFiniteError] | None = None,
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
        skipped: is given the steps that were left out, where update says to leave them out.

    Returns:
        the algorithm's metrics (means over turns of all epochs), and
        loss, grad_norm: before clipping, means of the steps;
        behaviour_gap, behaviour_gap_mean, behaviour_gap_p99: largest, mean and 99th percentile of the differences, in
            the first minibatch before its step, between log-probabilities here and when it was drawn: 0 where engine
            and learner agree and there is no dropout;
        behaviour_kl: the divergence that they come to (k3, never negative), and behaviour_factor: the mean factor
            between the two probabilities, 1 where they agree;
        explained_variance: of the returns by the head "value", during the first epoch;
        epochs, steps, skipped_steps: how many; skipped were those with a loss or gradient that was not finite.

    Raises:
        LearnerError: the batch is not usable.
        NonFiniteError: a loss or gradient is not finite, and update says to stop; or none of the steps is. Their steps
            are not taken.
    """
    algorithm, policy, rank = update.algorithm, gradients.policy, gradients.rank
    credit = credit_of(algorithm)
    check_batch(batch, credit)
    reference_logprobs = None
    if reference is not None:
        with reference.in_place_of(policy):
            reference_logprobs = infer_logprobs(
                policy, rows, batch.turns, update.acting, update.max_tokens, credit=credit, rank=rank
            )
    next_prompts = batch.steps.next_prompts if isinstance(algorithm, Bootstraps) and batch.steps else None
    ledger = open_ledger(batch, credit, policy.device, reference_logprobs=reference_logprobs)
    seen = _Seen(len(batch.advantages))
    total, steps, epochs = _Meter(), 0, 0
    gaps: dict[str, float] = {}
    skipped = [] if skipped is None else skipped
    for _ in range(algorithm.epochs):
        epoch = _Meter()
        for minibatch in split_minibatches(rows, algorithm.minibatch_turns, rng):
            try:
                metrics, met = _step(
                    gradients, optimizer, minibatch, ledger, update=update, rng=rng, next_prompts=next_prompts
                )
            except NonFiniteError as error:
                error.set_turns(batch.turns, [index for row in minibatch for index in row.state_indices.tolist()])
                if update.on_non_finite == "stop":
                    raise
                skipped.append(error)
                continue
            epoch.add(metrics, sum(row.num_states for row in minibatch))
            if epochs == 0:
                seen.add(met)
            if steps == 0:
                gaps = _gaps(met, proximal_logprobs(batch, credit), rank)
            steps += 1
        total.add(epoch.means(), epoch.num_turns)
        epochs += 1
        if epoch.num_turns and isinstance(algorithm, StopsEarly) and algorithm.is_done(epoch.means()):
            break
    if steps == 0:
        raise _nothing_learned(skipped)
    counts = {"epochs": float(epochs), "steps": float(steps), "skipped_steps": float(len(skipped))}
    metrics = {**total.means(), **gaps, **counts}
    if "value" in policy.heads:
        metrics["explained_variance"] = _explained_variance(seen.values(rank), batch.returns)
    return metrics


def _gaps(met: Sequence[Met], behaviour: FloatArray, rank: Rank) -> dict[str, float]:
    """Return how far the log-probabilities that all ranks met are from behaviour's; see `run_update`."""
    mine = [one.logprobs.astype(np.float64) - behaviour[one.units] for one in met]
    gaps = np.concatenate([gap for of_rank in rank.gather(mine) for gap in of_rank])
    sizes = np.abs(gaps)
    # Beyond these, probabilities have nothing in common, and powers of e overflow.
    near, near_sizes = np.minimum(gaps, 30.0), np.minimum(sizes, 30.0)
    return {
        "behaviour_gap": float(sizes.max()),
        "behaviour_gap_mean": float(sizes.mean()),
        "behaviour_gap_p99": float(np.quantile(sizes, 0.99)),
        "behaviour_kl": float(np.mean(np.expm1(near) - near)),
        "behaviour_factor": float(np.mean(np.exp(near_sizes))),
    }


def _step(
    gradients: Gradients,
    optimizer: torch.optim.Optimizer,
    minibatch: Sequence[Row],
    ledger: Ledger,
    *,
    update: Update,
    rng: np.random.Generator,
    next_prompts: NextPrompts | None,
) -> tuple[dict[str, float], list[Met]]:
    """Take one gradient step on a minibatch, and return its metrics and what this rank met."""
    algorithm, policy, rank = update.algorithm, gradients.policy, gradients.rank
    turn_indices = np.concatenate([row.state_indices for row in minibatch])
    whole = ledger.whole(turn_indices)
    if isinstance(algorithm, Bootstraps) and next_prompts is not None:
        after = [next_prompts[turn] for turn in turn_indices]
        values = infer_next_values(policy, after, algorithm.bootstrap_head, update.max_tokens, rank=rank)
        whole = ledger.followed(whole, turn_indices, values)
    with _dropout(policy, rng, rank):
        taken = gradients.take(
            minibatch, ledger, whole, algorithm=algorithm, acting=update.acting, max_tokens=update.max_tokens
        )
    try:
        _check_loss(taken.metrics, optimizer)
        grad_norm = take_step(optimizer, policy, update.max_grad_norm)
    except NonFiniteError as error:
        error.metrics = taken.metrics
        raise
    follow_heads(policy, algorithm)
    return {**taken.metrics, "grad_norm": grad_norm}, taken.met


def _dropout(policy: Policy, rng: np.random.Generator, rank: Rank) -> AbstractContextManager[None]:
    """Return a context of one step, in which the adapter's dropout works if it has any; only then is a seed drawn."""
    if policy.lora is None or policy.lora.dropout == 0:
        return nullcontext()
    return policy.dropping_out(int(rng.integers(2**62)) + rank.index)


def _explained_variance(values: FloatArray, returns: FloatArray) -> float:
    """Return 1 - Var(returns - values) / Var(returns): 1 is perfect, 0 a constant; 0 too where returns are equal.

    What was never met, since all its steps were skipped, does not count.
    """
    is_met = np.isfinite(values)
    values, returns = values[is_met], returns[is_met]
    variance = float(np.var(returns, dtype=np.float64)) if len(returns) else 0.0
    if variance < 1e-12:
        return 0.0
    return 1.0 - float(np.var(returns - values, dtype=np.float64)) / variance


def _check_loss(metrics: Mapping[str, float], optimizer: torch.optim.Optimizer) -> None:
    """Refuse the step of a loss that is not finite; it is the same on all ranks, so that none steps alone."""
    if math.isfinite(metrics["loss"]):
        return
    optimizer.zero_grad(set_to_none=True)
    listed = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if name != "loss")
    raise NonFiniteError(
        f"Expected a finite loss, got {metrics['loss']} ({listed}). The step was not taken. Lower the learning rate, "
        "or check the batch's rewards and log-probabilities.",
        tuple(name for name, value in metrics.items() if not math.isfinite(value)),
    )


def _nothing_learned(skipped: Sequence[NonFiniteError]) -> NonFiniteError:
    """Return the error of an update all of whose steps were skipped."""
    first = skipped[0]
    error = NonFiniteError(
        f"Expected a step of the update that can be taken, but all {len(skipped)} were skipped, and nothing was "
        f"learned. The first: {first}",
        first.broken,
    )
    error.turns, error.turn_indices, error.metrics = first.turns, first.turn_indices, first.metrics
    return error
