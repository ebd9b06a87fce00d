"""The policy's reader: what the policy says now of what it is shown. Computes no gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgym.algorithms import Credit
from llmgym.algorithms.algorithm import Guides
from llmgym.learner import inference
from llmgym.learner.policy import Policy
from llmgym.learner.ranks.rank import Rank
from llmgym.learner.review import Review, review_trajectories
from llmgym.learner.row import Row
from llmgym.learner.state_rows import pack_turns
from llmgym.learner.threads import at_work
from llmgym.types import Acting, FloatArray, TokenIds, Trajectory, Turn

__all__ = ["PolicyReader"]


@dataclass(frozen=True, slots=True)
class PolicyReader:
    """Reads a policy, on as many threads and in as large micro-batches as it is given; see the methods of `Learner`.

    Attributes:
        policy: who is read.
        acting: how actions are drawn.
        max_tokens: of one forward pass, padding included.
        eos_token_id: ends candidates that are a prefix of another, where acting is "constrained".
        num_threads: torch's.
        rank: which of those that read together this is.
    """

    policy: Policy
    acting: Acting
    max_tokens: int
    eos_token_id: int | None
    num_threads: int
    rank: Rank

    def rows(self, turns: Sequence[Turn]) -> list[Row]:
        """Pack turns with their candidates, as actions are drawn among them."""
        return pack_turns(self.policy, turns, self.acting, self.eos_token_id)

    def values(self, trajectories: Sequence[Trajectory], head: str, credit: Credit) -> list[FloatArray]:
        """Return what a head says of every state of every trajectory."""
        with at_work(self.num_threads):
            return inference.infer_values(
                self.policy, trajectories, head, self.acting, self.max_tokens, credit=credit, rank=self.rank
            )

    def logprobs(self, turns: Sequence[Turn], credit: Credit) -> FloatArray:
        """Return the log-probability now of all that each turn drew, or of every "draw" of it."""
        with at_work(self.num_threads):
            return inference.infer_logprobs(
                self.policy, self.rows(turns), turns, self.acting, self.max_tokens, credit=credit, rank=self.rank
            )

    def review(self, trajectories: Sequence[Trajectory], head: str, credit: Credit) -> Review:
        """Return both, from one pass."""
        with at_work(self.num_threads):
            return review_trajectories(
                self.policy,
                trajectories,
                head,
                self.acting,
                self.max_tokens,
                eos_token_id=self.eos_token_id,
                credit=credit,
                rank=self.rank,
            )

    def action_logprobs(self, turns: Sequence[Turn], guide: Guides | None, beta: float) -> list[FloatArray]:
        """Return what actions are drawn from now, guided beta times by heads."""
        with at_work(self.num_threads):
            return inference.infer_actions(
                self.policy, self.rows(turns), self.acting, self.max_tokens, guide=guide, beta=beta
            )

    def scores(self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[TokenIds]]) -> list[FloatArray]:
        """Return log P(candidate | context)."""
        with at_work(self.num_threads):
            return inference.score_candidates(self.policy, contexts, candidates, self.max_tokens)
