"""Episodes that a player begins and an expert ends: what is noted, against playing the two by hand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import llmgym  # noqa: F401
from llmgym.envs.babyai.bot import Bot
from llmgym.errors import EnvError
from llmgym.rollout.coaching import Coached
from llmgym.rollout.demonstrations import ADVISED, Expert
from llmgym.rollout.recording import Episode

LEVEL = "llmgym/BabyAI-GoToLocal-v0"
BOT = Expert("bot", lambda env: Bot(env).act)
TURN_LEFT = 0


def turn_left_until_over(env: gym.Env[Any, Any], seed: int) -> int:
    """Return how many steps the player was given."""
    env.reset(seed=seed)
    for number in range(1, 1000):
        _, _, terminated, truncated, _ = env.step(TURN_LEFT)
        if terminated or truncated:
            return number
    raise AssertionError("the episode goes on")


def coached(max_own_steps: int, seed: int, expert: Expert = BOT) -> tuple[int, list[Episode]]:
    env = Coached(gym.make(LEVEL), expert, max_own_steps)
    return turn_left_until_over(env, seed), env.take()


def test_the_expert_plays_on_and_says_what_it_would_have_done() -> None:
    num_own, (episode,) = coached(10, seed=5)
    by_hand = gym.make(LEVEL)
    by_hand.reset(seed=5)
    bot, advised, done = Bot(by_hand), [], []
    instead: tuple[int, ...] = ()
    for step in range(episode.num_steps):
        advised.append(bot.act(*instead))
        done.append(TURN_LEFT if step < num_own else advised[-1])
        instead = (done[-1],) if done[-1] != advised[-1] else ()
        _, reward, terminated, _, _ = by_hand.step(done[-1])
    assert terminated
    assert (episode.actions, episode.rewards[-1]) == (tuple(done), reward)
    assert episode.infos[ADVISED].tolist() == [*advised, -1]
    assert any(action != TURN_LEFT for action in advised[:num_own]), "the player did not know the way"


def test_how_many_steps_a_player_has_is_the_seeds_affair_and_every_number_comes_up() -> None:
    env = Coached(gym.make(LEVEL), BOT, 3)
    drawn = [turn_left_until_over(env, seed) for seed in range(40)]
    assert set(drawn) == {1, 2, 3}
    assert drawn[::-1] == [turn_left_until_over(env, seed) for seed in reversed(range(40))]
    assert len(env.take()) == 80
    assert env.take() == []


def test_an_episode_that_the_player_ends_is_its_own() -> None:
    bot_env = gym.make(LEVEL)
    bot_env.reset(seed=2)
    bot = Bot(bot_env)
    env = Coached(gym.make(LEVEL), BOT, 10_000)
    env.reset(seed=2)
    terminated = False
    while not terminated:
        action = bot.act()
        bot_env.step(action)
        _, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
    (episode,) = env.take()
    assert episode.rewards[-1] == reward > 0
    assert tuple(episode.infos[ADVISED][:-1].tolist()) == episode.actions


@pytest.mark.parametrize(("num_answers", "max_own_steps"), [(1, 1000), (3, 1000), (3, 2)])
def test_where_the_expert_gives_up_the_episode_is_cut(num_answers: int, max_own_steps: int) -> None:
    def begin(_env: gym.Env[Any, Any]) -> Any:
        left = iter(range(num_answers))

        def act(*_done_instead: int) -> int:
            if next(left, None) is None:
                raise EnvError("it knows no further")
            return 1

        return act

    _, (episode,) = coached(max_own_steps, 3, Expert("brief", begin))
    assert episode.num_steps == num_answers
    assert episode.truncations.tolist() == [False] * (num_answers - 1) + [True]
    assert not episode.terminations.any()
    assert episode.infos[ADVISED].tolist() == [1] * num_answers + [-1]


def test_an_expert_that_never_begins_leaves_nothing() -> None:
    def refuse(_env: gym.Env[Any, Any]) -> Any:
        raise EnvError("it knows nothing")

    num_own, episodes = coached(10, 3, Expert("silent", refuse))
    assert (num_own, episodes) == (1, [])


def test_actions_may_be_texts() -> None:
    class Worded(gym.ActionWrapper[Any, Any, Any]):
        action_space = gym.spaces.Text(20)

        def action(self, action: str) -> int:
            return ("turn left", "turn right", "go forward", "pick up", "drop", "toggle").index(action)

    env = Coached(Worded(gym.make(LEVEL)), BOT, 1)
    env.reset(seed=5)
    *_, truncated, info = env.step("turn left")
    assert truncated
    (episode,) = env.take()
    assert episode.actions[0] == TURN_LEFT
    assert episode.rewards[-1] > 0
    assert np.all(episode.infos[ADVISED][1:-1] == episode.actions[1:])
    assert info["actions"][0] == "turn left"
