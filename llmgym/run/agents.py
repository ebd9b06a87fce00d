"""Agents: policies that are no language model, and what such a one must offer to be measured like the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym

__all__ = ["BASELINE_FILE", "Agent", "Situation"]

BASELINE_FILE = "baseline.json"
"""The file by which a folder shows that it holds a baseline: an object with at least "kind", such as "drrn"."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What an agent is shown of one environment before it acts.

    Attributes:
        env_index: which environment; an agent that remembers does so by this number.
        mission: what is to be done.
        text: what is observed.
        actions: the candidates; the agent answers with the index of one.
        env: the environment itself, where the agent `needs_env`; None elsewhere.
    """

    env_index: int
    mission: str
    text: str
    actions: tuple[str, ...]
    env: gym.Env[Any, Any] | None = None


class Agent(Protocol):
    """A policy that is no language model, over many environments at once.

    A baseline's trained folder is a policy of `llmgym eval` once it holds `baseline.json` (see `BASELINE_FILE`) and
    `llmgym.baselines.load_baseline(path)` makes an agent of it.

    """

    @property
    def name(self) -> str:
        """Return what tables call it, such as "DRRN"."""
        ...

    @property
    def training(self) -> str:
        """Return what it was trained on, and how long, in a few words; "not trained" where it learns nothing.

        Such as "trained on llmgym/BabyAI-MixedTrainLocal-v0, 1,500,000 env steps".
        """
        ...

    @property
    def needs_env(self) -> bool:
        """Return whether it looks into the environments themselves (`Situation.env`), which then step one by one.

        Without, they are stepped all at once, which is many times faster.
        """
        ...

    def begin(self, situation: Situation, seed: int) -> None:
        """An episode has just begun in an environment: forget the last one there.

        Args:
            seed: of whatever is drawn in this episode, so that it can be repeated.
        """
        ...

    def act(self, situations: Sequence[Situation]) -> Sequence[int]:
        """Return an action for each situation: the index of one of its candidates.

        Args:
            situations: of the environments that play now, in the order of their numbers; in each, the observation
                follows the action that was answered last.

        Raises:
            LLMGymError: the agent does not know what to do; nothing more is measured.
        """
        ...
