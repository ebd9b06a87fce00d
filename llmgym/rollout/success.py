"""Success rates with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

__all__ = ["SuccessRate", "wilson_interval"]

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class SuccessRate:
    """How often episodes succeed.

    Attributes:
        success: share of successful episodes, in [0, 1].
        low: lower end of the 95 % Wilson interval.
        high: upper end of it.
        episodes: how many were played.
        mean_return: mean undiscounted return of an episode, unscaled.
        mean_turns: mean length of an episode in turns.
        unparsed: share of turns whose answer named no action, so that the fallback was taken.
        given_up: episodes in which an agent knew no further or a prompt outgrew the context; they count as failures.
    """

    success: float
    low: float
    high: float
    episodes: int
    mean_return: float
    mean_turns: float
    unparsed: float = 0.0
    given_up: int = 0


def wilson_interval(num_successes: int, num_trials: int, z: float = Z_95) -> tuple[float, float]:
    """Return the score interval of Wilson 1927 for a binomial proportion.

    https://doi.org/10.1080/01621459.1927.10502953; at z = 1.96, 95 % of such intervals cover the true rate.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)
    """
    if num_trials == 0:
        return 0.0, 1.0
    rate = num_successes / num_trials
    shrink = 1 + z * z / num_trials
    center = (rate + z * z / (2 * num_trials)) / shrink
    margin = z * sqrt(rate * (1 - rate) / num_trials + z * z / (4 * num_trials**2)) / shrink
    # Where all or none succeed, rounding must not push the interval past the rate itself.
    low = 0.0 if num_successes == 0 else center - margin
    high = 1.0 if num_successes == num_trials else center + margin
    return low, high
