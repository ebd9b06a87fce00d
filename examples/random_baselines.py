"""What a policy that chooses at random gains in every environment beside BabyAI, and a first text of each."""

from __future__ import annotations

import random
import sys

import gymnasium

import llmgym  # noqa: F401  (registers the environments)
from llmgym.errors import EnvError

NAMES = ("Blackjack", "CartPole", "CliffWalking", "FrozenLake", "FrozenLake8x8", "Taxi", "TextWorld")


def mean_return(name: str, num_episodes: int) -> float:
    """Play at random among the actions that each state offers, and return the mean return of an episode."""
    env = gymnasium.make(f"llmgym/{name}-v0")
    rng, total = random.Random(0), 0.0
    for seed in range(num_episodes):
        observation, info = env.reset(seed=seed)
        if seed == 0:
            print(f"\n{name}. {observation['mission']}\n  {observation['text']}\n  > {' | '.join(info['actions'])}")
        is_over = False
        while not is_over:
            action = rng.randrange(len(info["actions"]))
            has_indices = isinstance(env.action_space, gymnasium.spaces.Discrete)
            _, reward, terminated, truncated, info = env.step(action if has_indices else info["actions"][action])
            total += float(reward)
            is_over = terminated or truncated
    env.close()
    return total / num_episodes


def main(names: tuple[str, ...] = NAMES) -> None:
    """Print the mean return of every environment whose package is installed."""
    for name in names:
        num_episodes = 5 if name == "TextWorld" else 100
        try:
            print(f"  mean return of {num_episodes} episodes: {mean_return(name, num_episodes):.2f}")
        except EnvError as error:
            print(f"\n{name}. Left out: {error}")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NAMES)
