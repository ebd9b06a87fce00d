"""The benchmark of staleness, on a workload that takes seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmgym.bench.staleness import CONFIG, Outcome, Workload, _figures, run
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings
from llmgym.learner.tiny import TinySettings


def test_rates_and_success_are_measured_for_every_staleness() -> None:
    config = replace(
        CONFIG,
        env="llmgym/FrozenLake-v0",
        env_settings={"is_slippery": False, "max_episode_steps": 8},
        updates=4,
        checkpoint_every=4,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        clone=CloneSettings(episodes=2, epochs=1),
        collect=CollectSettings(num_envs=4, steps_per_update=4),
        evaluation=EvaluationSettings(episodes=4, num_envs=4),
    )
    figures = run(Workload(config, stalenesses=(0, 2), seeds=(1,))).figures
    for name in ("staleness0", "staleness2"):
        assert 0 <= figures[f"{name}_low"] <= figures[f"{name}_success"] <= figures[f"{name}_high"] <= 1
        assert figures[f"{name}_env_steps_per_second"] == pytest.approx(16 * figures[f"{name}_updates_per_second"])
        assert 0 <= figures[f"{name}_wait_share"] < 1
    assert figures["staleness0_staleness"] == figures["staleness0_weight_clipped"] == 0
    assert 0 < figures["staleness2_staleness"] <= 2
    assert figures["staleness0_speedup"] == 1
    assert figures["staleness2_speedup"] == pytest.approx(
        figures["staleness2_env_steps_per_second"] / figures["staleness0_env_steps_per_second"]
    )


def test_one_run_on_a_busy_machine_changes_no_rate() -> None:
    outcomes = [Outcome(0.5, rate, rate / 512, 1.0, 0.1, 0.2) for rate in (100.0, 20.0, 120.0)]
    figures = _figures("staleness1", outcomes)
    assert figures["staleness1_env_steps_per_second"] == 100
    assert figures["staleness1_updates_per_second"] == 100 / 512
    assert figures["staleness1_success"] == 0.5
