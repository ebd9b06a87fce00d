"""Demonstrations: what an expert does, as trajectories in the learner's own prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym

from llmgym.text.histories import Histories, as_vector
from llmgym.text.prompt import Prompt
from llmgym.types import Trajectory, Turn

__all__ = ["Expert", "demonstrate"]

Expert = Callable[[gym.Env[Any, Any]], Callable[[], int]]
"""Given an environment that was just reset, a function that returns the expert's next action."""


def demonstrate(
    env: gym.Env[Any, Any], expert: Expert, seeds: Iterator[int], num_episodes: int, make: Callable[[], Prompt]
) -> Iterator[Trajectory]:
    """Yield episodes that the expert solved; those in which it ended without a reward are left out.

    Args:
        env: a text environment.
        seeds: of the episodes, as many as it takes.
        make: the prompt of one episode.
    """
    histories = Histories(1, make)
    num_yielded = 0
    while num_yielded < num_episodes:
        trajectory = _episode(env, expert, next(seeds), histories)
        if trajectory.turns[-1].reward > 0:
            num_yielded += 1
            yield trajectory


def _episode(env: gym.Env[Any, Any], expert: Expert, seed: int, histories: Histories) -> Trajectory:
    observation, info = env.reset(seed=seed)
    histories.begin(0, *as_vector(observation, info))
    act = expert(env)
    turns: list[Turn] = []
    while not (turns and (turns[-1].terminated or turns[-1].truncated)):
        action = act()
        prompt_ids, candidate_ids = histories.prompts[0].token_ids, histories.candidate_ids[0]
        observation, reward, terminated, truncated, info = env.step(action)
        truncated = truncated and not terminated
        turns.append(Turn(prompt_ids, candidate_ids, action, 0.0, float(reward), terminated, truncated, 0))
        if not terminated:
            histories.extend(0, action, *as_vector(observation, info))
    final = None if turns[-1].terminated else histories.prompts[0].token_ids
    return Trajectory(tuple(turns), final, 0, seed)
