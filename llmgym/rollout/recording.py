"""Recording: whole episodes as texts, whoever plays them. Knows neither tokens nor files."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from llmgym.errors import EnvError
from llmgym.rollout.reward import checked_reward
from llmgym.text.histories import action_index, actions_of

__all__ = ["Column", "Episode", "Recorder"]

Column = tuple[str, ...] | npt.NDArray[Any]
"""One entry of the infos of an episode, a value for every observation: texts, or an array (num_steps + 1, ...)."""


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One whole episode in words. Observations number one more than steps.

    Attributes:
        seed: what the environment was reset with; None where nobody knows.
        mission: what the agent was to do.
        texts: num_steps + 1 texts; what was observed before every step, and after the last.
        candidates: for each of these observations, the texts of the actions open then.
        actions: num_steps; the index of every action taken among the candidates before it.
        rewards: float64 (num_steps,); of every step, as the environment gave it.
        terminations: bool (num_steps,); whether the step ended the episode by the environment's rules.
        truncations: bool (num_steps,); whether it ended it by a limit. Both may be True.
        infos: what else was known at every observation, by name. What belongs to a step stands at the observation that
            it led to.
    """

    seed: int | None
    mission: str
    texts: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]
    actions: tuple[int, ...]
    rewards: npt.NDArray[np.float64]
    terminations: npt.NDArray[np.bool_]
    truncations: npt.NDArray[np.bool_]
    infos: Mapping[str, Column] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """How many actions were taken."""
        return len(self.actions)


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keep the episodes of a text environment until they are taken.

    Of the infos, `Episode.infos` has what is a text, a number or an array of one shape at every observation.

    >>> env = Recorder(gym.make("llmgym/FrozenLake-v0", is_slippery=False))
    >>> env.reset(seed=7)[0]["mission"]
    'reach the goal in row 4, column 4 without falling into a hole.'
    >>> for action in (2, 1):
    ...     _, _, terminated, _, _ = env.step(action)
    >>> episode = env.take()
    >>> episode.seed, [episode.candidates[0][action] for action in episode.actions], episode.texts[-1]
    (7, ['go right', 'go down'], 'You stand on a hole in row 2, column 2, left: ice, down: ice, right: ice, up: ice')
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Record env, a text environment."""
        super().__init__(env)
        self._finished: deque[Episode] = deque()
        self._now: _Tape | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Begin an episode; one that is not over is forgotten."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._now = _Tape(seed, str(observation["mission"]))
        self._now.observe(observation, info)
        return observation, info

    def step(self, action: Any) -> tuple[dict[str, str], Any, bool, bool, dict[str, Any]]:
        """Take a step, and note it.

        Raises:
            EnvError: the action is a text that is none of `info["actions"]`, the reward is no finite number, or there
                is no episode.
        """
        if self._now is None:
            raise EnvError("Expected an episode to record a step of, found none. Reset the environment first.")
        index = action_index(action, self._now.candidates[-1])
        observation, reward, terminated, truncated, info = self.env.step(action)
        number = checked_reward(reward, self.env, None, len(self._now.actions))
        self._now.actions.append(index)
        self._now.outcomes.append((number, bool(terminated), bool(truncated)))
        self._now.observe(observation, info)
        if terminated or truncated:
            self._finished.append(self._now.episode())
            self._now = None
        return observation, reward, terminated, truncated, info

    def cut(self) -> Episode | None:
        """End the episode here, as if a limit had ended it with its last step; None where no step was taken."""
        tape, self._now = self._now, None
        if tape is None or not tape.actions:
            return None
        reward, terminated, _ = tape.outcomes[-1]
        tape.outcomes[-1] = (reward, terminated, True)
        return tape.episode()

    def take(self) -> Episode:
        """Hand out the oldest episode that is over; every episode once.

        Raises:
            EnvError: there is none.
        """
        if not self._finished:
            raise EnvError("Expected an episode that is over, found none. Step until it is terminated or truncated.")
        return self._finished.popleft()


class _Tape:
    """What was seen of an episode so far."""

    def __init__(self, seed: int | None, mission: str) -> None:
        self.candidates: list[tuple[str, ...]] = []
        self.actions: list[int] = []
        self.outcomes: list[tuple[float, bool, bool]] = []
        self._seed = seed
        self._mission = mission
        self._texts: list[str] = []
        self._infos: list[Mapping[str, Any]] = []

    def observe(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Note an observation."""
        self._texts.append(str(observation["text"]))
        self.candidates.append(actions_of(info))
        self._infos.append(info)

    def episode(self) -> Episode:
        """Return what was noted, now that it is over."""
        names = [name for name in self._infos[0] if name != "actions"]
        columns = {name: _column([info.get(name) for info in self._infos]) for name in names}
        rewards, terminations, truncations = zip(*self.outcomes, strict=True)
        return Episode(
            seed=self._seed,
            mission=self._mission,
            texts=tuple(self._texts),
            candidates=tuple(self.candidates),
            actions=tuple(self.actions),
            rewards=np.array(rewards, dtype=np.float64),
            terminations=np.array(terminations, dtype=np.bool_),
            truncations=np.array(truncations, dtype=np.bool_),
            infos={name: column for name, column in columns.items() if column is not None},
        )


def _column(values: Sequence[Any]) -> Column | None:
    """Return the values of an info as texts or as an array; None where they are neither."""
    if all(isinstance(value, str) for value in values):
        return tuple(values)
    if not all(isinstance(value, bool | int | float | np.number | np.bool_ | np.ndarray) for value in values):
        return None
    arrays = [np.asarray(value) for value in values]
    is_one_shape = len({array.shape for array in arrays}) == 1
    return np.stack(arrays) if is_one_shape and all(array.dtype.kind in "biuf" for array in arrays) else None
