"""Inference: what the policy says now, without gradients, in micro-batches. Numpy out; knows no losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from llmgym.candidates import close_prefixes
from llmgym.errors import LearnerError
from llmgym.learner.evaluation import (
    draw_places,
    evaluate_draws,
    evaluate_head_at_draws,
    evaluate_heads,
    evaluate_scores,
)
from llmgym.learner.packing import Pack, build_pack
from llmgym.learner.policy import Policy
from llmgym.learner.ranks.rank import ALONE, Rank
from llmgym.learner.row import FreeTokens, Row, build_rows, group_rows
from llmgym.types import Acting, FloatArray, TokenIds, Trajectory, Turn

__all__ = [
    "infer_actions",
    "infer_draw_logprobs",
    "infer_draw_values",
    "infer_logprobs",
    "infer_scores",
    "infer_values",
    "pack_states",
    "pack_turns",
]

Prompt = npt.NDArray[np.int32]


def pack_turns(policy: Policy, turns: Sequence[Turn], acting: Acting, eos_token_id: int | None) -> list[Row]:
    """Pack turns with what they drew: free tokens, and candidates as actions are drawn among them.

    Args:
        policy: whose tokens and positions they must fit.
        turns: in the order they were taken, trajectory after trajectory.
        acting: how actions are drawn.
        eos_token_id: ends candidates that are a prefix of another, where acting is "constrained".

    Raises:
        LearnerError: a prompt is empty or does not fit the model, or a turn was not taken as acting says.
    """
    _check_ways(turns, acting)
    candidates = [turn.candidate_ids for turn in turns]
    if acting.how == "constrained":
        candidates = [close_prefixes(candidate_ids, eos_token_id) for candidate_ids in candidates]
    elif acting.how == "text":
        candidates = [()] * len(turns)
    free = [_free_tokens(turn, acting) for turn in turns]
    return pack_states(policy, [turn.prompt_ids for turn in turns], candidates, free)


def pack_states(
    policy: Policy,
    prompts: Sequence[Prompt],
    candidates: Sequence[tuple[TokenIds, ...]],
    free: Sequence[FreeTokens] | None = None,
) -> list[Row]:
    """Pack prompts and their candidates (none for a state that is only valued), and check that they fit the model."""
    rows = build_rows(prompts, candidates, free)
    policy.check_rows(rows)
    return rows


def infer_values(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    head: str,
    acting: Acting,
    max_tokens: int,
    *,
    rank: Rank = ALONE,
) -> list[FloatArray]:
    """Return what a head says of every state of every trajectory, however it was acted in: see `Learner.values`."""
    _check_head(policy, head)
    prompts: list[Prompt] = []
    for trajectory in trajectories:
        prompts += [turn.prompt_ids for turn in trajectory.turns]
        if trajectory.final_prompt_ids is not None:
            prompts.append(trajectory.final_prompt_ids)
    rows = pack_states(policy, prompts, [()] * len(prompts))
    lines = _lines(
        policy, rows, max_tokens, lambda pack: _rows_of(evaluate_heads(policy, pack)[head][:, None]), rank=rank
    )
    return _by_trajectory(trajectories, lines)


def infer_draw_values(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    head: str,
    acting: Acting,
    max_tokens: int,
    *,
    rank: Rank = ALONE,
) -> list[FloatArray]:
    """Return what a head says where every draw of every trajectory was drawn: float32 (num_draws + 1,) each.

    The last is the state after the last turn, 0 where that terminated the episode.
    """
    _check_head(policy, head)
    prompts: list[Prompt] = []
    free: list[FreeTokens] = []
    num_draws: list[int] = []
    for trajectory in trajectories:
        _check_ways(trajectory.turns, acting)
        prompts += [turn.prompt_ids for turn in trajectory.turns]
        free += [_free_tokens(turn, acting) for turn in trajectory.turns]
        num_draws += [len(turn.sampled_ids) + (acting.how != "text") for turn in trajectory.turns]
        if trajectory.final_prompt_ids is not None:
            prompts.append(trajectory.final_prompt_ids)
            free.append(FreeTokens())
            num_draws.append(1)
    rows = pack_states(policy, prompts, [()] * len(prompts), free)
    lines = _lines(
        policy, rows, max_tokens, lambda pack: _rows_of(evaluate_head_at_draws(policy, pack, head)), rank=rank
    )
    # Tables have as many columns as the micro-batch's longest answer needs: the action's stands last.
    drawn = [
        np.concatenate([line[: len(tokens.sampled_ids)], line[-1:]])[:count]
        for line, tokens, count in zip(lines, free, num_draws, strict=True)
    ]
    return _by_trajectory(trajectories, drawn)


def infer_draw_logprobs(
    policy: Policy,
    rows: Sequence[Row],
    turns: Sequence[Turn],
    acting: Acting,
    max_tokens: int,
    *,
    rank: Rank = ALONE,
) -> FloatArray:
    """Return float32 (num_draws,): the log-probability of every draw of every turn, turn after turn.

    Args:
        rows: the turns, packed.
        rank: which of those that compute it together this is.
    """
    actions = np.array([turn.action for turn in turns], np.int64)

    def evaluate_drawn(pack: Pack) -> list[FloatArray]:
        taken = torch.from_numpy(actions[pack.state_indices]).to(policy.device)
        logprobs, _ = evaluate_draws(policy, pack, acting).each(taken, draw_places(pack, acting))
        counts = [len(turns[state].sampled_ids) + (acting.how != "text") for state in pack.state_indices]
        return np.split(logprobs.cpu().numpy(), np.cumsum(counts)[:-1])

    return np.concatenate(_lines(policy, rows, max_tokens, evaluate_drawn, rank=rank))


def infer_actions(policy: Policy, rows: Sequence[Row], acting: Acting, max_tokens: int) -> list[FloatArray]:
    """Return the log-probability of every action, as it is drawn: float32 (num_candidates,) a state.

    Raises:
        LearnerError: actions are not drawn, but named by free text.
    """
    if acting.how == "text":
        raise LearnerError(
            "Expected a way to act that draws among actions, got how='text', in which an answer is drawn and then "
            "parsed: only what was said has a log-probability. Use Learner.logprobs."
        )
    lines = _lines(
        policy, rows, max_tokens, lambda pack: _rows_of(evaluate_draws(policy, pack, acting).action_logprobs)
    )
    return _cut(lines, rows)


def infer_logprobs(
    policy: Policy,
    rows: Sequence[Row],
    turns: Sequence[Turn],
    acting: Acting,
    max_tokens: int,
    *,
    rank: Rank = ALONE,
) -> FloatArray:
    """Return float32 (num_turns,): the log-probability of all that each turn drew, its action included.

    Args:
        rows: the turns, packed.
        rank: which of those that compute it together this is.
    """
    actions = np.array([turn.action for turn in turns], np.int64)

    def evaluate_taken(pack: Pack) -> list[FloatArray]:
        taken = torch.from_numpy(actions[pack.state_indices]).to(policy.device)
        return _rows_of(evaluate_draws(policy, pack, acting).logprobs(taken)[:, None])

    return np.array([line[0] for line in _lines(policy, rows, max_tokens, evaluate_taken, rank=rank)], np.float32)


def infer_scores(
    policy: Policy, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[TokenIds]], max_tokens: int
) -> list[FloatArray]:
    """Return log P(candidate | context), summed over tokens: float32 (num_candidates,) a context."""
    prompts = [np.asarray(context, np.int32) for context in contexts]
    rows = pack_states(policy, prompts, [tuple(map(tuple, ids)) for ids in candidates])
    return _cut(_lines(policy, rows, max_tokens, lambda pack: _rows_of(evaluate_scores(policy, pack))), rows)


@torch.no_grad()
def _lines(
    policy: Policy,
    rows: Sequence[Row],
    max_tokens: int,
    evaluate: Callable[[Pack], Sequence[FloatArray]],
    *,
    rank: Rank = ALONE,
) -> list[FloatArray]:
    """Evaluate micro-batch by micro-batch, each rank its share, and return a line for every state to all ranks.

    Args:
        evaluate: from a pack to a line for each of its states.
    """
    mine: dict[int, FloatArray] = {}
    for group in group_rows(rank.share(rows), max_tokens):
        pack = build_pack(group, dtype=policy.dtype, device=policy.device)
        mine.update(zip(pack.state_indices.tolist(), evaluate(pack), strict=True))
    everyone: dict[int, FloatArray] = {}
    for lines in rank.gather(mine):
        everyone.update(lines)
    return [everyone[state] for state in range(len(everyone))]


def _rows_of(table: torch.Tensor) -> list[FloatArray]:
    """Return the rows of a table (N, columns), on the CPU."""
    return list(table.cpu().numpy())


def _by_trajectory(trajectories: Sequence[Trajectory], lines: Sequence[FloatArray]) -> list[FloatArray]:
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


def _check_head(policy: Policy, head: str) -> None:
    if head not in policy.heads:
        found = ", ".join(policy.heads) or "none"
        raise LearnerError(f"Expected a head {head!r}, found: {found}. Pass heads={{{head!r}: ValueHead}} to Learner.")


def _cut(lines: Sequence[FloatArray], rows: Sequence[Row]) -> list[FloatArray]:
    """Cut the padding off: as many numbers a state as it has candidates."""
    branches = [branch for row in rows for branch in row.branches]
    return [line[: branch.num_candidates] for line, branch in zip(lines, branches, strict=True)]


def _free_tokens(turn: Turn, acting: Acting) -> FreeTokens:
    """Return what stands behind a turn's prompt. An answer's last token is predicted, and never read."""
    if acting.how == "text":
        return FreeTokens(turn.sampled_ids, turn.sampled_ids[:-1])
    return FreeTokens(turn.sampled_ids, (*turn.kept_ids, *turn.cue_ids))


def _check_ways(turns: Sequence[Turn], acting: Acting) -> None:
    """Refuse turns that were taken in another way than the learner thinks."""
    for number, turn in enumerate(turns):
        if acting.how in ("score", "constrained") and (turn.sampled_ids or turn.cue_ids):
            raise LearnerError(
                f"Expected turns without free tokens for how={acting.how!r}, but turn {number} has "
                f"{len(turn.sampled_ids)}. Give the learner the acting settings that the turns were collected with."
            )
        if acting.how == "text" and not turn.sampled_ids:
            raise LearnerError(
                f"Expected turns with the tokens of their answers for how='text', but turn {number} has none. Give the "
                "learner the acting settings that the turns were collected with."
            )
