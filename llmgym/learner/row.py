"""A row: one sequence of tokens that answers for several turns at once. Numpy only; knows nothing of models.

Where prompts only grow, the prompts of an episode are prefixes of one trunk, and each turn's candidates are a branch
that hangs off the trunk where its prompt ends:

    trunk     a b c | d e f g | h i j
    branches        ^left     ^left    ^turn left ...

A branch's tokens stand right behind the end of their prompt. So no token ever needs one to its right, and the mask
stays below the diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmgym.errors import LearnerError
from llmgym.learner.branch import EMPTY_BRANCH, Branch, IntArray, build_branch
from llmgym.types import TokenIds

__all__ = ["Row", "build_rows", "group_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One packed sequence and the consecutive states (prompts) it answers for.

    Attributes:
        first_state: position of the row's first state in the list that was packed.
        input_ids: int64 (num_tokens,); trunk and branch tokens.
        position_ids: int64 (num_tokens,); how many tokens each has before it, as the model should see it.
        trunk_mask: bool (num_tokens,); True on the trunk.
        end_indices: int64 (num_states,); index of the last token of each state's prompt.
        branches: the branch of each state.
    """

    first_state: int
    input_ids: IntArray
    position_ids: IntArray
    trunk_mask: npt.NDArray[np.bool_]
    end_indices: IntArray
    branches: tuple[Branch, ...]

    @property
    def num_tokens(self) -> int:
        """Number of tokens fed to the model."""
        return len(self.input_ids)

    @property
    def num_states(self) -> int:
        """Number of states the row answers for."""
        return len(self.branches)

    @property
    def state_indices(self) -> IntArray:
        """Return int64 (num_states,): positions of the row's states in the list that was packed."""
        return np.arange(self.first_state, self.first_state + self.num_states)


def build_rows(prompts: Sequence[npt.NDArray[np.int32]], candidates: Sequence[tuple[TokenIds, ...]]) -> list[Row]:
    """Pack states into rows, in order: a state joins the row before it where its prompt extends that row's trunk.

    Args:
        prompts: one int32 array (num_tokens,) a state.
        candidates: the candidates of each state as token ids; an empty tuple for a state that is only valued.

    Raises:
        LearnerError: a prompt is empty.
    """
    rows: list[Row] = []
    first = 0
    for state, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise LearnerError(
                f"Expected every prompt to have a token, but prompt {state} is empty. Begin it with a first token."
            )
        if state > first and not _extends(prompt, prompts[state - 1]):
            rows.append(_build_row(first, prompts[first:state], candidates[first:state]))
            first = state
    if len(prompts) > first:
        rows.append(_build_row(first, prompts[first:], candidates[first:]))
    return rows


def group_rows(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Group rows into micro-batches of at most max_tokens tokens each, padding included.

    Rows of like length go together, longest first. A row that is longer than the budget is a group of its own.
    """
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (-row.num_tokens, row.first_state)):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].num_tokens <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _extends(prompt: npt.NDArray[np.int32], shorter: npt.NDArray[np.int32]) -> bool:
    """Tell whether a prompt begins with another, or equals it."""
    return len(prompt) >= len(shorter) and bool(np.array_equal(prompt[: len(shorter)], shorter))


def _build_row(
    first_state: int, prompts: Sequence[npt.NDArray[np.int32]], candidates: Sequence[tuple[TokenIds, ...]]
) -> Row:
    """Lay out the trunk (the last prompt) and the branches of prompts that each extend the one before."""
    branches = tuple(build_branch(ids) if ids else EMPTY_BRANCH for ids in candidates)
    trunk = prompts[-1]
    lengths = np.array([len(prompt) for prompt in prompts])
    num_fed = np.array([branch.num_fed for branch in branches])
    fed_before = np.cumsum(num_fed) - num_fed
    # Token t of the trunk stands behind the branches of all prompts that end at or before it.
    shift = np.zeros(len(trunk) + 1, np.int64)
    np.add.at(shift, lengths, num_fed)
    trunk_indices = np.arange(len(trunk)) + np.cumsum(shift)[:-1]
    num_tokens = len(trunk) + int(num_fed.sum())
    input_ids = np.empty(num_tokens, np.int64)
    position_ids = np.empty(num_tokens, np.int64)
    trunk_mask = np.zeros(num_tokens, np.bool_)
    trunk_mask[trunk_indices] = True
    input_ids[trunk_indices] = trunk
    position_ids[trunk_indices] = np.arange(len(trunk))
    if num_tokens > len(trunk):
        input_ids[~trunk_mask] = np.concatenate([branch.fed_ids for branch in branches])
        depths = np.concatenate([branch.depths for branch in branches])
        position_ids[~trunk_mask] = np.repeat(lengths, num_fed) + depths - 1
    return Row(first_state, input_ids, position_ids, trunk_mask, lengths - 1 + _at_end(fed_before, lengths), branches)


def _at_end(fed_before: IntArray, lengths: IntArray) -> IntArray:
    """Return how many branch tokens stand before each prompt's last token: equal prompts share that token."""
    is_new = np.concatenate([[True], lengths[1:] > lengths[:-1]])
    firsts = np.maximum.accumulate(np.where(is_new, np.arange(len(lengths)), 0))
    return np.take(fed_before, firsts)
