"""Offline experience: the episodes of datasets, handed out as if they had just been played. Knows no loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from llmgym.algorithms.algorithm import learns_offline, needs_values
from llmgym.algorithms.registry import ALGORITHMS
from llmgym.config import RunConfig
from llmgym.errors import ConfigError, LearnerError
from llmgym.rollout.datasets import read_dataset
from llmgym.rollout.demonstrations import Speaker, retell
from llmgym.run.report import Reporter
from llmgym.run.showing import check_dataset
from llmgym.types import Trajectory

__all__ = ["OfflineCollector", "check_offline", "read_trajectories"]

ORDER_STREAM = 2**31 + 5
"""Names the draws of the order of recorded episodes, apart from other draws of a run."""


class OfflineCollector:
    """Hands out recorded episodes, all in turn, in an order that is drawn anew each time.

    An update is handed the same episodes whether the run was interrupted before it or not.
    """

    def __init__(self, trajectories: Sequence[Trajectory], *, num_envs: int, seed: int, num_done: int) -> None:
        """Begin where a run stands.

        Args:
            trajectories: whole episodes, at least one.
            num_envs: how many environments the run would play in.
            seed: of the order.
            num_done: updates that were taken before.
        """
        self._trajectories = trajectories
        self._num_envs = num_envs
        self._seed = seed
        self._num_done = num_done

    def collect(self, num_steps: int) -> list[Trajectory]:
        """Refuse: episodes of a dataset are whole.

        Raises:
            LearnerError: always.
        """
        raise LearnerError("Expected an algorithm that learns from whole episodes, to learn from a dataset.")

    def collect_episodes(self, num_episodes: int) -> list[Trajectory]:
        """Return as many episodes as would be played: num_episodes for each environment."""
        count = num_episodes * self._num_envs
        first = self._num_done * count
        self._num_done += 1
        chosen = (self._trajectories[place] for place in self._places(first, count))
        return [replace(one, env_index=number % self._num_envs) for number, one in enumerate(chosen)]

    def _places(self, first: int, count: int) -> Iterator[int]:
        """Yield which episodes stand in some places of the endless order."""
        size = len(self._trajectories)
        passes = range(first // size, (first + count - 1) // size + 1)
        orders = [np.random.default_rng([self._seed, ORDER_STREAM, one]).permutation(size) for one in passes]
        start = first - passes[0] * size
        yield from np.concatenate(orders)[start : start + count].tolist()


def read_trajectories(config: RunConfig, speaker: Speaker, reporter: Reporter) -> list[Trajectory]:
    """Return the episodes of a run's datasets as the learner would have told them.

    Args:
        config: of the run.
        speaker: tells them.
        reporter: who watches.
    """
    reporter.stage("datasets", None, "episodes")
    trajectories: list[Trajectory] = []
    for name in config.collect.datasets:
        for trajectory in retell(read_dataset(name), speaker, takes_advice=False):
            trajectories.append(trajectory)
            reporter.advance(len(trajectories), {"return": sum(turn.reward for turn in trajectory.turns)})
    return trajectories


def check_offline(config: RunConfig) -> None:
    """Refuse datasets that cannot be learned from, and ways to act that heads cannot guide.

    Raises:
        ConfigError: the algorithm learns only from what its policy did, or a dataset is of another environment.
        DatasetError: there is no such dataset.
    """
    algorithm, name = config.make_algorithm(), config.algorithm["name"]
    if name == "ilql" and config.acting.how not in ("score", "constrained"):
        raise ConfigError(
            f"Expected acting.how to be score or constrained for the algorithm 'ilql', found {config.acting.how!r}: it "
            "tells what candidates are worth, and no answers. Change it."
        )
    if not config.collect.datasets:
        return
    if not learns_offline(algorithm) or needs_values(algorithm):
        known = ", ".join(one for one, cls in ALGORITHMS.items() if learns_offline(cls()))
        raise ConfigError(
            f"Expected an algorithm that learns from what others did ({known}) for collect.datasets, found {name!r}, "
            "which learns from its own policy's actions. Set algorithm.name=ilql, or clone.dataset to imitate."
        )
    for dataset in config.collect.datasets:
        check_dataset(config, dataset, "collect.datasets")
