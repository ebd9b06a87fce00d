"""Baselines at play: they draw actions as they did when they learned, each episode with draws of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llmgym.baselines.drrn import DRRN
from llmgym.baselines.replay import read_state
from llmgym.baselines.symbolic_policy import SymbolicPolicy
from llmgym.baselines.vocabulary import Vocabulary
from llmgym.errors import EnvError

__all__ = ["DRRNAgent", "Shown", "SymbolicAgent", "describe_training"]


class Shown(Protocol):
    """What an agent is shown of one environment before it acts."""

    @property
    def env_index(self) -> int:
        """Which environment."""
        ...

    @property
    def mission(self) -> str:
        """What is to be done."""
        ...

    @property
    def text(self) -> str:
        """What is observed."""
        ...

    @property
    def actions(self) -> tuple[str, ...]:
        """The candidates."""
        ...

    @property
    def env(self) -> gym.Env[Any, Any] | None:
        """The environment itself, for an agent that needs it."""
        ...


class DRRNAgent:
    """Acts by softmax over the values of texts; forgets at once what it has seen.

    Args:
        network: trained.
        vocabulary: that it was trained with, closed: new words are all the same to it.
        temperature: of the softmax.
        training: on what it was trained, in a few words.
    """

    name = "DRRN"
    needs_env = False

    def __init__(self, network: DRRN, vocabulary: Vocabulary, temperature: float, training: str) -> None:
        self.training = training
        self._network = network
        self._vocabulary = vocabulary
        self._temperature = temperature
        self._draws: dict[int, Random] = {}

    def begin(self, situation: Shown, seed: int) -> None:
        """Start an episode's own draws."""
        self._draws[situation.env_index] = Random(seed)

    @torch.no_grad()
    def act(self, situations: Sequence[Shown]) -> list[int]:
        """Draw an action for each."""
        states = [read_state(self._vocabulary, one.mission, one.text, one.actions) for one in situations]
        probabilities = torch.softmax(self._network(states) / self._temperature, dim=1)
        return _draw(probabilities, [self._draws[one.env_index] for one in situations])


class SymbolicAgent:
    """Acts on minigrid's symbols, and remembers what it has seen of an episode.

    Args:
        policy: trained.
        vocabulary: of missions, closed.
        training: on what it was trained, in a few words.
    """

    name = "symbolic PPO"
    needs_env = True

    def __init__(self, policy: SymbolicPolicy, vocabulary: Vocabulary, training: str) -> None:
        self.training = training
        self._policy = policy
        self._vocabulary = vocabulary
        self._draws: dict[int, Random] = {}
        self._memories: dict[int, Tensor] = {}

    def begin(self, situation: Shown, seed: int) -> None:
        """Start an episode's own draws, and forget the last one there."""
        self._draws[situation.env_index] = Random(seed)
        self._memories[situation.env_index] = torch.zeros(self._policy.hidden_size)

    @torch.no_grad()
    def act(self, situations: Sequence[Shown]) -> list[int]:
        """Draw an action for each.

        Raises:
            EnvError: an environment shows no symbols.
        """
        images = torch.from_numpy(np.stack([_symbols(one.env) for one in situations]))
        missions = self._policy.read([self._vocabulary.encode(one.mission) for one in situations])
        memories = torch.stack([self._memories[one.env_index] for one in situations])
        # `begin` has emptied the memories of new episodes.
        begins = torch.zeros(1, len(situations), dtype=torch.bool)
        memories = self._policy.remember(self._policy.see(images, missions)[None], memories, begins)[0]
        for one, memory in zip(situations, memories, strict=True):
            self._memories[one.env_index] = memory
        return _draw(self._policy.answer(memories)[0].exp(), [self._draws[one.env_index] for one in situations])


def _symbols(env: gym.Env[Any, Any] | None) -> npt.NDArray[np.uint8]:
    """Return what the agent of a level sees: uint8 (7, 7, 3)."""
    level: Any = env.unwrapped if env is not None else None
    if not hasattr(level, "gen_obs"):
        raise EnvError(
            f"Expected a level of BabyAI, whose symbols this policy has learned to read, found {env}. "
            "Choose one with --env; `llmgym envs BabyAI` lists them."
        )
    image: npt.NDArray[np.uint8] = level.gen_obs()["image"]
    return image


def _draw(probabilities: Tensor, draws: Sequence[Random]) -> list[int]:
    """Draw an index from each row, with a generator of its own."""
    sums = probabilities.double().cumsum(dim=1).numpy()
    # Rounding may leave the last sum a little below 1, and candidates that are none behind it.
    return [
        int(np.searchsorted(row, draw.random() * row[-1], side="right")) for row, draw in zip(sums, draws, strict=True)
    ]


def describe_training(facts: Mapping[str, Any]) -> str:
    """Say on what a baseline was trained.

    >>> describe_training({"env": "llmgym/BabyAI-GoToLocal-v0", "env_settings": {}, "env_steps": 500000})
    'trained on llmgym/BabyAI-GoToLocal-v0, 500,000 env steps'
    """
    settings = ", ".join(f"{name}={value}" for name, value in facts["env_settings"].items())
    return f"trained on {facts['env']}{f' ({settings})' if settings else ''}, {facts['env_steps']:,} env steps"
