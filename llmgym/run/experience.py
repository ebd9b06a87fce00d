"""Experience: what an update learns from, collected as its algorithm wants it. Knows no run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import numpy as np

from llmgym.algorithms.algorithm import (
    Algorithm,
    EstimatesAdvantages,
    SamplesDynamically,
    compares_groups,
    compares_states,
    credit_of,
    needs_values,
)
from llmgym.config import CollectSettings, RunConfig
from llmgym.rollout.batch import ReturnSettings, make_batch
from llmgym.rollout.player import EpisodeSeed
from llmgym.rollout.staleness import drop_stale, mean_staleness
from llmgym.run.clone import expert_speaker
from llmgym.run.collecting import open_collector
from llmgym.run.learning import RunLearner
from llmgym.run.offline import OfflineCollector, read_trajectories
from llmgym.run.report import Reporter
from llmgym.run.seeds import training_seed
from llmgym.types import Batch, Decides, FloatArray, Trajectory, Turn

__all__ = ["Collects", "collect_experience", "episode_seeds", "learn_from", "open_experience"]

LogprobsOf = Callable[[Sequence[Turn]], FloatArray]
ON_POLICY = CollectSettings()
"""Nothing is older than the policy that learns."""


class Collects(Protocol):
    """A collector, with a barrier or without."""

    def collect(self, num_steps: int) -> list[Trajectory]:
        """Take steps in every environment; unfinished episodes are cut, and go on in the next call."""
        ...

    def collect_episodes(self, num_episodes: int) -> list[Trajectory]:
        """Play whole episodes in every environment."""
        ...


@contextmanager
def open_experience(
    config: RunConfig, learner: RunLearner, engine: Decides, num_done: int, reporter: Reporter
) -> Iterator[Collects]:
    """Give what a run's experience comes from, for as long as the context lasts: environments, or datasets.

    Args:
        config: of the run.
        learner: who learns from it.
        engine: who plays.
        num_done: updates that were taken before.
        reporter: who watches.
    """
    num_envs = config.collect.num_envs
    if config.collect.datasets:
        trajectories = read_trajectories(config, expert_speaker(config, learner), reporter)
        yield OfflineCollector(trajectories, num_envs=num_envs, seed=config.seed, num_done=num_done)
        return
    with open_collector(
        config.env,
        config.env_settings,
        num_envs,
        engine,
        barrier=config.collect.barrier,
        prompt=config.prompt,
        acting=config.acting,
        seed=training_seed(config.seed, num_done),
        episode_seed=episode_seeds(config, learner.algorithm, num_done),
        keys_states=compares_states(learner.algorithm),
    ) as collector:
        yield collector


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


def learn_from(
    trajectories: Sequence[Trajectory],
    learner: RunLearner,
    returns: ReturnSettings,
    collect: CollectSettings = ON_POLICY,
) -> dict[str, float]:
    """Learn from trajectories, and return metrics; where the algorithm keeps none of them, nothing is learned.

    Where the policy that collected may be behind the one that learns, trajectories that are too old are dropped, and
    what is done about the others is what collect says. The metrics tell, too, of staleness (mean over all turns of the
    versions that their policy is behind), dropped_stale (trajectories), and those of `correct_stale`.
    """
    algorithm, found = learner.algorithm, {}
    if collect.staleness:
        version, num_collected = learner.version, len(trajectories)
        found["staleness"] = mean_staleness(trajectories, version)
        trajectories = drop_stale(trajectories, version, collect.staleness)
        found["dropped_stale"] = float(num_collected - len(trajectories))
        if not trajectories:
            return found
    is_corrected = collect.staleness > 0 and collect.correction != "none"
    logprobs: LogprobsOf = partial(learner.logprobs, credit=credit_of(algorithm))
    values = None
    if needs_values(algorithm):
        if is_corrected and found["staleness"] > 0:
            values, logprobs = _review(trajectories, learner)
        else:
            values = learner.values(trajectories)
    batch = make_batch(trajectories, values, returns, algorithm)
    if batch.turns and is_corrected:
        batch = _corrected(batch, learner, collect, logprobs)
    return {**(learner.update(batch) if batch.turns else {}), **batch.metrics, **found}


def _review(trajectories: Sequence[Trajectory], learner: RunLearner) -> tuple[list[FloatArray], LogprobsOf]:
    """Return the values of trajectories, and what looks up the log-probabilities of their turns, from one pass."""
    review = learner.review(trajectories)
    turns = (turn for trajectory in trajectories for turn in trajectory.turns)
    found = {id(turn): logprobs for turn, logprobs in zip(turns, review.logprobs, strict=True)}
    return review.values, lambda turns: np.concatenate([found[id(turn)] for turn in turns])


def _corrected(batch: Batch, learner: RunLearner, collect: CollectSettings, logprobs: LogprobsOf) -> Batch:
    """Return a batch with the importance weights that collect asks for."""
    # Torch takes seconds to import; whoever only configures a run does without.
    from llmgym.learner.correction import Correction, correct_stale

    assert collect.correction != "none", "checked by the caller"
    return correct_stale(
        batch,
        learner.version,
        logprobs,
        credit=credit_of(learner.algorithm),
        correction=Correction(collect.correction, collect.correction_limit),
    )


def episode_seeds(config: RunConfig, algorithm: Algorithm, num_done: int) -> EpisodeSeed:
    """Return the seeds of the episodes that a run collects from an update on.

    Where an algorithm compares groups, the environments of each begin alike; what they draw differs all the same.

    Args:
        num_done: updates that were taken before.
    """
    size = config.collect.group_size if compares_groups(algorithm) else 1
    return lambda env_index, number: training_seed(config.seed, num_done, env_index // size, number)
