"""A run that learns over 4 bits: the engine serves the plain weights that they stand for, in training and after."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import llmgym
from llmgym.config import CloneSettings, CollectSettings, EvalConfig, EvaluationSettings, RunConfig
from llmgym.engine import EngineSettings
from llmgym.learner.lora import LoraSettings
from llmgym.learner.settings import LearnerSettings
from llmgym.learner.tiny import TinySettings

CONFIG = RunConfig(
    env="llmgym/BabyAI-GoToObjS4-v0",
    updates=2,
    checkpoint_every=1,
    backend="transformers",
    tiny=TinySettings(vocab_size=400, hidden_size=64, num_layers=1, num_heads=1, intermediate_size=128),
    clone=CloneSettings(episodes=0),
    collect=CollectSettings(num_envs=3, steps_per_update=6),
    learner=LearnerSettings(lora=LoraSettings(rank=4), load_in_4bit=True),
    engine=EngineSettings(max_lora_rank=8),
    evaluation=EvaluationSettings(episodes=6, num_envs=3),
)


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_engine_and_learner_agree_whether_the_engine_holds_4_bits_or_plain_weights(tmp_path: Path) -> None:
    llmgym.train(CONFIG, tmp_path / "plain")
    in_4bit = replace(CONFIG, engine=replace(CONFIG.engine, load_in_4bit=True))
    llmgym.train(in_4bit, tmp_path / "packed")
    for row in (*rows_of(tmp_path / "plain"), *rows_of(tmp_path / "packed")):
        assert row["canary_gap"] < 1e-4
        assert row["behaviour_gap"] < 1e-4
    assert (tmp_path / "plain" / "dequantized" / "model.safetensors").is_file()
    assert not (tmp_path / "packed" / "dequantized").exists()


def test_a_run_is_resumed_and_evaluated_on_the_same_plain_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, updates=1)
    llmgym.train(config, tmp_path / "run")
    weights = tmp_path / "run" / "dequantized" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    llmgym.train(config, tmp_path / "run", resume=True)
    result = llmgym.evaluate(EvalConfig(str(tmp_path / "run"), CONFIG.env, episodes=6, num_envs=3))
    trained = json.loads((tmp_path / "run" / "result.json").read_text())["trained"]
    assert result.row.mean_return == pytest.approx(trained["mean_return"])
    assert weights.stat().st_mtime_ns == written
