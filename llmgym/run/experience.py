"""Experience: what an update learns from, collected as its algorithm wants it. Knows no run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llmgym.algorithms.algorithm import (
    Algorithm,
    EstimatesAdvantages,
    SamplesDynamically,
    compares_groups,
    needs_values,
)
from llmgym.config import CollectSettings, RunConfig
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.rollout.player import EpisodeSeed
from llmgym.run.learning import RunLearner
from llmgym.run.seeds import training_seed
from llmgym.types import Trajectory

__all__ = ["Collects", "collect_experience", "episode_seeds", "learn_from"]


class Collects(Protocol):
    """A collector, with a barrier or without."""

    def collect(self, num_steps: int) -> list[Trajectory]:
        """Take steps in every environment; unfinished episodes are cut, and go on in the next call."""
        ...

    def collect_episodes(self, num_episodes: int) -> list[Trajectory]:
        """Play whole episodes in every environment."""
        ...


def collect_experience(
    collector: Collects, algorithm: Algorithm, collect: CollectSettings, returns: ReturnSettings
) -> list[Trajectory]:
    """Collect what an update of an algorithm learns from.

    With a critic, so many steps of every environment; without one, whole episodes, and again, where the algorithm keeps
    some of them only, until it keeps as many as are played at once, or has collected as often as it may.
    """
    if needs_values(algorithm):
        return collector.collect(collect.steps_per_update)
    trajectories = collector.collect_episodes(collect.episodes_per_update)
    if not (isinstance(algorithm, SamplesDynamically) and isinstance(algorithm, EstimatesAdvantages)):
        return trajectories
    num_wanted = len(trajectories)
    for _ in range(algorithm.max_collections - 1):
        kept = algorithm.estimate(trajectories, None, returns).kept
        if kept is None or len(kept) >= num_wanted:
            break
        trajectories = [*trajectories, *collector.collect_episodes(collect.episodes_per_update)]
    return trajectories


def learn_from(trajectories: Sequence[Trajectory], learner: RunLearner, returns: ReturnSettings) -> dict[str, float]:
    """Learn from trajectories, and return metrics; where the algorithm keeps none of them, nothing is learned."""
    algorithm = learner.algorithm
    values = learner.values(trajectories) if needs_values(algorithm) else None
    batch = make_batch(trajectories, values, returns, algorithm)
    return {**(learner.update(batch) if batch.turns else {}), **batch.metrics}


def episode_seeds(config: RunConfig, algorithm: Algorithm, num_done: int) -> EpisodeSeed:
    """Return the seeds of the episodes that a run collects from an update on.

    Where an algorithm compares groups, the environments of each begin alike; what they draw differs all the same.

    Args:
        num_done: updates that were taken before.
    """
    size = config.collect.group_size if compares_groups(algorithm) else 1
    return lambda env_index, number: training_seed(config.seed, num_done, env_index // size, number)
