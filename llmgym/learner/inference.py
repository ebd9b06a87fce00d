"""Inference: what the policy says now, without gradients, in micro-batches. Numpy out; knows no losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from llmgym.algorithms.algorithm import Guides
from llmgym.algorithms.units import Credit
from llmgym.errors import LearnerError
from llmgym.learner.evaluation import (
    draw_places,
    evaluate_draws,
    evaluate_guided,
    evaluate_head_at_draws,
    evaluate_scores,
)
from llmgym.learner.head_reading import read_head
from llmgym.learner.heads import reads_of
from llmgym.learner.packing import Pack, build_pack
from llmgym.learner.policy import Policy
from llmgym.learner.ranks.rank import ALONE, Rank
from llmgym.learner.row import FreeTokens, Row, group_rows
from llmgym.learner.state_rows import check_ways, free_tokens, pack_states
from llmgym.types import Acting, FloatArray, TokenIds, Trajectory, Turn

__all__ = [
    "check_head",
    "infer_actions",
    "infer_lines",
    "infer_logprobs",
    "infer_next_values",
    "infer_scores",
    "infer_values",
    "join_values",
    "num_drawn",
    "score_candidates",
    "units_of_line",
]

Prompt = npt.NDArray[np.int32]
T = TypeVar("T")


def infer_values(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    head: str,
    acting: Acting,
    max_tokens: int,
    *,
    credit: Credit = "turn",
    rank: Rank = ALONE,
) -> list[FloatArray]:
    """Return what a head says of every state of every trajectory, or where every draw was drawn: see `Learner.values`.

    Args:
        credit: what a unit is; of turns, only prompts are read, however it was acted in them.
        rank: which of those that compute it together this is.
    """
    check_head(policy, head)
    if credit == "draw":
        return _infer_draw_values(policy, trajectories, head, acting, max_tokens, rank)
    prompts: list[Prompt] = []
    for trajectory in trajectories:
        prompts += [turn.prompt_ids for turn in trajectory.turns]
        if trajectory.final_prompt_ids is not None:
            prompts.append(trajectory.final_prompt_ids)
    rows = pack_states(policy, prompts, [()] * len(prompts))
    lines = _state_lines(policy, rows, head, max_tokens, rank)
    return join_values(trajectories, lines)


def infer_next_values(
    policy: Policy, prompts: Sequence[Prompt | None], head: str, max_tokens: int, *, rank: Rank = ALONE
) -> FloatArray:
    """Return float32 (num_prompts,): what a head says where each prompt ends; 0 where there is none."""
    check_head(policy, head)
    values = np.zeros(len(prompts), np.float32)
    there = [number for number, prompt in enumerate(prompts) if prompt is not None]
    rows = pack_states(policy, [prompt for prompt in prompts if prompt is not None], [()] * len(there))
    lines = _state_lines(policy, rows, head, max_tokens, rank)
    values[there] = [line[0] for line in lines]
    return values


def _infer_draw_values(
    policy: Policy, trajectories: Sequence[Trajectory], head: str, acting: Acting, max_tokens: int, rank: Rank
) -> list[FloatArray]:
    """Return what a head says where every draw of every trajectory was drawn: float32 (num_draws + 1,) each."""
    prompts: list[Prompt] = []
    free: list[FreeTokens] = []
    num_draws: list[int] = []
    for trajectory in trajectories:
        check_ways(trajectory.turns, acting)
        prompts += [turn.prompt_ids for turn in trajectory.turns]
        free += [free_tokens(turn, acting) for turn in trajectory.turns]
        num_draws += [num_drawn(turn, acting) for turn in trajectory.turns]
        if trajectory.final_prompt_ids is not None:
            prompts.append(trajectory.final_prompt_ids)
            free.append(FreeTokens())
            num_draws.append(1)
    rows = pack_states(policy, prompts, [()] * len(prompts), free)
    lines = infer_lines(
        policy, rows, max_tokens, lambda pack: _rows_of(evaluate_head_at_draws(policy, pack, head)), rank=rank
    )
    drawn = [
        units_of_line(line, len(tokens.sampled_ids), count)
        for line, tokens, count in zip(lines, free, num_draws, strict=True)
    ]
    return join_values(trajectories, drawn)


def infer_actions(
    policy: Policy,
    rows: Sequence[Row],
    acting: Acting,
    max_tokens: int,
    *,
    guide: Guides | None = None,
    beta: float = 0.0,
) -> list[FloatArray]:
    """Return the log-probability of every action, as it is drawn: float32 (num_candidates,) a state.

    Args:
        guide: the algorithm whose heads guide the policy, if any does.
        beta: how much these count.

    Raises:
        LearnerError: actions are not drawn, but named by free text.
    """
    if acting.how == "text":
        raise LearnerError(
            "Expected a way to act that draws among actions, got how='text', in which an answer is drawn and then "
            "parsed: only what was said has a log-probability. Use Learner.logprobs."
        )

    def evaluate_actions(pack: Pack) -> list[FloatArray]:
        if guide is None or beta == 0:
            return _rows_of(evaluate_draws(policy, pack, acting).action_logprobs)
        return _rows_of(evaluate_guided(policy, pack, acting, guide, beta))

    return _cut(infer_lines(policy, rows, max_tokens, evaluate_actions), rows)


def infer_logprobs(
    policy: Policy,
    rows: Sequence[Row],
    turns: Sequence[Turn],
    acting: Acting,
    max_tokens: int,
    *,
    credit: Credit = "turn",
    rank: Rank = ALONE,
) -> FloatArray:
    """Return float32 (num_units,): the log-probability of all that each turn drew, its action included.

    Args:
        rows: the turns, packed.
        credit: what a unit is; of draws, the log-probability of each, turn after turn.
        rank: which of those that compute it together this is.
    """
    actions = np.array([turn.action for turn in turns], np.int64)

    def evaluate_taken(pack: Pack) -> list[FloatArray]:
        taken = torch.from_numpy(actions[pack.state_indices]).to(policy.device)
        draws = evaluate_draws(policy, pack, acting)
        if credit == "turn":
            return _rows_of(draws.logprobs(taken)[:, None])
        logprobs, _ = draws.each(taken, draw_places(pack, acting))
        counts = [num_drawn(turns[state], acting) for state in pack.state_indices]
        return np.split(logprobs.cpu().numpy(), np.cumsum(counts)[:-1])

    return np.concatenate(infer_lines(policy, rows, max_tokens, evaluate_taken, rank=rank))


def infer_scores(policy: Policy, rows: Sequence[Row], max_tokens: int) -> list[FloatArray]:
    """Return log P(candidate | prompt), summed over tokens: float32 (num_candidates,) a state."""
    return _cut(infer_lines(policy, rows, max_tokens, lambda pack: _rows_of(evaluate_scores(policy, pack))), rows)


def score_candidates(
    policy: Policy, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[TokenIds]], max_tokens: int
) -> list[FloatArray]:
    """Return log P(candidate | context), all given as token ids: float32 (num_candidates,) a context."""
    prompts = [np.asarray(context, np.int32) for context in contexts]
    rows = pack_states(policy, prompts, [tuple(map(tuple, ids)) for ids in candidates])
    return infer_scores(policy, rows, max_tokens)


@torch.no_grad()
def infer_lines(
    policy: Policy,
    rows: Sequence[Row],
    max_tokens: int,
    evaluate: Callable[[Pack], Sequence[T]],
    *,
    rank: Rank = ALONE,
) -> list[T]:
    """Evaluate micro-batch by micro-batch, each rank its share, and return a line for every state to all ranks.

    Args:
        evaluate: from a pack to a line for each of its states.
    """
    mine: dict[int, T] = {}
    for group in group_rows(rank.share(rows), max_tokens):
        pack = build_pack(group, dtype=policy.dtype, device=policy.device)
        mine.update(zip(pack.state_indices.tolist(), evaluate(pack), strict=True))
    everyone: dict[int, T] = {}
    for lines in rank.gather(mine):
        everyone.update(lines)
    return [everyone[state] for state in range(len(everyone))]


def _state_lines(policy: Policy, rows: Sequence[Row], head: str, max_tokens: int, rank: Rank) -> list[FloatArray]:
    """Return float32 (1,) for every state: what a head says where its prompt ends."""
    return infer_lines(
        policy, rows, max_tokens, lambda pack: _rows_of(read_head(policy, head, pack)[:, None]), rank=rank
    )


def _rows_of(table: torch.Tensor) -> list[FloatArray]:
    """Return the rows of a table (N, columns), on the CPU."""
    return list(table.cpu().numpy())


def num_drawn(turn: Turn, acting: Acting) -> int:
    """Return how many draws a turn is, by what was said in it; `Turn.num_draws` goes by what was recorded."""
    return len(turn.sampled_ids) + (acting.how != "text")


def units_of_line(line: FloatArray, num_free: int, num_units: int) -> FloatArray:
    """Pick a state's units from its row of a table whose last column is the action's.

    Tables have as many columns as the micro-batch's longest answer needs.

    >>> units_of_line(np.array([1.0, 2.0, 0.0, 9.0], np.float32), num_free=2, num_units=3).tolist()
    [1.0, 2.0, 9.0]
    """
    return np.concatenate([line[:num_free], line[-1:]])[:num_units]


def join_values(trajectories: Sequence[Trajectory], lines: Sequence[FloatArray]) -> list[FloatArray]:
    """Join the values of the states of each trajectory; behind the last turn it is 0 where that terminated it."""
    left = iter(lines)
    results = []
    for trajectory in trajectories:
        values = [*islice(left, len(trajectory.turns)), np.zeros(1, np.float32)]
        if trajectory.final_prompt_ids is not None:
            behind = next(left)
            values[-1] = np.zeros(1, np.float32) if trajectory.turns[-1].terminated else behind
        results.append(np.concatenate(values))
    return results


def check_head(policy: Policy, head: str) -> None:
    """Refuse a head that is not there, or does not read states."""
    if head not in policy.heads:
        found = ", ".join(policy.heads) or "none"
        raise LearnerError(f"Expected a head {head!r}, found: {found}. Pass heads={{{head!r}: ValueHead}} to Learner.")
    reads = reads_of(policy.heads[head])
    if reads in ("candidates", "tokens"):
        raise LearnerError(
            f"Expected a head that reads states, got {head!r}, which reads {reads}. Take one with reads='state' or "
            "'mean'."
        )


def _cut(lines: Sequence[FloatArray], rows: Sequence[Row]) -> list[FloatArray]:
    """Cut the padding off: as many numbers a state as it has candidates."""
    branches = [branch for row in rows for branch in row.branches]
    return [line[: branch.num_candidates] for line, branch in zip(lines, branches, strict=True)]
