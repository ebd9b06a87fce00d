"""ILQL on a chain with a pit beside every step: from random play that mostly fails, it finds the way to the end."""

from collections.abc import Callable
from typing import Any

import numpy as np

from llmgym.algorithms import ILQL, ReturnSettings
from llmgym.learner import Learner
from llmgym.rollout.batch import make_batch
from llmgym.types import TokenIds, Trajectory, Turn

LENGTH, LIMIT = 4, 12
MOVES: tuple[TokenIds, ...] = ((5,), (6, 7), (6, 8))
"""Forward, back, and into the pit."""
SETTINGS = ReturnSettings(gamma=0.9)


def prompt(place: int) -> np.ndarray:
    return np.array([10 + place], np.int32)


def play_at_random(rng: np.random.Generator) -> Trajectory:
    place, turns = 0, []
    for step in range(LIMIT):
        action = int(rng.integers(3))
        after = place + 1 if action == 0 else max(place - 1, 0)
        terminated = action == 2 or after == LENGTH
        reward = float(after == LENGTH and action == 0)
        truncated = not terminated and step == LIMIT - 1
        turns.append(Turn(prompt(place), MOVES, action, 0.0, reward, terminated, truncated, 0))
        place = after
        if terminated:
            return Trajectory(tuple(turns), None)
    return Trajectory(tuple(turns), prompt(place))


def chance_of_success(learner: Learner, beta: float) -> float:
    """Return, exactly, how often the policy gets to the end within the limit."""
    states = [Turn(prompt(place), MOVES, 0, 0.0, 0.0, False, False, 0) for place in range(LENGTH)]
    forward, back, _ = np.exp(np.stack(learner.action_logprobs(states, beta=beta)).astype(np.float64)).T
    here, arrived = np.eye(LENGTH)[0], 0.0
    for _ in range(LIMIT):
        arrived += here[-1] * forward[-1]
        after = np.zeros(LENGTH)
        after[1:] += here[:-1] * forward[:-1]
        after[:-1] += here[1:] * back[1:]
        after[0] += here[0] * back[0]
        here = after
    return float(arrived)


def test_from_random_play_ilql_finds_what_cloning_cannot(make_model: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    episodes = [play_at_random(rng) for _ in range(200)]
    shown = np.mean([episode.turns[-1].reward for episode in episodes])
    assert shown < 0.06
    algorithm = ILQL(tau=0.9, cql_scale=0.01, alpha=0.2, epochs=40, minibatch_turns=300)
    learner = Learner(make_model(), algorithm=algorithm, learning_rate=3e-3, head_learning_rate=3e-3)
    metrics = learner.update(make_batch(episodes, None, SETTINGS, algorithm))
    assert metrics["td_loss"] < 0.03
    # The policy itself is the clone: beta pulls it towards what is worth more.
    clone, some, much = (chance_of_success(learner, beta) for beta in (0.0, 4.0, 30.0))
    assert abs(clone - shown) < 0.03
    assert clone < some < much
    assert much > 0.95
