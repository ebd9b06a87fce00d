import random
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import llmgym  # noqa: F401
from llmgym.envs.babyai.text_level import ACTIONS

LEVEL = "llmgym/BabyAI-GoToLocal-v0"
NUM_STEPS = 25


def make(num_envs: int, mode: str, autoreset: AutoresetMode, **vector_kwargs: Any) -> gymnasium.vector.VectorEnv:
    vector_kwargs |= {"autoreset_mode": autoreset}
    return gymnasium.make_vec(
        LEVEL, num_envs=num_envs, vectorization_mode=mode, vector_kwargs=vector_kwargs, max_steps=6
    )


def check_info(info: dict[str, Any], present: np.ndarray) -> None:
    """Candidates stand in Gymnasium's form: an object array with a tuple for each environment, and its mask."""
    assert info["actions"].dtype == object
    assert info["actions"].shape == present.shape
    assert info["_actions"].tolist() == present.tolist()
    assert [actions for actions, here in zip(info["actions"], present, strict=True) if here] == [
        ACTIONS
    ] * present.sum()


def play(venv: gymnasium.vector.VectorEnv, seeds: list[int], num_steps: int = NUM_STEPS) -> list[list[Any]]:
    """Take the same random actions in every environment; return what each of them showed, step by step."""
    mode = venv.metadata["autoreset_mode"]
    choose = random.Random(0)
    everywhere = np.ones(venv.num_envs, dtype=bool)
    texts, info = venv.reset(seed=seeds)
    check_info(info, everywhere)
    seen: list[list[Any]] = [[texts["mission"][k], texts["text"][k]] for k in range(venv.num_envs)]
    for _ in range(num_steps):
        actions = np.full(venv.num_envs, choose.randrange(6))
        texts, rewards, terminated, truncated, info = venv.step(actions)
        check_info(info, everywhere)
        is_over = terminated | truncated
        if mode is AutoresetMode.SAME_STEP and is_over.any():
            check_info(info["final_info"], is_over)
            assert all("text" in final for final in info["final_obs"][is_over])
        if mode is AutoresetMode.DISABLED and is_over.any():
            texts, info = venv.reset(options={"reset_mask": is_over})
            check_info(info, is_over)
        assert texts in venv.observation_space
        for k in range(venv.num_envs):
            step = (rewards[k], terminated[k], truncated[k], texts["mission"][k], texts["text"][k])
            seen[k].append(step)
    venv.close()
    return seen


@pytest.mark.parametrize("autoreset", list(AutoresetMode))
def test_sync_and_async_envs_show_the_same_episodes(autoreset: AutoresetMode) -> None:
    expected = play(make(3, "sync", autoreset), [7, 8, 9])
    assert any(step[2] for step in expected[0][2:])
    assert play(make(3, "sync", autoreset), [7, 8, 9]) == expected
    assert play(make(3, "async", autoreset, shared_memory=True), [7, 8, 9]) == expected
    assert play(make(3, "async", autoreset, shared_memory=False), [7, 8, 9]) == expected


@pytest.mark.parametrize("autoreset", list(AutoresetMode))
def test_an_envs_episodes_do_not_depend_on_its_neighbours(autoreset: AutoresetMode) -> None:
    together = play(make(4, "sync", autoreset), [3, 4, 5, 6])
    for k, seed in enumerate((3, 4, 5, 6)):
        assert play(make(1, "sync", autoreset), [seed]) == [together[k]]
    assert len({episode[1] for episode in together}) == 4


def test_a_vector_env_resets_env_k_with_the_seed_plus_k() -> None:
    texts, _ = gymnasium.make_vec(LEVEL, num_envs=3).reset(seed=20)
    singles = [gymnasium.make(LEVEL).reset(seed=20 + k)[0] for k in range(3)]
    assert texts == {key: tuple(single[key] for single in singles) for key in ("mission", "text")}


def test_a_spawned_worker_knows_the_ids() -> None:
    venv = make(1, "async", AutoresetMode.NEXT_STEP, context="spawn")
    assert play(venv, [1], num_steps=2) == play(make(1, "sync", AutoresetMode.NEXT_STEP), [1], num_steps=2)


def test_shared_memory_stays_small() -> None:
    space = gymnasium.make(LEVEL).observation_space
    num_bytes = sum(4 * text.max_length for text in space.values())  # type: ignore[attr-defined]
    assert num_bytes <= 32_768
