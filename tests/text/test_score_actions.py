"""ScoreActions: prompts kept in step with the vector in every autoreset mode, and a distribution at every step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.errors import EnvError
from llmgym.text import ScoreActions, TextEnv
from llmgym.types import Acting


class Countdown(gym.Env):
    """Counts down from the seed; "stay" does nothing, "down" counts; 0 terminates, three steps truncate."""

    observation_space = gym.spaces.Discrete(10)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start = 3 if not hasattr(self, "start") else self.start - 1
        self.left, self.steps = self.start, 0
        return self.left, {}

    def step(self, action):
        self.left -= int(action)
        self.steps += 1
        return self.left, float(self.left == 0), self.left == 0, self.steps >= 5, {}


def text_env() -> TextEnv:
    return TextEnv(Countdown(), describe=lambda left: f"{left} left", actions=("stay", "down"), mission="reach 0")


def wrapped(mode: AutoresetMode, engine=None) -> ScoreActions:
    venv = SyncVectorEnv([text_env, text_env], autoreset_mode=mode)
    return ScoreActions(venv, engine or ScriptedEngine(lambda _, candidate: -1.0 if "down" in candidate else -2.0))


def texts(venv: ScoreActions) -> list[str]:
    decode = venv.engine.tokenizer.decode
    return [decode(history.prompt_ids).split("Observation: ", 1)[1] for history in venv.histories]


def test_logprobs_are_a_distribution_after_reset_and_step() -> None:
    venv = wrapped(AutoresetMode.NEXT_STEP)
    _, infos = venv.reset(seed=0)
    for _ in range(3):
        logprobs = infos["action_logprobs"]
        assert logprobs.shape == (2, 2)
        assert logprobs.dtype == np.float32
        expected = np.log(np.exp([-2.0, -1.0]) / np.exp([-2.0, -1.0]).sum())
        np.testing.assert_allclose(logprobs, [expected, expected], atol=1e-6)
        np.testing.assert_array_equal(infos["policy_version"], [0, 0])
        *_, infos = venv.step(np.array([0, 1]))


def test_next_step_mode_begins_a_prompt_one_step_after_the_end() -> None:
    venv = wrapped(AutoresetMode.NEXT_STEP)
    venv.reset(seed=0)
    for _ in range(3):
        venv.step(np.array([1, 0]))
    assert texts(venv)[0].endswith("Action: down\nObservation: 0 left\nAction:")
    venv.step(np.array([0, 0]))
    assert texts(venv)[0] == "2 left\nAction:"
    assert texts(venv)[1].count("stay") == 4


def test_same_step_mode_begins_a_prompt_at_once() -> None:
    venv = wrapped(AutoresetMode.SAME_STEP)
    venv.reset(seed=0)
    for _ in range(3):
        venv.step(np.array([1, 0]))
    assert texts(venv)[0] == "2 left\nAction:"
    assert texts(venv)[1].count("stay") == 3


def test_disabled_mode_begins_a_prompt_where_the_mask_says() -> None:
    venv = wrapped(AutoresetMode.DISABLED)
    venv.reset(seed=0)
    for _ in range(3):
        venv.step(np.array([1, 0]))
    venv.reset(options={"reset_mask": np.array([True, False])})
    assert texts(venv)[0] == "2 left\nAction:"
    assert texts(venv)[1].count("stay") == 3


def test_actions_drawn_from_the_logprobs_drive_the_environment() -> None:
    venv = wrapped(AutoresetMode.NEXT_STEP)
    generator = np.random.default_rng(0)
    _, infos = venv.reset(seed=0)
    total = 0.0
    for _ in range(30):
        probabilities = np.exp(infos["action_logprobs"].astype(np.float64))
        actions = np.array([generator.choice(2, p=row / row.sum()) for row in probabilities])
        _, rewards, _, _, infos = venv.step(actions)
        total += rewards.sum()
    assert total > 0


def test_environment_without_actions_in_its_info_is_refused() -> None:
    venv = ScoreActions(SyncVectorEnv([lambda: Plain()]), ScriptedEngine())
    with pytest.raises(EnvError, match=r"Expected info\['actions'\].*environment 0, found nothing\. Wrap"):
        venv.reset()


class Plain(gym.Env):
    """Text without actions in the info."""

    observation_space = gym.spaces.Dict({"mission": gym.spaces.Text(9), "text": gym.spaces.Text(9)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"mission": "a", "text": "b"}, {}


def test_temperature_zero_has_no_logprobs() -> None:
    with pytest.raises(EnvError, match="Expected a temperature above 0"):
        ScoreActions(SyncVectorEnv([text_env]), ScriptedEngine(), acting=Acting(temperature=0))
