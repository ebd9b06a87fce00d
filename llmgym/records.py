"""The records that cross layers: what is asked of a policy, what it answers, and what is learned from.

Knows numpy only. Everybody imports them from `llmgym.types`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "NO_VERSION",
    "Acting",
    "Batch",
    "Choice",
    "FloatArray",
    "Generation",
    "How",
    "Normalize",
    "Scores",
    "Steps",
    "TokenIds",
    "Trajectory",
    "Turn",
]

TokenIds = tuple[int, ...]
FloatArray = npt.NDArray[np.float32]
Normalize = Literal["sum", "mean", "none"]
How = Literal["score", "constrained", "text", "reason"]
NO_VERSION = -1
"""Policy version of what no policy did: of a demonstration."""


@dataclass(frozen=True, slots=True)
class Acting:
    """How an action is drawn from a model's log-probabilities: the behaviour policy.

    The engine that samples and the learner that recomputes both take this record, so that they cannot differ.

    Attributes:
        how: "score" is the softmax over the candidates' sequence log-probabilities; "constrained" goes token by
            token along the trie of the candidates, renormalised at each node; "text" writes freely, and what was
            written is parsed; "reason" writes a thought freely, then draws a candidate as "score" does.
        normalize: for "score" and "reason", whether a candidate's log-probability is the "sum" or the "mean" over
            its tokens.
        temperature: divides the log-probabilities before every softmax; 0 takes the best candidate.
        ends_candidates: whether a candidate's log-probability includes the end of the sequence behind it.
        max_new_tokens: longest answer of "text" and longest thought of "reason", in tokens.
        stop: texts that end an answer or a thought.
        cue: put behind the thought of "reason", before the action.
        fallback: the action taken where an answer of "text" cannot be parsed; the first action if it is not among
            those of the state.
        parser: "module:function" of the `Parser` that finds the action in an answer of "text"; where it is empty, the
            action that the answer is or begins with, white space and case aside.
    """

    how: How = "score"
    normalize: Normalize = "sum"
    temperature: float = 1.0
    ends_candidates: bool = False
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ("\n",)
    cue: str = "\nAction:"
    fallback: str = ""
    parser: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One action taken among candidates.

    Attributes:
        index: position of the action among the candidates.
        logprob: log-probability of all that was sampled to take it, under the distribution it was drawn from (the
            behaviour log-probability): of the action, and of the free tokens before it.
        logprobs: float32 (num_candidates,); log-probability of every candidate under that distribution, given the
            free tokens; NaN where it was not computed ("constrained" knows those along the path it took, "text" none).
        candidate_ids: token ids of every candidate, as they were scored.
        policy_version: version of the weights that answered.
        sampled_ids: free tokens: the answer of "text", the thought of "reason"; () otherwise.
        cue_ids: tokens put behind the thought, which were not sampled.
        text: the free tokens as text.
        is_parsed: whether the action is what the model said; False where it is the fallback.
        is_ended: whether the last free token is the end of the sequence. It was sampled and counts, but whatever is
            read after it goes on without it.
        draw_logprobs: behaviour log-probability of every draw, where there were several: of each free token, and then
            of the action, unless the answer named it; () where the action was the only draw. They add up to logprob.
    """

    index: int
    logprob: float
    logprobs: FloatArray
    candidate_ids: tuple[TokenIds, ...]
    policy_version: int
    sampled_ids: TokenIds = ()
    cue_ids: TokenIds = ()
    text: str = ""
    is_parsed: bool = True
    is_ended: bool = False
    draw_logprobs: tuple[float, ...] = ()

    @property
    def kept_ids(self) -> TokenIds:
        """Free tokens as they stand in what is read after them: without the end of the sequence."""
        return self.sampled_ids[:-1] if self.is_ended else self.sampled_ids


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled answer.

    Attributes:
        text: the answer without the stop string that ended it.
        token_ids: what was sampled, the end-of-sequence token included if it was sampled.
        logprobs: float32 (num_tokens,); log-probability of each sampled token after temperature.
        finish_reason: "stop" (end of sequence or a stop string) or "length" (max_new_tokens).
        policy_version: version of the weights that answered.
    """

    text: str
    token_ids: TokenIds
    logprobs: FloatArray
    finish_reason: Literal["stop", "length"]
    policy_version: int


class Scores(list[Any]):
    """Log-probabilities of candidates, one entry a context, with the policy version that gave them.

    Each entry is a float32 array (num_candidates,), or, with ``normalize="none"``, a list of float32 arrays
    (num_tokens,), one a candidate.
    """

    def __init__(self, entries: Iterable[Any], policy_version: int) -> None:
        super().__init__(entries)
        self.policy_version = policy_version


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One decision of the agent, and what the environment made of it.

    Attributes:
        prompt_ids: int32 (num_tokens,); what the model saw.
        candidate_ids: token ids of every candidate, as they were scored.
        action: index of the candidate taken.
        logprob: behaviour log-probability of all that was sampled: of the action and the free tokens before it.
        reward: reward of the step that followed (unscaled, as the environment gave it).
        terminated: whether the step ended the episode by the rules of the environment.
        truncated: whether the step ended the episode by a limit outside of them.
        policy_version: version of the weights that chose; `NO_VERSION` where none did, but a demonstrator.
        sampled_ids: tokens that were sampled freely before the action: the answer of "text", the thought of "reason".
        cue_ids: tokens put behind a thought, which were not sampled.
        is_parsed: False where an answer of "text" named no action, and the fallback was taken.
        is_ended: whether the last of the sampled tokens is the end of the sequence, without which cue and later prompts
            go on.
        draw_logprobs: behaviour log-probability of every draw where there were several, as in `Choice`.
        state_key: names the state of the environment that the turn was taken in: the same for equal states.
    """

    prompt_ids: npt.NDArray[np.int32]
    candidate_ids: tuple[TokenIds, ...]
    action: int
    logprob: float
    reward: float
    terminated: bool
    truncated: bool
    policy_version: int
    sampled_ids: TokenIds = ()
    cue_ids: TokenIds = ()
    is_parsed: bool = True
    is_ended: bool = False
    draw_logprobs: tuple[float, ...] = ()
    state_key: int = 0

    @property
    def kept_ids(self) -> TokenIds:
        """Free tokens as they stand in what is read after them: without the end of the sequence."""
        return self.sampled_ids[:-1] if self.is_ended else self.sampled_ids

    @property
    def num_draws(self) -> int:
        """How often something was drawn: every free token, and the action unless an answer named it."""
        return max(1, len(self.draw_logprobs))


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """A stretch of one episode: consecutive turns, to the episode's end or to where collection stopped.

    Attributes:
        turns: at least one turn, unless the episode was given up; only the last may be terminated or truncated.
        final_prompt_ids: int32 (num_tokens,); the prompt of the state after the last turn, from whose value the
            return is bootstrapped. None where the last turn terminated the episode, or where it was given up.
        env_index: which environment of the vector.
        seed: what the episode was reset with.
        given_up: why the episode was given up before its environment ended it; "" where it was not. Only an evaluation
            gives up; what is learned from never was.
    """

    turns: tuple[Turn, ...]
    final_prompt_ids: npt.NDArray[np.int32] | None
    env_index: int = 0
    seed: int | None = None
    given_up: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What followed every turn of a batch, for algorithms that learn from one state to the next.

    Attributes:
        rewards: float32 (num_turns,); scaled.
        gamma: discount a turn.
        next_prompts: int32 (num_tokens,) a turn; the prompt of the state after it, None where the turn terminated the
            episode, or where that state is not known.
    """

    rewards: FloatArray
    gamma: float
    next_prompts: tuple[npt.NDArray[np.int32] | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What the learner learns from: turns in the order they were taken, trajectory after trajectory.

    Credit is given to units: to turns, or, by algorithms that want it, to every draw of every turn.

    Attributes:
        turns: num_turns turns.
        advantages: float32 (num_units,).
        returns: float32 (num_units,); regression target of the value head.
        values: float32 (num_units,); the value head's prediction when the batch was made.
        trajectory_turns: number of turns of every trajectory, adding up to num_turns; None for one turn each.
        metrics: what else was found when the batch was made, by name.
        weights: float32 (num_units,); importance weight of every unit, at least 0, 1 where the policy that learns drew
            it; None for 1 everywhere.
        proximal_logprobs: float32 (num_units,); log-probability of every unit by the policy that ratios are measured
            against, where that is not the one that drew; None for the behaviour log-probabilities.
        steps: what followed every turn; None unless the algorithm asks for it.
    """

    turns: tuple[Turn, ...]
    advantages: FloatArray
    returns: FloatArray
    values: FloatArray
    trajectory_turns: tuple[int, ...] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: FloatArray | None = None
    proximal_logprobs: FloatArray | None = None
    steps: Steps | None = None
