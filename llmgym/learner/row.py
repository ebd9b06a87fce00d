"""A row: one sequence of tokens that answers for several turns at once. Numpy only; knows nothing of models.

Where prompts only grow, the prompts of an episode are prefixes of one trunk, and each turn's candidates are a branch
that hangs off the trunk where its prompt ends:

    trunk     a b c | d e f g | h i j
    branches        ^left     ^left    ^turn left ...

Tokens that were sampled freely are part of the trunk, each predicted where the one before it stands; the candidates
of such a turn hang off the end of what was read behind its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmgym.errors import LearnerError
from llmgym.learner.branch import EMPTY_BRANCH, Branch, IntArray, build_branch
from llmgym.types import TokenIds

__all__ = ["FreeTokens", "Row", "build_rows", "group_rows"]

PASS_TOKENS = 128
"""What a forward pass costs besides its tokens, in tokens: about as many are computed in the time that it takes to make
a pack and to start every kernel."""
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class FreeTokens:
    """What stands between a prompt and its candidates.

    Attributes:
        sampled_ids: tokens that were sampled freely behind the prompt, whose log-probabilities count.
        fed_ids: what the model reads behind the prompt before its candidates: begins with all of sampled_ids but,
            perhaps, the last.
    """

    sampled_ids: TokenIds = ()
    fed_ids: TokenIds = ()


NO_TOKENS = FreeTokens()


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Consecutive states (prompts) that one packed sequence answers for.

    Attributes:
        first_state: position of the row's first state in the list that was packed.
        trunk_ids: int32 (num_trunk,); the longest context; the other contexts and all prompts are its prefixes.
        prompt_lengths: int64 (num_states,); tokens of each state's prompt, never falling.
        context_lengths: int64 (num_states,); tokens of each state's prompt and of what is fed behind it, off whose end
            its branch hangs.
        num_free: int64 (num_states,); tokens that were sampled freely behind each prompt.
        free_ids: int64 (sum of num_free,); those tokens, state after state.
        branches: the branch of each state.
        num_fed: tokens that the branches add to the trunk.
    """

    first_state: int
    trunk_ids: npt.NDArray[np.int32]
    prompt_lengths: IntArray
    context_lengths: IntArray
    num_free: IntArray
    free_ids: IntArray
    branches: tuple[Branch, ...]
    num_fed: int

    @property
    def num_trunk(self) -> int:
        """Number of tokens of the trunk."""
        return len(self.trunk_ids)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that are computed, of the trunk and of the branches."""
        return self.num_trunk + self.num_fed

    @property
    def num_positions(self) -> int:
        """Longest sequence the model sees: a context with all tokens of a candidate but the last."""
        deepest = [int(branch.depths.max(initial=0)) for branch in self.branches]
        return int((self.context_lengths + deepest).max())

    @property
    def num_states(self) -> int:
        """Number of states the row answers for."""
        return len(self.branches)

    @property
    def state_indices(self) -> IntArray:
        """Return int64 (num_states,): positions of the row's states in the list that was packed."""
        return np.arange(self.first_state, self.first_state + self.num_states)


def build_rows(
    prompts: Sequence[npt.NDArray[np.int32]],
    candidates: Sequence[tuple[TokenIds, ...]],
    free: Sequence[FreeTokens] | None = None,
    *,
    feeds_ends: bool = False,
) -> list[Row]:
    """Pack states into rows, in order: a state joins the row before it where its prompt extends that row's trunk.

    Args:
        prompts: one int32 array (num_tokens,) a state.
        candidates: the candidates of each state as token ids; an empty tuple for a state that has none.
        free: what stands between each prompt and its candidates; None for nothing.
        feeds_ends: whether the model reads candidates to their end, for heads that read what it makes of them.

    Raises:
        LearnerError: a prompt is empty.
    """
    between = [NO_TOKENS] * len(prompts) if free is None else free
    contexts = [_behind(prompt, tokens.fed_ids) for prompt, tokens in zip(prompts, between, strict=True)]
    firsts = []
    for state, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise LearnerError(
                f"Expected every prompt to have a token, but prompt {state} is empty. Begin it with a first token."
            )
        if state == 0 or not _extends(prompt, contexts[state - 1]):
            firsts.append(state)
    rows = []
    for first, end in zip(firsts, [*firsts[1:], len(prompts)], strict=True):
        branches = tuple(
            build_branch(ids, feeds_ends=feeds_ends) if ids else EMPTY_BRANCH for ids in candidates[first:end]
        )
        rows.append(
            Row(
                first_state=first,
                trunk_ids=contexts[end - 1],
                prompt_lengths=np.array([len(prompt) for prompt in prompts[first:end]]),
                context_lengths=np.array([len(context) for context in contexts[first:end]]),
                num_free=np.array([len(tokens.sampled_ids) for tokens in between[first:end]]),
                free_ids=np.array([token for tokens in between[first:end] for token in tokens.sampled_ids], np.int64),
                branches=branches,
                num_fed=sum(branch.num_fed for branch in branches),
            )
        )
    return rows


def group_rows(rows: Sequence[Row], max_tokens: int, *, pass_tokens: int = PASS_TOKENS) -> list[list[Row]]:
    """Group rows into micro-batches of at most max_tokens tokens each, padding included, so that least is computed.

    Rows of like length go together, longest first; where to cut is the shortest path over all cuts. A row that is
    longer than the budget is a group of its own.

    Args:
        max_tokens: of a group: its number of rows times its longest trunk and its widest branches.
        pass_tokens: what a group costs besides its tokens, in tokens; a larger number makes fewer groups with more
            padding.
    """
    ordered = sorted(rows, key=lambda row: (-row.num_trunk, -row.num_fed, row.first_state))
    trunks = np.array([row.num_trunk for row in ordered], np.int64)
    feds = np.array([row.num_fed for row in ordered], np.int64)
    # least[n]: the cost of the first n rows, of which those from first_of_last[n] on are the last group.
    least = np.zeros(len(ordered) + 1, np.int64)
    first_of_last = np.zeros(len(ordered) + 1, np.int64)
    for end in range(1, len(ordered) + 1):
        widest = np.maximum.accumulate(feds[:end][::-1])[::-1]
        sizes = np.arange(end, 0, -1) * (trunks[:end] + widest)
        costs = np.where(sizes <= max_tokens, least[:end] + sizes + pass_tokens, NEVER)
        costs[end - 1] = least[end - 1] + sizes[end - 1] + pass_tokens
        first_of_last[end] = np.argmin(costs)
        least[end] = costs[first_of_last[end]]
    groups: list[list[Row]] = []
    end = len(ordered)
    while end > 0:
        first = int(first_of_last[end])
        groups.append(ordered[first:end])
        end = first
    return groups[::-1]


def _extends(prompt: npt.NDArray[np.int32], shorter: npt.NDArray[np.int32]) -> bool:
    """Tell whether a prompt begins with another, or equals it."""
    return len(prompt) >= len(shorter) and bool(np.array_equal(prompt[: len(shorter)], shorter))


def _behind(prompt: npt.NDArray[np.int32], fed_ids: TokenIds) -> npt.NDArray[np.int32]:
    """Return a prompt with tokens behind it."""
    return np.concatenate([prompt, np.array(fed_ids, np.int32)]) if fed_ids else prompt
