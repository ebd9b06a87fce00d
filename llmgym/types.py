"""The records that cross layers, and the Engine protocol. Knows numpy only: neither torch nor vllm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = [
    "Acting",
    "Batch",
    "Choice",
    "Context",
    "Engine",
    "FloatArray",
    "Generation",
    "How",
    "NamedTensors",
    "Normalize",
    "Scores",
    "TokenIds",
    "Tokenizer",
    "Trajectory",
    "Turn",
]

TokenIds = tuple[int, ...]
FloatArray = npt.NDArray[np.float32]
Context = str | Sequence[int] | npt.NDArray[np.int32]
"""A text, or its token ids."""
Normalize = Literal["sum", "mean", "none"]
How = Literal["score", "constrained"]
NamedTensors = Iterable[tuple[str, Any]]
"""Pairs of parameter name (as the Hugging Face model names it) and torch tensor."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that llmgym uses."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        ...


@dataclass(frozen=True, slots=True)
class Acting:
    """How an action is drawn from a model's log-probabilities: the behaviour policy, in three numbers.

    The engine that samples and the learner that recomputes both take this record, so that they cannot differ.

    Attributes:
        how: "score" is the softmax over the candidates' sequence log-probabilities; "constrained" goes token by
            token along the trie of the candidates, renormalised at each node.
        normalize: for "score", whether a candidate's log-probability is the "sum" or the "mean" over its tokens.
        temperature: divides the log-probabilities before the softmax; 0 takes the best candidate.
    """

    how: How = "score"
    normalize: Normalize = "sum"
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One action taken among candidates.

    Attributes:
        index: position of the action among the candidates.
        logprob: its log-probability under the distribution it was drawn from (the behaviour log-probability).
        logprobs: float32 (num_candidates,); log-probability of every candidate under that distribution.
        candidate_ids: token ids of every candidate, as they were scored.
        policy_version: version of the weights that answered.
    """

    index: int
    logprob: float
    logprobs: FloatArray
    candidate_ids: tuple[TokenIds, ...]
    policy_version: int


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
        logprob: behaviour log-probability of the action.
        reward: reward of the step that followed (unscaled, as the environment gave it).
        terminated: whether the step ended the episode by the rules of the environment.
        truncated: whether the step ended the episode by a limit outside of them.
        policy_version: version of the weights that chose.
    """

    prompt_ids: npt.NDArray[np.int32]
    candidate_ids: tuple[TokenIds, ...]
    action: int
    logprob: float
    reward: float
    terminated: bool
    truncated: bool
    policy_version: int


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """A stretch of one episode: consecutive turns, to the episode's end or to where collection stopped.

    Attributes:
        turns: at least one turn; only the last may be terminated or truncated.
        final_prompt_ids: int32 (num_tokens,); the prompt of the state after the last turn, from whose value the
            return is bootstrapped. None where the last turn terminated the episode.
        env_index: which environment of the vector.
        seed: what the episode was reset with.
    """

    turns: tuple[Turn, ...]
    final_prompt_ids: npt.NDArray[np.int32] | None
    env_index: int = 0
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What the learner learns from: turns in the order they were taken, trajectory after trajectory.

    Attributes:
        turns: num_turns turns.
        advantages: float32 (num_turns,).
        returns: float32 (num_turns,); regression target of the value head.
        values: float32 (num_turns,); the value head's prediction when the batch was made.
    """

    turns: tuple[Turn, ...]
    advantages: FloatArray
    returns: FloatArray
    values: FloatArray


@runtime_checkable
class Engine(Protocol):
    """Who answers: scores candidates, chooses among them, generates text, and takes new weights while running.

    An engine is a context manager. Contexts are texts or token ids; candidates are texts, or token ids where they
    were tokenized before; contexts and candidates are tokenized apart, without special tokens.
    """

    tokenizer: Any
    version: int
    """Policy version: 0 at the start, then what the last swap said."""
    max_context_tokens: int

    def score(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        normalize: Normalize = "sum",
    ) -> Scores:
        """Return log P(candidate | context) of every candidate of every context.

        Raises:
            EngineError: a list is empty or the lengths differ, or a context does not fit into the model.
        """
        ...

    def choose(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        how: How = "score",
        temperature: float = 1.0,
        seed: int | Sequence[int] | None = None,
        *,
        normalize: Normalize = "sum",
    ) -> list[Choice]:
        """Draw one candidate for every context.

        Args:
            seed: one seed for the call, or one a context (then a context's draw does not depend on its batch).
        """
        ...

    def generate(
        self,
        contexts: Sequence[Context],
        max_new_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> list[list[Generation]]:
        """Sample n answers for every context."""
        ...

    def load_adapter(self, path: str, version: int) -> None:
        """Serve the PEFT adapter of a folder from now on, on top of the base weights."""
        ...

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Replace all weights from now on."""
        ...

    def close(self) -> None:
        """Free what the engine holds; a second call does nothing."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc_info: object) -> None: ...
