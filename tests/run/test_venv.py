"""Environments as a run makes them."""

from __future__ import annotations

import warnings

import pytest

from llmgym.envs.babyai.batch_env import BatchTextLevel
from llmgym.errors import EnvError
from llmgym.run.venv import make_env, make_venv


def test_levels_are_stepped_at_once_where_they_can_be_and_one_by_one_without_a_warning_elsewhere() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at_once = make_venv("llmgym/BabyAI-GoToLocal-v0", 2)
        one_by_one = make_venv("llmgym/BabyAI-KeyInBox-v0", 2)
        other = make_venv("llmgym/FrozenLake-v0", 2)
    assert isinstance(at_once.unwrapped, BatchTextLevel)
    assert not isinstance(one_by_one.unwrapped, BatchTextLevel)
    for venv in (at_once, one_by_one, other):
        observations, infos = venv.reset(seed=[5, 6], options={})  # type: ignore[arg-type]
        assert len(observations["text"]) == len(infos["actions"]) == 2
        venv.close()


def test_an_environment_takes_its_settings() -> None:
    venv = make_venv("llmgym/BabyAI-MixedTrainLocal-v0", 2, {"kind": "putnext", "num_dists": 3})
    env = make_env("llmgym/BabyAI-MixedTrainLocal-v0", {"kind": "putnext", "num_dists": 3})
    missions = venv.reset(seed=7)[0]["mission"]
    assert missions[0] == env.reset(seed=7)[0]["mission"]
    assert all(mission.startswith("put ") for mission in missions)


@pytest.mark.parametrize("env", ["llmgym/BabyAI-MixedTrainLocal-v0", "llmgym/FrozenLake-v0"])
def test_an_unknown_setting_is_named(env: str) -> None:
    for make in (lambda: make_venv(env, 2, {"kindness": 1}), lambda: make_env(env, {"kindness": 1})):
        with pytest.raises(EnvError, match=rf"Expected env_settings that {env} knows, found kindness: .* Correct or"):
            make()


def test_an_unknown_environment_is_named_with_its_nearest() -> None:
    with pytest.raises(EnvError, match="Did you mean 'llmgym/FrozenLake-v0'"):
        make_env("llmgym/FrozenLake-v1")
