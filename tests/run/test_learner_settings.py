"""Settings of the learner from a recipe: that each does what it says in a run, and comes back with a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import llmgym
from llmgym.config import EvalConfig, RunConfig, load_config
from llmgym.learner import Learner

RECIPE = """
env = "llmgym/BabyAI-GoToObjS4-v0"
updates = 2
checkpoint_every = 1
backend = "transformers"
tiny = {vocab_size = 400, hidden_size = 32, num_layers = 1, num_heads = 1, intermediate_size = 64}
clone = {episodes = 4}
collect = {num_envs = 3, steps_per_update = 6}
evaluation = {episodes = 4, num_envs = 2}
"""


def configured(tmp_path: Path, *overrides: str) -> RunConfig:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return load_config(tmp_path / "recipe.toml", overrides)


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if "second" not in name and "memory" not in name} for row in rows
    ]


def test_a_run_in_bfloat16_on_an_adapter_with_dropout_repeats_and_is_a_policy(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        "learner.precision=bf16",
        "learner.canary_tolerance=0.4",
        "learner.on_non_finite=skip",
        "engine.max_lora_rank=2",
        "learner.lora.rank=2",
        "learner.lora.dropout=0.2",
    )
    result = llmgym.train(config, tmp_path / "one")
    rows = rows_of(tmp_path / "one")
    assert all(0 < row["canary_gap"] < 0.4 and 0 < row["behaviour_gap"] < 1 for row in rows)
    assert [row["skipped_steps"] for row in rows] == [0, 0]
    learner = Learner.load(tmp_path / "one" / "checkpoints" / "update-000002")
    assert (learner.policy.precision, learner.canary_tolerance) == ("bf16", 0.4)
    assert learner.policy.lora is not None
    assert learner.policy.lora.dropout == 0.2
    llmgym.train(config, tmp_path / "two")
    assert rows_of(tmp_path / "two") == rows
    measured = llmgym.evaluate(EvalConfig(str(tmp_path / "one"), config.env, episodes=4, num_envs=2))
    assert measured.row.success == result.rows[-1].success
