"""Minibatches: which rows a gradient step is taken on, and what was recorded of their units. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from llmgym.algorithms.units import Credit, Targets, Transitions
from llmgym.errors import LearnerError
from llmgym.learner.branch import IntArray
from llmgym.learner.row import Row
from llmgym.types import Batch, FloatArray, Steps, Turn

__all__ = [
    "Ledger",
    "behaviour_logprobs",
    "check_batch",
    "open_ledger",
    "proximal_logprobs",
    "split_minibatches",
    "units_of",
]


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """What was recorded of all units of a batch, by turn.

    Attributes:
        targets: of all units, on the learner's device.
        actions: int64 (num_turns,); index of the action taken in each turn.
        turn_units: int64 (num_turns,); how many units each turn has.
        first_units: int64 (num_turns,); the first unit of each turn.
        shares: float64 (num_units,); which share of its trajectory each unit is.
    """

    targets: Targets
    actions: IntArray
    turn_units: IntArray
    first_units: IntArray
    shares: npt.NDArray[np.float64]

    def units(self, turn_indices: IntArray) -> IntArray:
        """Return int64 (num_units of these turns,): their units, turn after turn."""
        counts = self.turn_units[turn_indices]
        starts = np.repeat(self.first_units[turn_indices] - (np.cumsum(counts) - counts), counts)
        units: IntArray = starts + np.arange(counts.sum())
        return units

    def part(self, turn_indices: IntArray, whole: Targets) -> Targets:
        """Return what was recorded of some turns, as a part of a minibatch.

        Args:
            turn_indices: int64 (num_turns of the part,).
            whole: the minibatch, as `whole` returns it.
        """
        units = torch.from_numpy(self.units(turn_indices)).to(self.targets.actions.device)
        every = self.targets
        reference, weights, followed = every.reference_logprobs, every.weights, whole.transitions
        return replace(
            whole,
            actions=every.actions.index_select(0, units),
            behaviour_logprobs=every.behaviour_logprobs.index_select(0, units),
            advantages=every.advantages.index_select(0, units),
            normalized_advantages=every.normalized_advantages.index_select(0, units),
            returns=every.returns.index_select(0, units),
            values=every.values.index_select(0, units),
            num_draws=every.num_draws.index_select(0, units),
            trajectory_units=every.trajectory_units.index_select(0, units),
            reference_logprobs=None if reference is None else reference.index_select(0, units),
            weights=None if weights is None else weights.index_select(0, units),
            transitions=None if followed is None else _part_of(followed, units),
        )

    def whole(self, turn_indices: IntArray) -> Targets:
        """Return targets that know how much a minibatch of these turns holds."""
        units = self.units(turn_indices)
        return replace(self.targets, num_units=len(units), num_trajectories=float(self.shares[units].sum()))

    def followed(self, whole: Targets, turn_indices: IntArray, next_values: FloatArray) -> Targets:
        """Return targets that know what the states after some turns are worth now.

        Args:
            whole: the minibatch, as `whole` returns it.
            turn_indices: int64 (num_turns of the minibatch,).
            next_values: float32 (num_turns of the minibatch,); 0 where there is no such state, or nobody knows it.
        """
        assert whole.transitions is not None, "checked with the batch"
        values = whole.transitions.next_values.clone()
        values[torch.from_numpy(turn_indices).to(values.device)] = torch.from_numpy(next_values).to(values.device)
        return replace(whole, transitions=replace(whole.transitions, next_values=values))


def open_ledger(
    batch: Batch, credit: Credit, device: torch.device, *, reference_logprobs: FloatArray | None = None
) -> Ledger:
    """Gather what was recorded of all units of a batch.

    Args:
        batch: one that `check_batch` lets pass.
        credit: what a unit is.
        device: of the learner.
        reference_logprobs: float32 (num_units,); what the reference policy gives what was drawn.
    """

    def to_tensor(values: FloatArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

    turn_units = units_of(batch.turns, credit)
    lengths = np.ones(len(batch.turns), np.int64) if batch.trajectory_turns is None else batch.trajectory_turns
    units_before = np.concatenate([[0], np.cumsum(turn_units)])
    trajectory_units = np.diff(units_before[np.concatenate([[0], np.cumsum(lengths)])])
    unit_lengths = np.repeat(trajectory_units, trajectory_units).astype(np.float32)
    draws = np.array([turn.num_draws for turn in batch.turns], np.float32)
    actions = np.array([turn.action for turn in batch.turns], np.int64)
    targets = Targets(
        actions=torch.from_numpy(np.repeat(actions, turn_units)).to(device),
        behaviour_logprobs=to_tensor(proximal_logprobs(batch, credit)),
        advantages=to_tensor(batch.advantages),
        normalized_advantages=to_tensor(_normalized(batch.advantages)),
        returns=to_tensor(batch.returns),
        values=to_tensor(batch.values),
        num_units=len(batch.advantages),
        num_draws=to_tensor(draws if credit == "turn" else np.ones(len(batch.advantages), np.float32)),
        trajectory_units=to_tensor(unit_lengths),
        num_trajectories=float(len(trajectory_units)),
        reference_logprobs=None if reference_logprobs is None else to_tensor(reference_logprobs),
        weights=None if batch.weights is None else to_tensor(batch.weights),
        transitions=None if batch.steps is None else _transitions(batch.turns, batch.steps, device),
    )
    return Ledger(targets, actions, turn_units, units_before[:-1], 1.0 / unit_lengths.astype(np.float64))


def _transitions(turns: Sequence[Turn], steps: Steps, device: torch.device) -> Transitions:
    """Return what followed every turn of a batch; what the states after are worth is not known yet."""
    goes_on = np.array([prompt is not None for prompt in steps.next_prompts])
    terminated = np.array([turn.terminated for turn in turns])
    rewards = torch.from_numpy(np.ascontiguousarray(steps.rewards, np.float32)).to(device)
    return Transitions(
        rewards=rewards,
        discounts=torch.from_numpy(goes_on.astype(np.float32) * np.float32(steps.gamma)).to(device),
        next_values=torch.zeros_like(rewards),
        known_mask=torch.from_numpy(goes_on | terminated).to(device),
    )


def _part_of(followed: Transitions, turns: torch.Tensor) -> Transitions:
    """Return what followed some turns."""
    return Transitions(
        rewards=followed.rewards.index_select(0, turns),
        discounts=followed.discounts.index_select(0, turns),
        next_values=followed.next_values.index_select(0, turns),
        known_mask=followed.known_mask.index_select(0, turns),
    )


def units_of(turns: Sequence[Turn], credit: Credit) -> IntArray:
    """Return int64 (num_turns,): how many units each turn has."""
    if credit == "turn":
        return np.ones(len(turns), np.int64)
    return np.array([turn.num_draws for turn in turns], np.int64)


def behaviour_logprobs(turns: Sequence[Turn], credit: Credit) -> FloatArray:
    """Return float32 (num_units,): the log-probability of every unit, when it was drawn."""
    if credit == "turn":
        return np.array([turn.logprob for turn in turns], np.float32)
    return np.array([one for turn in turns for one in turn.draw_logprobs or (turn.logprob,)], np.float32)


def proximal_logprobs(batch: Batch, credit: Credit) -> FloatArray:
    """Return float32 (num_units,): the log-probability of every unit that ratios are measured against."""
    return behaviour_logprobs(batch.turns, credit) if batch.proximal_logprobs is None else batch.proximal_logprobs


def split_minibatches(rows: Sequence[Row], minibatch_turns: int, rng: np.random.Generator) -> list[list[Row]]:
    """Shuffle rows and cut them into minibatches of about minibatch_turns turns, as even as whole rows allow.

    Args:
        rows: at least one; a row is never cut.
        minibatch_turns: at least 1.
        rng: draws the order.
    """
    shuffled = [rows[int(index)] for index in rng.permutation(len(rows))]
    num_turns = np.array([row.num_states for row in shuffled])
    num_minibatches = max(1, round(int(num_turns.sum()) / minibatch_turns))
    # A row belongs to the minibatch in which its middle turn falls.
    middles = np.cumsum(num_turns) - num_turns / 2
    numbers = (middles * num_minibatches / num_turns.sum()).astype(np.int64)
    minibatches: list[list[Row]] = [[] for _ in range(num_minibatches)]
    for row, number in zip(shuffled, numbers, strict=True):
        minibatches[int(number)].append(row)
    return [minibatch for minibatch in minibatches if minibatch]


def check_batch(batch: Batch, credit: Credit = "turn") -> None:
    """Refuse a batch that cannot be learned from, before anything is changed.

    Raises:
        LearnerError: it is empty, its lengths differ, a number is not finite, or an action is no candidate's index.
    """
    if len(batch.turns) == 0:
        raise LearnerError("Expected a batch with at least one turn, got none. Collect before updating.")
    num_units = int(units_of(batch.turns, credit).sum())
    columns = {
        "advantages": batch.advantages,
        "returns": batch.returns,
        "values": batch.values,
        "behaviour log-probabilities": behaviour_logprobs(batch.turns, credit),
        "proximal log-probabilities": proximal_logprobs(batch, credit),
    }
    if batch.weights is not None:
        columns["importance weights"] = batch.weights
    for name, column in columns.items():
        if len(column) != num_units:
            raise LearnerError(
                f"Expected {name} for {num_units} {credit}s, got {len(column)}. Make the batch with the algorithm that "
                f"learns from it: one number a {credit}."
            )
        if not np.isfinite(column).all():
            unit = int(np.flatnonzero(~np.isfinite(column))[0])
            raise LearnerError(
                f"Expected finite {name}, got {column[unit]} at {credit} {unit}. Check rewards and the engine's "
                "answers."
            )
    if batch.trajectory_turns is not None and sum(batch.trajectory_turns) != len(batch.turns):
        raise LearnerError(
            f"Expected trajectories of {len(batch.turns)} turns in all, got {sum(batch.trajectory_turns)}. Make the "
            "batch with llmgym.rollout.batch.make_batch."
        )
    if batch.steps is not None and not len(batch.steps.rewards) == len(batch.steps.next_prompts) == len(batch.turns):
        raise LearnerError(
            f"Expected a reward and a next prompt for each of {len(batch.turns)} turns, got "
            f"{len(batch.steps.rewards)} and {len(batch.steps.next_prompts)}. Make the batch with "
            "llmgym.rollout.batch.make_batch."
        )
    for number, turn_record in enumerate(batch.turns):
        if not 0 <= turn_record.action < len(turn_record.candidate_ids):
            raise LearnerError(
                f"Expected the action of turn {number} to be the index of one of its {len(turn_record.candidate_ids)} "
                f"candidates, got {turn_record.action}. Store the index that the engine chose."
            )


def _normalized(advantages: FloatArray) -> FloatArray:
    """Shift and scale to mean 0 and deviation 1 over the whole batch; equal advantages become exactly 0.

    Over the batch and not the minibatch, so that the update does not depend on how the batch is cut.
    """
    centred = advantages.astype(np.float64) - advantages.mean(dtype=np.float64)
    deviation = float(centred.std())
    normalized: FloatArray = (centred / deviation if deviation > 1e-8 else np.zeros(len(centred))).astype(np.float32)
    return normalized
