"""Review: what the policy says now of trajectories that it is about to learn from, from one pass over them.

The critic's values and the log-probabilities that a correction of stale turns needs are read off the same rows. Where
both are wanted, this is a forward pass less than `Learner.values` and `Learner.logprobs`. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmgym.algorithms.units import Credit
from llmgym.learner.evaluation import evaluate_past
from llmgym.learner.inference import check_head, infer_lines, join_values, num_drawn, units_of_line
from llmgym.learner.packing import Pack
from llmgym.learner.policy import Policy
from llmgym.learner.ranks.rank import ALONE, Rank
from llmgym.learner.state_rows import pack_trajectories
from llmgym.types import Acting, FloatArray, Trajectory, Turn

__all__ = ["Review", "review_trajectories"]


@dataclass(frozen=True, slots=True, eq=False)
class Review:
    """What the policy says of trajectories.

    Attributes:
        values: for each trajectory, float32 (num_units + 1,); as `Learner.values` gives them.
        logprobs: for each turn, trajectory after trajectory, float32 (num_units,); its part of `Learner.logprobs`.
    """

    values: list[FloatArray]
    logprobs: list[FloatArray]


def review_trajectories(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    head: str,
    acting: Acting,
    max_tokens: int,
    *,
    eos_token_id: int | None,
    credit: Credit = "turn",
    rank: Rank = ALONE,
) -> Review:
    """Review trajectories; see `Learner.review`.

    Args:
        policy: who says it.
        trajectories: at least one.
        head: reads states.
        acting: how actions are drawn.
        max_tokens: of one forward pass, padding included.
        eos_token_id: ends candidates that are a prefix of another, where acting is "constrained".
        credit: what a unit is.
        rank: which of those that compute it together this is.
    """
    check_head(policy, head)
    # None stands for a state that is only valued.
    states: list[Turn | None] = []
    for trajectory in trajectories:
        states += [*trajectory.turns, *([] if trajectory.final_prompt_ids is None else [None])]
    actions = np.array([0 if turn is None else turn.action for turn in states], np.int64)

    def evaluate(pack: Pack) -> list[tuple[FloatArray, FloatArray]]:
        taken = torch.from_numpy(actions[pack.state_indices]).to(policy.device)
        values, logprobs = evaluate_past(policy, pack, acting, taken, head, credit=credit)
        lines = zip(pack.state_indices, values.cpu().numpy(), logprobs.cpu().numpy(), strict=True)
        return [
            (_units(value, states[n], acting, credit), _units(line, states[n], acting, credit))
            for n, value, line in lines
        ]

    rows = pack_trajectories(policy, trajectories, acting, eos_token_id)
    lines = infer_lines(policy, rows, max_tokens, evaluate, rank=rank)
    return Review(
        join_values(trajectories, [values for values, _ in lines]),
        [logprobs for (_, logprobs), turn in zip(lines, states, strict=True) if turn is not None],
    )


def _units(line: FloatArray, turn: Turn | None, acting: Acting, credit: Credit) -> FloatArray:
    """Pick a state's units from its row of a table; of a state that is only valued, what stands last."""
    if credit == "turn" or turn is None:
        return line[-1:]
    return units_of_line(line, len(turn.sampled_ids), num_drawn(turn, acting))
