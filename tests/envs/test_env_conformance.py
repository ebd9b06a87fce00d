import random
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import llmgym  # noqa: F401
from llmgym.envs.babyai.text_level import ACTIONS

IDS = sorted(name for name in gymnasium.registry if name.startswith("llmgym/BabyAI-"))


@pytest.mark.parametrize("env_id", IDS)
def test_registered_env_keeps_the_contract(env_id: str, capfd: pytest.CaptureFixture[str]) -> None:
    env = gymnasium.make(env_id, disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(env, skip_render_check=True)
    assert env.action_space == gymnasium.spaces.Discrete(6)
    assert isinstance(env.observation_space["mission"], gymnasium.spaces.Text)
    assert isinstance(env.observation_space["text"], gymnasium.spaces.Text)
    env = gymnasium.make(env_id, disable_env_checker=True)
    first = play(env, seed=3)
    assert play(env, seed=3) == first
    assert play(gymnasium.make(env_id), seed=3) == first
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("level", ["GoToLocal-v0", "MixedTrainLocal-v0", "PutNextS5N2Carrying-v0"])
def test_symbolic_env_keeps_the_contract_and_shows_minigrids_view(level: str) -> None:
    env = gymnasium.make(f"llmgym/BabyAI-{level}", disable_env_checker=True, symbolic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(env, skip_render_check=True)
    inner: Any = env.unwrapped
    observation, info = env.reset(seed=3)
    for action in (2, 0, 2, 1, 3):
        assert info["actions"] == ACTIONS
        assert observation in env.observation_space
        assert observation["image"].tolist() == inner.gen_obs()["image"].tolist()
        assert observation["mission"] == inner.mission
        observation, _, _, _, info = env.step(action)


@pytest.mark.parametrize("name", ["BabyAI-GoToLocal-v0", "BabyAI-MixedTrainLocal-v0", "FrozenLake-v0", "Blackjack-v0"])
def test_an_episode_neither_draws_from_global_generators_nor_seeds_them(name: str) -> None:
    def episode() -> list[Any]:
        env = gymnasium.make(f"llmgym/{name}", disable_env_checker=True)
        seen: list[Any] = [env.reset(seed=3)]
        for _ in range(6):
            seen.append(env.step(0))
            if seen[-1][2] or seen[-1][3]:
                break
        return [str(one) for one in seen]

    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), str(np.random.get_state())
    first = episode()
    assert (random.getstate(), str(np.random.get_state())) == before
    random.seed(2)
    np.random.seed(2)
    assert episode() == first


def play(env: gymnasium.Env[Any, Any], seed: int, num_steps: int = 15) -> list[Any]:
    """Take random actions, check what every step must hold, and return all that was seen."""
    observation, info = env.reset(seed=seed)
    seen: list[Any] = [observation]
    choose = random.Random(seed)
    for _ in range(num_steps):
        assert info["actions"] == ACTIONS
        assert observation in env.observation_space
        assert observation["mission"]
        assert observation["text"] == ", ".join(info["descriptions"])
        observation, reward, terminated, truncated, info = env.step(choose.randrange(6))
        assert (type(terminated), type(truncated)) == (bool, bool)
        seen.append((observation, reward, terminated, truncated, info))
        if terminated or truncated:
            observation, info = env.reset()
            seen.append(observation)
    return seen


def test_rendering_is_minigrids_and_makes_no_difference_to_the_episode() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0", render_mode="rgb_array", screen_size=320)
    plain = gymnasium.make("BabyAI-GoToLocal-v0", render_mode="rgb_array", screen_size=320)
    assert env.reset(seed=4)[0] == gymnasium.make("llmgym/BabyAI-GoToLocal-v0").reset(seed=4)[0]
    plain.reset(seed=4)
    frame: Any = env.render()
    assert frame.ndim == 3
    assert (frame == plain.render()).all()


def test_frames_are_collected_where_the_render_mode_asks_for_a_list() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0", render_mode="rgb_array_list", screen_size=64)
    env.reset(seed=0)
    env.step(0)
    frames: Any = env.render()
    assert isinstance(frames, list)
    assert len(frames) == 2


def test_an_env_can_be_made_again_from_its_spec() -> None:
    env = gymnasium.make("llmgym/BabyAI-GoToLocal-v0", num_dists=2)
    assert env.spec is not None
    assert gymnasium.make(env.spec).reset(seed=5)[0] == env.reset(seed=5)[0]
