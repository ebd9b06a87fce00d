"""Rows of turns and states: what was read and drawn, packed for the policy to read again. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmgym.candidates import close_prefixes
from llmgym.errors import LearnerError
from llmgym.learner.policy import Policy
from llmgym.learner.row import NO_TOKENS, FreeTokens, Row, build_rows
from llmgym.types import Acting, TokenIds, Trajectory, Turn

__all__ = ["check_ways", "free_tokens", "pack_states", "pack_trajectories", "pack_turns"]

Prompt = npt.NDArray[np.int32]
State = tuple[Prompt, tuple[TokenIds, ...], FreeTokens]
"""A prompt, its candidates (none where it is only valued), and what stands between."""


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
    return _pack(policy, _states(turns, acting, eos_token_id))


def pack_trajectories(
    policy: Policy, trajectories: Sequence[Trajectory], acting: Acting, eos_token_id: int | None
) -> list[Row]:
    """Pack the turns of trajectories as `pack_turns` does, and behind each one's last the state that it led to.

    That state is only valued; it is there where its prompt is known.
    """
    states = []
    for trajectory in trajectories:
        states += _states(trajectory.turns, acting, eos_token_id)
        if trajectory.final_prompt_ids is not None:
            states.append((trajectory.final_prompt_ids, (), NO_TOKENS))
    return _pack(policy, states)


def _states(turns: Sequence[Turn], acting: Acting, eos_token_id: int | None) -> list[State]:
    """Return what was read and drawn in turns."""
    check_ways(turns, acting)
    return [(turn.prompt_ids, _drawn_among(turn, acting, eos_token_id), free_tokens(turn, acting)) for turn in turns]


def _drawn_among(turn: Turn, acting: Acting, eos_token_id: int | None) -> tuple[TokenIds, ...]:
    """Return the candidates as actions are drawn among them."""
    if acting.how == "text":
        return ()
    return close_prefixes(turn.candidate_ids, eos_token_id) if acting.how == "constrained" else turn.candidate_ids


def _pack(policy: Policy, states: Sequence[State]) -> list[Row]:
    prompts, candidates, free = zip(*states, strict=True) if states else ((), (), ())
    return pack_states(policy, prompts, candidates, free)


def pack_states(
    policy: Policy,
    prompts: Sequence[Prompt],
    candidates: Sequence[tuple[TokenIds, ...]],
    free: Sequence[FreeTokens] | None = None,
) -> list[Row]:
    """Pack prompts and their candidates (none for a state that is only valued), and check that they fit the model."""
    rows = build_rows(prompts, candidates, free, feeds_ends=policy.reads_candidates)
    policy.check_rows(rows)
    return rows


def free_tokens(turn: Turn, acting: Acting) -> FreeTokens:
    """Return what stands behind a turn's prompt. An answer's last token is predicted, and never read."""
    if acting.how == "text":
        return FreeTokens(turn.sampled_ids, turn.sampled_ids[:-1])
    return FreeTokens(turn.sampled_ids, (*turn.kept_ids, *turn.cue_ids))


def check_ways(turns: Sequence[Turn], acting: Acting) -> None:
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
