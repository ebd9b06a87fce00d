"""Training, measuring and playing in the ways to act that are not the default, on the transformers engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmgym
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig
from llmgym.errors import ConfigError
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.store import read_trajectories
from llmgym.run.episode import PlayStep, play
from llmgym.types import Acting

ENV = "llmgym/BabyAI-GoToObjS4-v0"


def small_config(acting: Acting, *, barrier: bool = True) -> RunConfig:
    return RunConfig(
        env=ENV,
        updates=1,
        checkpoint_every=1,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        acting=acting,
        clone=CloneSettings(episodes=4, epochs=2),
        collect=CollectSettings(num_envs=2, steps_per_update=5, barrier=barrier),
        evaluation=EvaluationSettings(episodes=2, num_envs=2),
    )


def metrics_of(run_dir: Path) -> dict[str, float]:
    (row,) = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {name: value for name, value in row.items() if "second" not in name and "memory" not in name}


@pytest.mark.parametrize("how", ["constrained", "text", "reason"])
def test_a_run_learns_from_what_it_said(how, tmp_path: Path) -> None:
    acting = Acting(how, max_new_tokens=5)
    llmgym.train(small_config(acting), tmp_path / "run")
    row = metrics_of(tmp_path / "run")
    assert row["behaviour_gap"] < 1e-4
    assert ("unparsed" in row) == (how == "text")
    kept = tmp_path / "run" / "trajectories" / "update-000001.jsonl"
    turns = [turn for one in read_trajectories(kept) for turn in one.turns]
    assert len(turns) == 10
    assert {bool(turn.sampled_ids) for turn in turns} == {how != "constrained"}
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 <= result["trained"]["unparsed"] <= 1

    steps = list(play(str(tmp_path / "run"), ENV, max_turns=2))
    for step in steps:
        assert isinstance(step, PlayStep)
        if how == "text":
            assert step.probabilities == ()
        else:
            assert sum(step.probabilities) == pytest.approx(1.0, abs=1e-4)
        assert how != "constrained" or step.said == ""


def test_a_run_without_a_barrier_comes_to_the_same_numbers(tmp_path: Path) -> None:
    acting = Acting("reason", max_new_tokens=4)
    llmgym.train(small_config(acting), tmp_path / "locked")
    llmgym.train(small_config(acting, barrier=False), tmp_path / "free")
    free, locked = metrics_of(tmp_path / "free"), metrics_of(tmp_path / "locked")
    assert free.keys() == locked.keys()
    for name, value in free.items():
        # Batches of other sizes round differently.
        assert value == pytest.approx(locked[name], rel=1e-3, abs=1e-4), name


def test_a_parser_that_does_not_exist_stops_a_run_before_it_begins(tmp_path: Path) -> None:
    config = small_config(Acting("text", parser="llmgym_nowhere:parse"))
    with pytest.raises(ConfigError, match=r"Expected acting\.parser to name a module that can be imported"):
        llmgym.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_acting_that_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"acting\.normalize to be sum or mean, found none"):
        small_config(Acting(normalize="none"))
    with pytest.raises(ConfigError, match=r"acting\.max_new_tokens of at least 1, found 0"):
        small_config(Acting("text", max_new_tokens=0))
