"""The expert of small worlds whose rules are a table: an exact plan, by value iteration. Knows no texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from llmgym.errors import EnvError

__all__ = ["Plan", "Transitions", "has_table", "make_plan", "planner"]

Transitions = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""State -> action -> what may follow: (probability, state, reward, whether that ends the episode)."""

_DISCOUNT = 0.99
_TOLERANCE = 1e-10
_TIE = 1e-8
"""Actions whose values differ by no more are equally good; the first of them is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is best in every state.

    Attributes:
        values: float64 (num_states,); the discounted return that can be expected from each.
        actions: int64 (num_states,); the first of the best actions.
    """

    values: npt.NDArray[np.float64]
    actions: npt.NDArray[np.int64]


def make_plan(transitions: Transitions, *, discount: float = _DISCOUNT) -> Plan:
    """Find the best action of every state by value iteration.

    Sutton and Barto 2018, equation 4.10, http://incompleteideas.net/book/the-book-2nd.html, where the state behind a
    step that ends the episode is worth 0:

        v(s) <- max over a of the sum over (s', r) of p(s', r | s, a) (r + discount v(s'))

    Time limits are not part of the plan.

    Args:
        transitions: of states 0, 1, ..., all with the same actions 0, 1, ...
        discount: a step, from 0 to below 1; larger looks further ahead. Below 1, of two ways to the same goal the
            shorter one is better.

    Raises:
        EnvError: the discount is not in that range.

    >>> stay, go, win = (1.0, 0, 0.0, False), (1.0, 1, 0.0, False), (1.0, 1, 1.0, True)
    >>> plan = make_plan({0: {0: [stay], 1: [go]}, 1: {0: [win], 1: [win]}}, discount=0.5)
    >>> plan.actions.tolist(), plan.values.round(6).tolist()
    ([1, 0], [0.5, 1.0])
    """
    if not 0 <= discount < 1:
        raise EnvError(f"Expected a discount from 0 to below 1, got {discount}. Take 0.99.")
    probabilities, rewards, successors, goes_on = _table(transitions)
    values = np.zeros(len(transitions))
    while True:
        returns = (probabilities * (rewards + discount * goes_on * values[successors])).sum(axis=2)
        best = returns.max(axis=1)
        change = np.abs(best - values).max()
        values = best
        if change < _TOLERANCE:
            return Plan(values, (returns >= best[:, None] - _TIE).argmax(axis=1))


def planner(env: gymnasium.Env[Any, Any]) -> Callable[[gymnasium.Env[Any, Any]], Callable[..., int]]:
    """Plan for an environment, and return who plays it: given one like it, a function that returns the next action.

    The function looks where it is; what was done before, which it may be given, is nothing to it.

    Raises:
        EnvError: the environment has no table, or its actions are not those of the table.
    """
    if not has_table(env):
        raise EnvError(f"Expected an environment with a table of transitions, env.unwrapped.P, got {env}.")
    world: Any = env.unwrapped
    actions = make_plan(world.P).actions

    def begin(env: gymnasium.Env[Any, Any]) -> Callable[..., int]:
        world: Any = env.unwrapped
        return lambda done_instead=None: int(actions[int(world.s)])

    return begin


def has_table(env: gymnasium.Env[Any, Any]) -> bool:
    """Tell whether the rules of an environment are a table, as those of Gymnasium's toy texts are."""
    table = getattr(env.unwrapped, "P", None)
    return isinstance(table, Mapping) and getattr(env.action_space, "n", None) == len(table[0])


def _table(transitions: Transitions) -> tuple[npt.NDArray[Any], ...]:
    """Return probability, reward, successor and whether the episode goes on, each (num_states, num_actions, most).

    Where an action has fewer outcomes than another, the rest of its row has probability 0.
    """
    most = max(len(outcomes) for actions in transitions.values() for outcomes in actions.values())
    shape = (len(transitions), len(transitions[0]), most)
    probabilities, rewards, goes_on = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    successors = np.zeros(shape, dtype=np.int64)
    for state, actions in transitions.items():
        for action, outcomes in actions.items():
            for number, (probability, successor, reward, is_end) in enumerate(outcomes):
                place = (state, action, number)
                probabilities[place], rewards[place], successors[place] = probability, reward, successor
                goes_on[place] = 0.0 if is_end else 1.0
    return probabilities, rewards, successors, goes_on
