"""The planner of small worlds against values worked out by hand, and against a slow backward induction."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

import llmgym  # noqa: F401
from llmgym.envs.toy_text.planner import Transitions, has_table, make_plan, planner
from llmgym.errors import EnvError

TWO_STATES: Transitions = {
    0: {0: [(1.0, 0, 1.0, False)], 1: [(0.5, 0, 0.0, False), (0.5, 1, 0.0, False)]},
    1: {0: [(1.0, 1, 3.0, False)], 1: [(1.0, 0, 10.0, True)]},
}
"""In 0, wait for 1 or try to reach 1; there, wait for 3 or take 10, which ends the episode."""


@pytest.mark.parametrize(
    ("discount", "values", "actions"),
    [
        # v(1) = 10, because 3 + 10 / 2 = 8 is less; v(0) = max(1 + v(0) / 2, v(0) / 4 + 10 / 4) = 10 / 3.
        (0.5, [10 / 3, 10.0], [1, 1]),
        # v(1) = 3 / (1 - 0.9) = 30; v(0) = 0.45 v(0) + 0.45 * 30 = 13.5 / 0.55.
        (0.9, [13.5 / 0.55, 30.0], [1, 0]),
        (0.0, [1.0, 10.0], [0, 1]),
    ],
)
def test_values_of_two_states_are_those_worked_out_by_hand(
    discount: float, values: list[float], actions: list[int]
) -> None:
    plan = make_plan(TWO_STATES, discount=discount)
    assert plan.values == pytest.approx(values)
    assert plan.actions.tolist() == actions


def test_of_equally_good_actions_the_first_is_taken() -> None:
    both = [(1.0, 0, 1.0, True)]
    assert make_plan({0: {0: [(1.0, 0, 0.5, True)], 1: both, 2: both}}).actions.tolist() == [1]


@pytest.mark.parametrize("discount", [1.0, -0.1])
def test_a_discount_without_an_end_is_refused(discount: float) -> None:
    with pytest.raises(EnvError, match=rf"Expected a discount from 0 to below 1, got {discount}"):
        make_plan(TWO_STATES, discount=discount)


def success_within(transitions: Transitions, num_steps: int, actions: list[int] | None) -> float:
    """The chance to reach the goal from state 0, by backward induction; actions None takes the best of every step."""
    values = [0.0] * len(transitions)
    for _ in range(num_steps):
        values = [
            max(
                sum(chance * (reward + (not ends) * values[after]) for chance, after, reward, ends in outcomes)
                for action, outcomes in transitions[state].items()
                if actions is None or action == actions[state]
            )
            for state in range(len(values))
        ]
    return values[0]


def test_the_plan_for_the_frozen_lake_is_as_good_as_a_plan_without_a_clock_can_be() -> None:
    lake: Any = gymnasium.make("llmgym/FrozenLake-v0").unwrapped
    actions = make_plan(lake.P).actions.tolist()
    assert success_within(lake.P, 100, actions) == pytest.approx(0.7402, abs=1e-4)
    assert success_within(lake.P, 100, None) == pytest.approx(0.7442, abs=1e-4), "with a clock there is hardly more"


@pytest.mark.parametrize(
    ("env_id", "settings", "best_return"),
    [
        ("llmgym/FrozenLake-v0", {"is_slippery": False}, 1.0),
        ("llmgym/CliffWalking-v0", {}, -13.0),
        ("llmgym/Taxi-v0", {}, None),
    ],
)
def test_the_planner_takes_the_shortest_way(env_id: str, settings: dict[str, Any], best_return: float | None) -> None:
    env = gymnasium.make(env_id, **settings)
    begin = planner(env)
    for seed in range(3):
        env.reset(seed=seed)
        act, total, is_over = begin(env), 0.0, False
        while not is_over:
            _, reward, terminated, truncated, _ = env.step(act())
            total += float(reward)
            is_over = terminated or truncated
        assert terminated
        # A taxi is paid 20, and no ride takes more than 20 steps.
        assert total == best_return if best_return is not None else total > 0


def test_other_worlds_have_no_table() -> None:
    assert has_table(gymnasium.make("llmgym/FrozenLake8x8-v0"))
    assert not has_table(gymnasium.make("llmgym/Blackjack-v0"))
    with pytest.raises(EnvError, match=r"Expected an environment with a table of transitions, .* got .*Blackjack"):
        planner(gymnasium.make("llmgym/Blackjack-v0"))
