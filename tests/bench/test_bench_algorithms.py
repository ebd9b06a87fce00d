"""The benchmark of algorithms, on a workload that takes seconds."""

from __future__ import annotations

import pytest

from llmgym.algorithms import ALGORITHMS
from llmgym.bench.algorithms import ALGORITHMS as MEASURED
from llmgym.bench.algorithms import Workload, run

LAKE = {"lake": ("llmgym/FrozenLake-v0", {"is_slippery": False, "max_episode_steps": 8})}


def test_every_algorithm_is_measured() -> None:
    assert set(MEASURED) == set(ALGORITHMS) - {"clone"}, "which is what they begin with"


def test_policies_are_measured_with_intervals_over_seeds() -> None:
    work = Workload(
        envs=LAKE,
        algorithms={"ppo": {}, "grpo": {}, "ilql": {}},
        seeds=(0, 1),
        num_env_steps=70,
        clone_episodes=2,
        eval_episodes=4,
        num_envs=4,
        group_size=2,
        num_processes=1,
        backend="transformers",
    )
    figures = run(work).figures
    for policy in ("random", "clone", "ppo", "grpo", "ilql"):
        assert 0 <= figures[f"lake_{policy}_low"] <= figures[f"lake_{policy}_success"]
        assert figures[f"lake_{policy}_success"] <= figures[f"lake_{policy}_high"] <= 1
    assert figures["lake_ppo_env_steps"] == pytest.approx(128), "two collections of 4 x 16"
    assert figures["lake_grpo_env_steps"] >= 70
