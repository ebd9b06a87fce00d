"""Rows of turns and states: what was read and drawn, packed for the policy to read again. Computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmgym.candidates import close_prefixes
from llmgym.errors import LearnerError
from llmgym.learner.policy import Policy
from llmgym.learner.row import FreeTokens, Row, build_rows
from llmgym.types import Acting, TokenIds, Turn

__all__ = ["check_ways", "free_tokens", "pack_states", "pack_turns"]

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
    check_ways(turns, acting)
    candidates = [turn.candidate_ids for turn in turns]
    if acting.how == "constrained":
        candidates = [close_prefixes(candidate_ids, eos_token_id) for candidate_ids in candidates]
    elif acting.how == "text":
        candidates = [()] * len(turns)
    free = [free_tokens(turn, acting) for turn in turns]
    return pack_states(policy, [turn.prompt_ids for turn in turns], candidates, free)


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
