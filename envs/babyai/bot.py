"""The expert of BabyAI: minigrid's planning bot, as a policy over the actions of a text level."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.utils.baby_ai_bot import BabyAIBot

from llmgym.envs.babyai.batch_view import SIDE
from llmgym.envs.babyai.text_level import ACTIONS, TextLevel
from llmgym.errors import EnvError

__all__ = ["Bot"]

_MAX_SEARCHES = 200
"""Searches for a path in one step; where the bot finds a way it takes fewer than ten, where it does not, no end."""


class Bot:
    """Solve one episode of a BabyAI level; make a new one after every reset.

    It plans with what the agent has seen so far and the mission's own objects, not with the texts. It solves nearly all
    episodes of nearly all levels: it gives up on PutNext...Carrying and KeyInBox, and OpenDoorsOrder...Debug may end
    without a reward.

    >>> env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0")
    >>> observation, info = env.reset(seed=2)
    >>> bot, action, is_over, actions = Bot(env), None, False, []
    >>> while not is_over:
    ...     action = bot.act(action)
    ...     _, reward, terminated, truncated, _ = env.step(action)
    ...     is_over = terminated or truncated
    ...     actions.append(info["actions"][action])
    >>> len(actions), round(reward, 3)
    (6, 0.916)
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Look at the episode that env is in; from then on env must be stepped as it stands, not what it wraps.

        Raises:
            EnvError: env is no BabyAI level, or was never reset, or the bot does not know missions of this sort.
        """
        level = env.unwrapped
        if not isinstance(level, RoomGridLevel):
            raise EnvError(f"Expected a BabyAI level, got {env}. The bot plans in these only.")
        if not hasattr(level, "instrs"):
            raise EnvError(
                f"Expected {env} to be in an episode, but it was never reset. Call env.reset(seed=...) first."
            )
        self._level: Any = level
        try:
            self._planner: Any = BabyAIBot(env)
        except Exception as failure:
            raise self._give_up(failure) from failure
        self._told = _text_level(env)
        if self._told is not None:
            self._planner._process_obs = self._see
        self._search = self._planner._breadth_first_search
        self._planner._breadth_first_search = self._search_within_limit
        self._num_searches = 0

    def act(self, previous_action: int | None = None) -> int:
        """Return the next action, an index into the texts of `info["actions"]`.

        Args:
            previous_action: what was done since the last call, None where that was the bot's own answer.

        Raises:
            EnvError: the bot finds no way to fulfil the mission.
        """
        self._num_searches = 0
        try:
            action = int(self._planner.replan(previous_action))
        except Exception as failure:
            # The planner gives up with whatever its search runs into: assertions, lookups, its own errors.
            raise self._give_up(failure) from failure
        if action >= len(ACTIONS):
            raise self._give_up("it takes the mission for done although the episode goes on")
        return action

    def _see(self) -> None:
        """Remember which cells are in view, as the planner does, but from the view that was told: it makes one anew."""
        level, seen = self._level, self._planner.vis_mask
        assert self._told is not None, "only there is this called"
        across, ahead = np.nonzero(self._told.view[..., 0])
        corner = level.agent_pos + level.dir_vec * (SIDE - 1) - level.right_vec * (SIDE // 2)
        cells = corner + np.outer(across, level.right_vec) - np.outer(ahead, level.dir_vec)
        inside = ((cells >= 0) & (cells < seen.shape)).all(axis=1)
        seen[tuple(cells[inside].T)] = True

    def _search_within_limit(self, *args: Any, **settings: Any) -> Any:
        # The planner can pile up sub-goals that wait for each other, in a loop without an end.
        self._num_searches += 1
        if self._num_searches > _MAX_SEARCHES:
            raise EnvError("it plans in circles")
        return self._search(*args, **settings)

    def _give_up(self, reason: object) -> EnvError:
        if isinstance(reason, Exception) and not isinstance(reason, EnvError):
            reason = f"{type(reason).__name__} {reason}".strip()
        return EnvError(
            f"Expected the bot to solve {self._level.spec.id if self._level.spec else self._level}, mission "
            f"{self._level.mission!r}, but it gives up at step {self._level.step_count} ({reason}). "
            "Skip this episode, or take another level."
        )


def _text_level(env: gymnasium.Env[Any, Any]) -> TextLevel | None:
    """Return what tells an environment's level as text; None where nothing does."""
    while isinstance(env, gymnasium.Wrapper) and not isinstance(env, TextLevel):
        env = env.env
    return env if isinstance(env, TextLevel) else None
