"""Statistics of success rates: over seeds, over tasks, and of two policies on the same episodes. Knows numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.rollout.success import wilson_interval

__all__ = [
    "Estimate",
    "PairedDifference",
    "interquartile_mean",
    "mcnemar_p_value",
    "mean_over_seeds",
    "mean_over_tasks",
    "over_training_seeds",
    "paired_difference",
    "standard_error_interval",
    "two_sided_z",
]

Floats = npt.NDArray[np.float64]
RESAMPLES = 10_000
"""Bootstrap samples of an interval: its ends move by less than a tenth of its width from one seed to another."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the estimate.
        low: lower end of its interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much more often one policy succeeds than another on the same episodes.

    Attributes:
        difference: of the success rates, the mean over tasks; above 0 where the first is better.
        only_first: episodes in which only the first succeeded.
        only_second: episodes in which only the second did.
        p_value: of McNemar's exact test over all episodes: how likely so unequal a split is among equals.
    """

    difference: Estimate
    only_first: int
    only_second: int
    p_value: float


def two_sided_z(confidence: float) -> float:
    """Return how many standard deviations a two-sided normal interval takes.

    >>> round(two_sided_z(0.95), 3), round(two_sided_z(0.99), 3)
    (1.96, 2.576)
    """
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def mean_over_seeds(rates: Sequence[float], confidence: float) -> Estimate:
    """Return the mean of repetitions with the normal interval of their standard error, cut off at 0 and 1.

    Args:
        rates: one of each seed, at least two.
    """
    mean = float(np.mean(rates))
    margin = two_sided_z(confidence) * float(np.std(rates, ddof=1)) / sqrt(len(rates))
    return Estimate(mean, max(mean - margin, 0.0), min(mean + margin, 1.0))


def standard_error_interval(num_successes: int, num_trials: int) -> Estimate:
    """Return a rate with one standard error, sqrt(p (1 - p) / n), to either side.

    >>> one = standard_error_interval(40, 50)
    >>> round(one.value, 3), round(one.high - one.value, 3)
    (0.8, 0.057)
    """
    rate = num_successes / num_trials
    error = sqrt(rate * (1 - rate) / num_trials)
    return Estimate(rate, rate - error, rate + error)


def interquartile_mean(scores: Floats) -> Floats:
    """Return the mean of the middle half of the last axis: a quarter, rounded down, is cut off at each end.

    Agarwal et al. 2021, https://arxiv.org/abs/2108.13264.

    >>> float(interquartile_mean(np.array([0.0, 4.0, 6.0, 100.0])))
    5.0
    """
    num_cut = scores.shape[-1] // 4
    ordered = np.sort(scores, axis=-1)
    middle = ordered[..., num_cut : scores.shape[-1] - num_cut]
    return np.asarray(middle.mean(axis=-1), dtype=np.float64)


def over_training_seeds(
    scores: Floats, statistic: Callable[[Floats], Floats], confidence: float, seed: int = 0
) -> Estimate:
    """Return a statistic of all runs and tasks, with the stratified bootstrap interval of `rliable`.

    Runs are drawn anew for every task, with replacement; the interval is between percentiles. Agarwal et al. 2021,
    https://arxiv.org/abs/2108.13264, section 4.1.

    Args:
        scores: float64 (num_runs, num_tasks).
        statistic: from (..., num_runs * num_tasks) to (...), such as `interquartile_mean`.
        seed: of the draws.
    """
    num_runs, num_tasks = scores.shape
    drawn = np.random.default_rng(seed).integers(num_runs, size=(RESAMPLES, num_runs, num_tasks))
    samples = statistic(scores[drawn, np.arange(num_tasks)].reshape(RESAMPLES, -1))
    return _percentiles(float(statistic(scores.reshape(-1))), samples, confidence)


def mean_over_tasks(successes: Sequence[npt.NDArray[np.bool_]], confidence: float) -> Estimate:
    """Return the mean of the tasks' rates, with an interval put together from the Wilson intervals of the tasks.

    The distances from a rate to the ends of its interval add up as standard errors do: as squares. Zou et al. 2009,
    https://doi.org/10.1016/j.csda.2008.09.033, equations 5 and 6. Unlike a bootstrap, it does not claim certainty where
    all episodes succeed.

    Args:
        successes: bool (num_episodes,) of each task.
    """
    z, num_tasks = two_sided_z(confidence), len(successes)
    counts = [(int(one.sum()), len(one)) for one in successes]
    rates = [num_successes / num_episodes for num_successes, num_episodes in counts]
    ends = [wilson_interval(num_successes, num_episodes, z) for num_successes, num_episodes in counts]
    mean = sum(rates) / num_tasks
    below = sqrt(sum((rate - low) ** 2 for rate, (low, _) in zip(rates, ends, strict=True))) / num_tasks
    above = sqrt(sum((high - rate) ** 2 for rate, (_, high) in zip(rates, ends, strict=True))) / num_tasks
    return Estimate(mean, mean - below, mean + above)


def paired_difference(
    first: Sequence[npt.NDArray[np.bool_]],
    second: Sequence[npt.NDArray[np.bool_]],
    confidence: float,
    seed: int = 0,
) -> PairedDifference:
    """Compare two policies on the same episodes; pairs are drawn anew within each task.

    Args:
        first: bool (num_episodes,) of each task; whether the first policy succeeded.
        second: the same of the second, episode by episode.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    differences, samples = [], []
    only_first = only_second = 0
    for one, other in zip(first, second, strict=True):
        counts = np.array([np.sum(one & ~other), np.sum(~one & other), np.sum(one == other)])
        only_first, only_second = only_first + int(counts[0]), only_second + int(counts[1])
        drawn = generator.multinomial(len(one), counts / len(one), RESAMPLES)
        samples.append((drawn[:, 0] - drawn[:, 1]) / len(one))
        differences.append((counts[0] - counts[1]) / len(one))
    difference = _percentiles(float(np.mean(differences)), np.mean(samples, axis=0), confidence)
    return PairedDifference(difference, only_first, only_second, mcnemar_p_value(only_first, only_second))


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: of a fair coin for every pair that differs.

    https://doi.org/10.1007/BF02295996, with the binomial distribution itself.

    >>> mcnemar_p_value(1, 5)
    0.21875
    """
    num_pairs = only_first + only_second
    tail = sum(comb(num_pairs, count) for count in range(min(only_first, only_second) + 1))
    p_value: float = 2 * tail / 2**num_pairs
    return min(1.0, p_value)


def _percentiles(value: float, samples: npt.NDArray[Any], confidence: float) -> Estimate:
    low, high = np.quantile(samples, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(value, float(low), float(high))
