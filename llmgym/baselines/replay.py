"""Replay memory: what happened, to be learned from again in another order. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmgym.baselines.vocabulary import Vocabulary
from llmgym.errors import LearnerError

__all__ = ["ReplayMemory", "State", "Transition", "Words", "read_state"]

Words = tuple[int, ...]
"""A text as ids of words."""


@dataclass(frozen=True, slots=True)
class State:
    """What an agent knows before it acts.

    Attributes:
        mission: what is to be done.
        sentences: what is observed.
        actions: the candidates.
    """

    mission: Words
    sentences: tuple[Words, ...]
    actions: tuple[Words, ...]


@dataclass(frozen=True, slots=True)
class Transition:
    """One step.

    Attributes:
        state: before it.
        action: index of the candidate that was taken.
        reward: that followed.
        next_state: after it; where the episode was cut off, the last one that was seen.
        terminated: whether the episode ended by the environment's rules: then nothing is to come.
    """

    state: State
    action: int
    reward: float
    next_state: State
    terminated: bool


def read_state(vocabulary: Vocabulary, mission: str, text: str, actions: Sequence[str]) -> State:
    """Number the words of what an environment shows."""
    known = tuple(vocabulary.encode(action) for action in actions)
    return State(vocabulary.encode(mission), vocabulary.encode_sentences(text), known)


class ReplayMemory:
    """Keeps the newest transitions, a ring: the oldest makes room when it is full (Lin 1992)."""

    def __init__(self, capacity: int) -> None:
        """Begin empty, with room for so many."""
        self._capacity = capacity
        self._transitions: list[Transition] = []
        self._oldest = 0

    def __len__(self) -> int:
        return len(self._transitions)

    def add(self, transition: Transition) -> None:
        """Keep a transition."""
        if len(self) < self._capacity:
            self._transitions.append(transition)
            return
        self._transitions[self._oldest] = transition
        self._oldest = (self._oldest + 1) % self._capacity

    def sample(self, num_transitions: int, generator: np.random.Generator) -> list[Transition]:
        """Draw different transitions, each as likely as any other.

        Raises:
            LearnerError: there are not so many.
        """
        if num_transitions > len(self):
            raise LearnerError(f"Expected at least {num_transitions} transitions to draw from, got {len(self)}.")
        drawn = generator.choice(len(self), num_transitions, replace=False)
        return [self._transitions[index] for index in drawn.tolist()]
