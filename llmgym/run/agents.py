"""Agents: policies that are no language model, and what such a one must offer to be measured like the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import gymnasium as gym

from llmgym.errors import ConfigError, EnvError

if TYPE_CHECKING:
    from llmgym.rollout.demonstrations import Expert

__all__ = ["BASELINE_FILE", "EXPERTS", "RANDOM", "Agent", "ExpertAgent", "GivesUp", "RandomAgent", "Situation"]
__all__ += ["find_agent"]

RANDOM = "random"
"""Names the policy to which every action is equally likely."""
EXPERTS = ("bot", "expert")
"""Name the environment's own expert: BabyAI's bot, or a planner where there is one."""
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


@dataclass(frozen=True, slots=True)
class GivesUp:
    """An agent's answer where it knows no action: the episode ends there, and counts as a failure.

    Attributes:
        reason: in a sentence.
    """

    reason: str


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

    def act(self, situations: Sequence[Situation]) -> Sequence[int | GivesUp]:
        """Return an action for each situation, the index of one of its candidates, or that it gives the episode up.

        Args:
            situations: of the environments that play now, in the order of their numbers; in each, the observation
                follows the action that was answered last.
        """
        ...


class RandomAgent:
    """Takes every action as often as any other."""

    name = RANDOM
    training = "not trained"
    needs_env = False

    def __init__(self) -> None:
        self._draws: dict[int, Random] = {}

    def begin(self, situation: Situation, seed: int) -> None:
        """Start an episode's own draws."""
        self._draws[situation.env_index] = Random(seed)

    def act(self, situations: Sequence[Situation]) -> list[int]:
        """Draw an action for each."""
        return [self._draws[one.env_index].randrange(len(one.actions)) for one in situations]


class ExpertAgent:
    """Does what an environment's expert does; where the expert gives up, so does it."""

    training = "not trained: it plans inside the environment"
    needs_env = True

    def __init__(self, expert: Expert) -> None:
        self.name = expert.name
        self._expert = expert
        self._acts: dict[int, Callable[[], int] | GivesUp] = {}

    def begin(self, situation: Situation, seed: int) -> None:
        """Let a new expert look at the episode."""
        assert situation.env is not None, "an agent that needs the environment is given it"
        try:
            self._acts[situation.env_index] = self._expert.begin(situation.env)
        except EnvError as failure:
            self._acts[situation.env_index] = GivesUp(str(failure))

    def act(self, situations: Sequence[Situation]) -> list[int | GivesUp]:
        """Ask each episode's expert."""
        return [_answer(self._acts[one.env_index]) for one in situations]


def find_agent(policy: str, env_id: str, env_settings: Mapping[str, Any]) -> Agent | None:
    """Return the agent that a policy's name stands for; None where it names none, but a model or a run.

    Args:
        policy: "random", "bot" (or "expert") for the environment's own expert, or the folder of a baseline.
        env_id: what is to be played.
        env_settings: its keyword arguments.

    Raises:
        LLMGymError: the environment has no expert, or the baseline cannot be read.
    """
    if policy == RANDOM:
        return RandomAgent()
    if (Path(policy) / BASELINE_FILE).is_file():
        from llmgym.baselines import load_baseline

        agent: Agent = load_baseline(Path(policy))
        return agent
    if policy not in EXPERTS:
        return None
    from llmgym.run.showing import find_expert

    expert = find_expert(env_id, env_settings)
    if expert is None:
        raise ConfigError(
            f"Expected an environment that has an expert, for the policy {policy!r}, found {env_id!r}, which has none. "
            "Take another policy, or a level of BabyAI."
        )
    return ExpertAgent(expert)


def _answer(act: Callable[[], int] | GivesUp) -> int | GivesUp:
    if isinstance(act, GivesUp):
        return act
    try:
        return act()
    except EnvError as failure:
        return GivesUp(str(failure))
