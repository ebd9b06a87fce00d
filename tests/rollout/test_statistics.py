"""Statistics of success rates: against hand-worked numbers, slow references, and what rliable says."""

from __future__ import annotations

import numpy as np
import pytest

from llmgym.rollout.statistics import (
    interquartile_mean,
    mcnemar_p_value,
    mean_over_seeds,
    mean_over_tasks,
    over_training_seeds,
    paired_difference,
    standard_error_interval,
)

SCORES = np.array([[0.1, 0.5, 0.9], [0.2, 0.4, 0.95], [0.15, 0.7, 0.8], [0.3, 0.45, 1.0], [0.05, 0.6, 0.85]])
"""Five runs in three tasks."""


def test_training_seeds_are_summed_up_as_rliable_does() -> None:
    # rliable 1.2.0, get_interval_estimates with 50,000 repetitions, on the same scores.
    iqm = over_training_seeds(SCORES, interquartile_mean, 0.95)
    assert iqm.value == pytest.approx(0.5333333333333333)
    assert (iqm.low, iqm.high) == pytest.approx((0.47777778, 0.59444444), abs=0.006)
    mean = over_training_seeds(SCORES, lambda scores: scores.mean(axis=-1), 0.95)
    assert mean.value == pytest.approx(0.53)
    assert (mean.low, mean.high) == pytest.approx((0.48666667, 0.57666667), abs=0.004)


def test_interquartile_mean_cuts_a_quarter_rounded_down_at_each_end() -> None:
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 3.0, -50.0, 4.0, 80.0])) == pytest.approx(
        (1 + 2 + 3 + 4 + 9) / 5
    )
    np.testing.assert_allclose(interquartile_mean(np.array([[0.0, 1.0, 3.0, 9.0], [5.0, 5.0, 5.0, 5.0]])), [2.0, 5.0])


def test_mean_over_seeds_has_the_normal_interval_of_its_standard_error() -> None:
    # Standard deviation sqrt(0.005), standard error 0.05, times 2.5758.
    one = mean_over_seeds([0.8, 0.9], 0.99)
    assert (one.value, one.low, one.high) == pytest.approx((0.85, 0.72121, 0.97879), abs=1e-5)
    assert mean_over_seeds([0.9, 1.0], 0.99).high == 1.0


def test_standard_error_is_that_of_balrogs_table() -> None:
    # Gemini-2.5-Pro: 80.0 ± 5.7 with 50 episodes; GPT-4o: 77.6 ± 3.7 with 125.
    assert standard_error_interval(40, 50).high == pytest.approx(0.8 + 0.0566, abs=1e-4)
    assert standard_error_interval(97, 125).high == pytest.approx(0.776 + 0.0373, abs=1e-4)


def test_mean_over_tasks_weighs_tasks_alike_and_adds_up_their_intervals_as_squares() -> None:
    easy, hard = np.arange(40) < 36, np.arange(10) < 1
    one = mean_over_tasks([easy, hard], 0.95)
    assert one.value == pytest.approx((0.9 + 0.1) / 2)
    # Wilson: 36 of 40 is [0.76945, 0.96040], 1 of 10 is [0.01788, 0.40415].
    assert one.low == pytest.approx(0.5 - np.hypot(0.9 - 0.76945, 0.1 - 0.01788) / 2, abs=2e-4)
    assert one.high == pytest.approx(0.5 + np.hypot(0.96040 - 0.9, 0.40415 - 0.1) / 2, abs=2e-4)


def test_mean_over_tasks_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    shares, num_covered = (0.98, 0.9, 0.2, 0.0, 0.6), 0
    for _ in range(2000):
        one = mean_over_tasks([generator.random(30) < share for share in shares], 0.95)
        num_covered += one.low <= np.mean(shares) <= one.high
    assert 0.93 < num_covered / 2000 < 0.985


def test_mean_over_tasks_is_not_certain_where_all_succeed() -> None:
    one = mean_over_tasks([np.ones(20, dtype=np.bool_)] * 5, 0.95)
    assert (one.value, one.high) == (1.0, 1.0)
    # One task: [0.83887, 1]; of five alike the distance shrinks by the root of five.
    assert one.low == pytest.approx(1 - 0.16113 / np.sqrt(5), abs=1e-4)


def test_paired_difference_counts_pairs_and_redraws_them() -> None:
    first = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], dtype=bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0], dtype=bool)
    one = paired_difference([first], [second], 0.95)
    assert (one.only_first, one.only_second) == (5, 1)
    assert one.difference.value == pytest.approx(0.4)
    assert one.p_value == 0.21875
    generator = np.random.default_rng(5)
    pairs = first.astype(float) - second
    slow = [generator.choice(pairs, 10).mean() for _ in range(4000)]
    ends = tuple(np.quantile(slow, [0.025, 0.975]))
    assert (one.difference.low, one.difference.high) == pytest.approx(ends, abs=0.051)


def test_paired_difference_is_the_mean_over_tasks_however_many_episodes_each_has() -> None:
    yes, no = np.ones(30, dtype=bool), np.zeros(30, dtype=bool)
    one = paired_difference([yes, no[:3]], [no, no[:3]], 0.95)
    assert one.difference.value == pytest.approx(0.5)
    assert (one.only_first, one.only_second) == (30, 0)


def test_mcnemars_exact_test() -> None:
    assert mcnemar_p_value(0, 0) == 1.0
    assert mcnemar_p_value(3, 3) == 1.0
    assert mcnemar_p_value(0, 10) == pytest.approx(2 / 1024)
    assert mcnemar_p_value(900, 1100) == pytest.approx(8.5e-6, rel=0.05)
