"""An expert that looks on: its advice, step by step, against asking it afresh in every state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import llmgym  # noqa: F401
from llmgym.envs.babyai.bot import Bot
from llmgym.errors import EnvError
from llmgym.rollout.advice import Advised, corrected
from llmgym.rollout.demonstrations import Expert
from llmgym.types import Trajectory, Turn

LEVEL = "llmgym/BabyAI-GoToLocal-v0"
BOT = Expert("bot", lambda env: Bot(env).act)


def play(env: gym.Env[Any, Any], seed: int, actions: list[int]) -> int:
    """Take the actions until the episode is over; return how many that took."""
    env.reset(seed=seed)
    for number, action in enumerate(actions, start=1):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return number
    raise AssertionError("the episode goes on")


def test_whoever_follows_the_advice_plays_as_the_expert() -> None:
    env = Advised(gym.make(LEVEL), BOT)
    env.reset(seed=2)
    alone = gym.make(LEVEL)
    alone.reset(seed=2)
    bot, is_over, taken = Bot(alone), False, []
    while not is_over:
        taken.append(bot.act())
        _, _, terminated, truncated, _ = env.step(taken[-1])
        alone.step(taken[-1])
        is_over = terminated or truncated
    assert env.take() == tuple(taken)
    with pytest.raises(EnvError, match="Expected an episode that is over, found none"):
        env.take()


def test_advice_in_a_state_is_what_the_expert_does_when_it_wakes_up_there() -> None:
    # Turning on the spot shows the whole room, so that what was seen before makes no difference.
    env = Advised(gym.make(LEVEL), BOT)
    num_steps = play(env, 5, [0] * 200)
    advice = env.take()
    assert len(advice) == num_steps
    for step in (4, 5, 6, 7):
        fresh = gym.make(LEVEL)
        fresh.reset(seed=5)
        bot = Bot(fresh)
        told = [bot.act()]
        for _ in range(step):
            fresh.step(0)
            told.append(bot.act(0))
        assert told == list(advice[: step + 1])


def test_an_expert_that_gives_up_says_no_more() -> None:
    def begin(_env: gym.Env[Any, Any]) -> Any:
        calls = iter((1, 0))

        def act(*_done_instead: int) -> int:
            for answer in calls:
                return answer
            raise EnvError("it knows no further")

        return act

    env = Advised(gym.make(LEVEL), Expert("brief", begin))
    play(env, 3, [0] * 200)
    assert env.take() == (1, 0)

    def refuse(_env: gym.Env[Any, Any]) -> Any:
        raise EnvError("it knows nothing")

    silent = Advised(gym.make(LEVEL), Expert("silent", refuse))
    play(silent, 3, [0] * 200)
    assert silent.take() == ()


def test_corrected_turns_have_the_experts_actions_and_the_prompts_that_were_read() -> None:
    prompts = [np.arange(1, 3 + n, dtype=np.int32) for n in range(4)]
    turns = tuple(
        Turn(prompt, ((7,), (8,), (9,)), 0, -1.5, float(n == 2), n == 2, False, 4)
        for n, prompt in enumerate(prompts[:3])
    )
    trajectory = Trajectory(turns, None, env_index=1, seed=3)
    told = corrected(trajectory, (2, 1, 2))
    assert told is not None
    assert [(turn.action, turn.logprob, turn.reward) for turn in told.turns] == [(2, 0, 0), (1, 0, 0), (2, 0, 1)]
    assert all(one.prompt_ids is other.prompt_ids for one, other in zip(told.turns, turns, strict=True))
    assert (told.final_prompt_ids, told.seed) == (None, 3)
    short = corrected(trajectory, (2,))
    assert short is not None
    assert len(short.turns) == 1
    assert short.final_prompt_ids is prompts[1], "what follows has to be estimated"
    assert corrected(trajectory, ()) is None
