import copy
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.core.world_object import Ball
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel

import llmgym  # noqa: F401
from llmgym.envs.babyai import LEVELS, describe, text_level
from llmgym.envs.babyai.reachability import check_objs_reachable
from llmgym.envs.babyai.text_level import TextLevel
from llmgym.errors import EnvError


@pytest.mark.parametrize("level", LEVELS)
def test_seeds_draw_the_episodes_of_minigrid(level: str, capfd: pytest.CaptureFixture[str]) -> None:
    env: Any = gymnasium.make(f"llmgym/BabyAI-{level}", disable_env_checker=True)
    plain: Any = gymnasium.make(f"BabyAI-{level}", disable_env_checker=True)
    for seed in (0, 1):
        (observation, _), _ = env.reset(seed=seed), plain.reset(seed=seed)
        ours, theirs = env.unwrapped, plain.unwrapped
        assert (ours.grid.encode() == theirs.grid.encode()).all()
        assert (ours.agent_pos, ours.agent_dir, ours.max_steps) == (
            theirs.agent_pos,
            theirs.agent_dir,
            theirs.max_steps,
        )
        assert ours.mission == ours.surface == theirs.mission == theirs.surface == observation["mission"]
        assert ours.np_random.bit_generator.state == theirs.np_random.bit_generator.state
    capfd.readouterr()


def test_what_is_out_of_reach_is_what_minigrid_finds_out_of_reach() -> None:
    env: Any = gymnasium.make("llmgym/BabyAI-UnlockMedium-v0", num_dists=6).unwrapped
    found = []
    for seed in range(40):
        env.reset(seed=seed)
        for _ in range(seed):
            x, y = env.np_random.integers(1, env.width - 1), env.np_random.integers(1, env.height - 1)
            if (x, y) != tuple(env.agent_pos) and env.grid.get(x, y) is None:
                env.put_obj(Ball("red"), int(x), int(y))
        found.append(check_objs_reachable(env, raise_exc=False))
        assert found[-1] == RoomGridLevel.check_objs_reachable(env, raise_exc=False)
        if not found[-1]:
            with pytest.raises(RejectSampling, match="out of reach"):
                check_objs_reachable(env)
    assert 5 < sum(found) < 35


def test_reward_falls_with_the_steps_taken() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0")
    env.reset(seed=0)
    *_, reward, terminated, truncated, _ = env.step(2)
    assert (reward, terminated, truncated) == (0, False, False)
    _, reward, terminated, truncated, _ = env.step(2)
    assert (reward, terminated, truncated) == (1 - 0.9 * 2 / 64, True, False)


def test_time_out_truncates_and_does_not_terminate() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0")
    env.reset(seed=2)
    steps = [env.step(4) for _ in range(64)]
    assert [step[1:4] for step in steps] == [(0, False, False)] * 63 + [(0, False, True)]


def test_success_on_the_last_step_pays_a_tenth_and_is_both() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0", max_steps=2)
    env.reset(seed=0)
    env.step(2)
    _, reward, terminated, truncated, _ = env.step(2)
    assert reward == pytest.approx(0.1)
    assert (terminated, truncated) == (True, True)


def test_settings_reach_the_level() -> None:
    env: Any = gymnasium.make("llmgym/BabyAI-GoToLocal-v0", num_dists=1, max_steps=5, room_size=5)
    env.reset(seed=0)
    assert (env.unwrapped.num_dists, env.unwrapped.max_steps, env.unwrapped.width) == (1, 5, 5)


def test_a_setting_that_the_level_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError, match="num_distractors"):
        gymnasium.make("llmgym/BabyAI-GoToLocal-v0", num_distractors=1)


@pytest.mark.parametrize("action", [6, -1, "turn left", None, 1.0])
def test_an_action_that_is_none_of_the_six_is_refused(action: Any) -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0", disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(EnvError, match="Expected an action from 0 to 5, got"):
        env.step(action)


def test_numpy_actions_are_actions() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0")
    env.reset(seed=0)
    assert env.step(np.int64(0))[0] != env.step(np.uint8(2))[0]


def test_what_is_carried_from_the_start_is_told() -> None:
    env: Any = gymnasium.make("llmgym/BabyAI-PutNextS5N2Carrying-v0")
    observation, info = env.reset(seed=0)
    carried = env.unwrapped.carrying
    assert info["descriptions"][0] == f"You carry a {carried.color} {carried.type}"
    assert observation["text"].startswith(info["descriptions"][0])


def test_a_level_without_room_for_its_objects_is_refused_instead_of_drawing_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_level, "_MAX_DRAWS", 3)
    env: Any = gymnasium.make("llmgym/BabyAI-GoToLocal-v0", room_size=4, num_dists=4, disable_env_checker=True)
    with pytest.raises(
        EnvError, match=r"Expected GoToLocal to draw a mission, but 3 draws were rejected.*num_dists.*room_size"
    ):
        env.reset(seed=0)


def test_another_environment_is_no_level() -> None:
    with pytest.raises(EnvError, match=r"Expected a BabyAI level of minigrid, got .*CartPole.*TextEnv"):
        TextLevel(gymnasium.make("CartPole-v1"))


def test_the_fullest_view_fits_into_the_observation() -> None:
    image = np.zeros((7, 7, 3), dtype=np.uint8)
    image[...] = (4, 4, 2)
    longest = ", ".join(["You carry a yellow ball", *describe(image)])
    space = gymnasium.make("llmgym/BabyAI-GoToLocal-v0").observation_space
    assert longest in space["text"]  # type: ignore[index]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
@pytest.mark.parametrize("level", ["BossLevel", "MixedTrainLocal"])
def test_a_copy_goes_on_where_the_original_is(level: str, copied: Any) -> None:
    env = gymnasium.make(f"llmgym/BabyAI-{level}-v0", parity=False)
    env.reset(seed=0)
    twin = copied(env)
    assert [twin.step(2)[0], twin.reset()[0]] == [env.step(2)[0], env.reset()[0]]
