import gymnasium
import numpy as np
import pytest
from minigrid.utils.baby_ai_bot import BabyAIBot

import llmgym  # noqa: F401
from llmgym.envs.babyai.bot import Bot
from llmgym.errors import EnvError


def solve(env_id: str, seed: int) -> tuple[int, float]:
    """Return the number of steps and the reward of the last."""
    env = gymnasium.make(env_id)
    env.reset(seed=seed)
    bot, action, num_steps = Bot(env), None, 0
    while True:
        action = bot.act(action)
        _, reward, terminated, truncated, _ = env.step(action)
        num_steps += 1
        if terminated or truncated:
            return num_steps, float(reward)


@pytest.mark.parametrize(
    ("level", "lengths"),
    [("GoToLocal", [2, 2, 6, 6, 5, 5, 7, 1, 3, 2]), ("PutNextLocal", [6, 10, 20, 13, 14, 18, 13, 9, 9, 6])],
)
def test_the_bot_takes_the_steps_that_the_original_takes(level: str, lengths: list[int]) -> None:
    solved = [solve(f"llmgym/BabyAI-{level}-v0", seed) for seed in range(10)]
    assert [num_steps for num_steps, _ in solved] == lengths
    limit = 64 if level == "GoToLocal" else 128
    assert [reward for _, reward in solved] == [1 - 0.9 * (num_steps / limit) for num_steps in lengths]


@pytest.mark.parametrize("level", ["Unlock", "UnblockPickup", "BossLevel", "OpenDoorsOrderN4", "FindObjS5"])
def test_the_bot_solves_levels_of_every_sort(level: str) -> None:
    assert solve(f"llmgym/BabyAI-{level}-v0", 1)[1] > 0


def test_the_bot_goes_on_after_an_action_of_another() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0")
    env.reset(seed=3)
    bot = Bot(env)
    bot.act()
    for stray in (1, 1, 2, 0):
        env.step(stray)
        action = bot.act(stray)
    for _ in range(60):
        _, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
        action = bot.act()
    assert (terminated, truncated) == (True, False)
    assert float(reward) > 0


@pytest.mark.parametrize("level", ["MixedTrainLocal", "BossLevel", "GoToRedBallGrey", "PutNextLocal", "KeyCorridor"])
def test_the_bot_remembers_what_the_original_would_have_seen(level: str) -> None:
    env = gymnasium.make(f"llmgym/BabyAI-{level}-v0")
    rng = np.random.default_rng(0)
    for seed in range(5):
        env.reset(seed=seed)
        bot, original = Bot(env), BabyAIBot(env)
        bot.act()
        action, is_over = original.replan(), False
        while not is_over:
            taken = int(rng.integers(3)) if rng.random() < 0.3 else int(action)
            _, _, terminated, truncated, _ = env.step(taken)
            is_over = terminated or truncated
            if not is_over:
                action = original.replan(taken)
                assert bot.act(taken) == int(action)
            np.testing.assert_array_equal(bot._planner.vis_mask, original.vis_mask)


@pytest.mark.parametrize(
    ("level", "seed", "reason"),
    [
        ("KeyInBox", 0, "AssertionError"),
        ("PutNextS5N2Carrying", 0, "nothing left to explore"),
        ("UnlockToUnlock", 4, "plans in circles"),
    ],
)
def test_where_the_bot_gives_up_it_says_so(level: str, seed: int, reason: str) -> None:
    message = rf"solve llmgym/BabyAI-{level}-v0, mission '.+', but it gives up at step \d+ .*{reason}"
    with pytest.raises(EnvError, match=message):
        solve(f"llmgym/BabyAI-{level}-v0", seed)


def test_the_bot_wants_an_episode_of_babyai() -> None:
    with pytest.raises(EnvError, match=r"never reset\. Call env\.reset"):
        Bot(gymnasium.make("llmgym/BabyAI-GoToLocal-v0"))
    with pytest.raises(EnvError, match=r"Expected a BabyAI level, got .*CartPole"):
        Bot(gymnasium.make("CartPole-v1"))
