"""Minibatches: which rows a gradient step is taken on, and what was recorded of their turns. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llmgym.algorithms.algorithm import Targets
from llmgym.errors import LearnerError
from llmgym.learner.branch import IntArray
from llmgym.learner.row import Row
from llmgym.types import Batch, FloatArray

__all__ = ["all_targets", "check_batch", "part_of", "split_minibatches"]


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


def all_targets(batch: Batch, device: torch.device) -> Targets:
    """Gather what was recorded of all turns of a batch, on a device."""

    def to_tensor(values: FloatArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)

    return Targets(
        actions=torch.tensor([turn.action for turn in batch.turns], dtype=torch.int64, device=device),
        behaviour_logprobs=to_tensor(np.array([turn.logprob for turn in batch.turns], np.float32)),
        advantages=to_tensor(batch.advantages),
        normalized_advantages=to_tensor(_normalized(batch.advantages)),
        returns=to_tensor(batch.returns),
        values=to_tensor(batch.values),
        num_turns=len(batch.turns),
    )


def part_of(targets: Targets, turn_indices: IntArray, num_turns: int) -> Targets:
    """Select the turns of a micro-batch, which belongs to a minibatch of num_turns turns."""
    picked = torch.from_numpy(turn_indices).to(targets.actions.device)
    return Targets(
        actions=targets.actions.index_select(0, picked),
        behaviour_logprobs=targets.behaviour_logprobs.index_select(0, picked),
        advantages=targets.advantages.index_select(0, picked),
        normalized_advantages=targets.normalized_advantages.index_select(0, picked),
        returns=targets.returns.index_select(0, picked),
        values=targets.values.index_select(0, picked),
        num_turns=num_turns,
    )


def check_batch(batch: Batch) -> None:
    """Refuse a batch that cannot be learned from, before anything is changed.

    Raises:
        LearnerError: it is empty, its lengths differ, a number is not finite, or an action is no candidate's index.
    """
    num_turns = len(batch.turns)
    if num_turns == 0:
        raise LearnerError("Expected a batch with at least one turn, got none. Collect before updating.")
    columns = {
        "advantages": batch.advantages,
        "returns": batch.returns,
        "values": batch.values,
        "behaviour log-probabilities": np.array([turn.logprob for turn in batch.turns]),
    }
    for name, column in columns.items():
        if len(column) != num_turns:
            raise LearnerError(f"Expected {name} for {num_turns} turns, got {len(column)}. Give one a turn.")
        if not np.isfinite(column).all():
            turn = int(np.flatnonzero(~np.isfinite(column))[0])
            raise LearnerError(
                f"Expected finite {name}, got {column[turn]} at turn {turn}. Check rewards and the engine's answers."
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
