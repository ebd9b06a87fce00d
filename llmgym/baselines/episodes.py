"""Episodes of many environments, one after another, each with a seed of its own. Knows no agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

__all__ = ["EpisodeStream", "Step"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What N environments made of their actions.

    Attributes:
        observations: of each, after the action: the last of its episode where that ended.
        actions: the candidates that go with it.
        rewards: float64 (N,).
        terminated: bool (N,); whether the episode ended by the environment's rules.
        truncated: bool (N,); whether it ended by a limit outside of them.
    """

    observations: dict[str, Any]
    actions: tuple[tuple[str, ...], ...]
    rewards: Floats
    terminated: Bools
    truncated: Bools

    @property
    def is_over(self) -> Bools:
        """Bool (N,): where the episode ended."""
        over: Bools = self.terminated | self.truncated
        return over


class EpisodeStream:
    """Steps environments, follows every episode that ends with the next one, and counts how they went.

    The episodes that end first are the short ones, which are mostly successes. So `told` says nothing before every
    environment has ended one, and then tells of all of them.

    Attributes:
        observations: of each environment now.
        actions: the candidates of each environment now.
        begins: bool (N,); whether an environment's episode begins with this observation.
    """

    def __init__(self, venv: VectorEnv[Any, Any, Any], episode_seed: Callable[[int, int], int]) -> None:
        """Begin an episode in every environment.

        Args:
            venv: resets by mask only (autoreset is disabled).
            episode_seed: (env_index, how many episodes that environment has begun) -> seed of its next one.
        """
        self._venv = venv
        self._takes_indices = hasattr(venv.single_action_space, "n")
        self._episode_seed = episode_seed
        self._num_begun = np.zeros(venv.num_envs, dtype=np.int64)
        self._returns = np.zeros(venv.num_envs)
        self._lengths = np.zeros(venv.num_envs, dtype=np.int64)
        self._awaited = np.ones(venv.num_envs, dtype=np.bool_)
        self._ended: list[tuple[float, int]] = []
        self._num_told = 0
        self.observations: dict[str, Any] = {}
        self.actions: list[tuple[str, ...]] = [()] * venv.num_envs
        self.begins: Bools = np.ones(venv.num_envs, dtype=np.bool_)
        self._begin(self.begins)

    @property
    def num_envs(self) -> int:
        """How many environments there are."""
        return self._venv.num_envs

    def step(self, chosen: npt.NDArray[np.int64]) -> Step:
        """Take an action in every environment; where an episode ends by it, the next one begins.

        Args:
            chosen: int64 (N,); indices into the candidates of each environment.
        """
        actions: Any = chosen
        if not self._takes_indices:
            actions = tuple(known[index] for known, index in zip(self.actions, chosen.tolist(), strict=True))
        observations, rewards, terminated, truncated, infos = self._venv.step(actions)
        self._hear(infos, np.ones(self.num_envs, dtype=np.bool_))
        step = Step(observations, tuple(self.actions), rewards, terminated, truncated)
        self.observations, self.begins = observations, step.is_over
        self._returns += rewards
        self._lengths += 1
        over = np.flatnonzero(step.is_over)
        self._ended += zip(self._returns[over].tolist(), self._lengths[over].tolist(), strict=True)
        self._returns[over], self._lengths[over], self._awaited[over] = 0.0, 0, False
        self._begin(step.is_over)
        return step

    def told(self) -> dict[str, float]:
        """Return success rate (return above 0), mean return and mean length of the episodes since the last answer."""
        told: dict[str, float] = {"episodes": len(self._ended) - self._num_told}
        self._num_told = len(self._ended)
        if self._awaited.any() or not self._ended:
            return told
        returns, lengths = np.array(self._ended).T
        self._ended, self._num_told = [], 0
        return {
            **told,
            "success": float(np.mean(returns > 0)),
            "return": float(np.mean(returns)),
            "episode_turns": float(np.mean(lengths)),
        }

    def _begin(self, mask: Bools) -> None:
        """Reset the environments of a mask."""
        if not mask.any():
            return
        seeds = [0] * self.num_envs
        for index in np.flatnonzero(mask).tolist():
            seeds[index] = self._episode_seed(index, int(self._num_begun[index]))
        self._num_begun += mask
        options = {} if mask.all() else {"reset_mask": mask}
        # A vector takes a list of seeds too, which its annotation does not say (gymnasium 1.4).
        self.observations, infos = self._venv.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self._hear(infos, mask)

    def _hear(self, infos: dict[str, Any], mask: Bools) -> None:
        """Take over the candidates of some environments; where an episode is over for good, there may be none."""
        known = infos.get("actions")
        for index in np.flatnonzero(mask).tolist():
            self.actions[index] = known[index] if known is not None and known[index] is not None else ()
