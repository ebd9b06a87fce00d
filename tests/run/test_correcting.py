"""Correcting a clone, from Python on the transformers engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmgym
from llmgym.config import CloneSettings, CollectSettings, EvalConfig, EvaluationSettings, Lesson, RunConfig
from llmgym.errors import ConfigError
from llmgym.learner.settings import LearnerSettings
from llmgym.learner.tiny import TinySettings
from llmgym.run.identity import run_identity
from llmgym.run.report import SilentReporter
from llmgym.types import Acting


def small_run(clone: CloneSettings, **changes: Any) -> RunConfig:
    config = RunConfig(
        env="llmgym/BabyAI-GoToObjS4-v0",
        updates=1,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        clone=clone,
        collect=CollectSettings(num_envs=3, steps_per_update=4),
        learner=LearnerSettings(num_threads=1),
        evaluation=EvaluationSettings(episodes=4, num_envs=2),
    )
    return replace(config, **changes)


CLONE = CloneSettings(episodes=4, epochs=1, rounds=3, round_episodes=5, own_turns=2)


def log_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "cloning.jsonl").read_text().splitlines()]


def test_a_clone_is_corrected_and_measured_and_goes_on_to_learn(tmp_path: Path) -> None:
    result = llmgym.train(small_run(CLONE), tmp_path / "run")
    assert [row.name for row in result.rows] == ["random", "clone", "corrected", "trained"]
    told = log_of(tmp_path / "run")
    assert [row.get("round") for row in told] == [None, 1, 2, 3]
    assert all({"solved_alone", "own_turns", "turns", "clone_loss", "accuracy"} <= set(row) for row in told[1:])
    assert all(5 <= row["own_turns"] <= 10 for row in told[1:]), "five episodes a round, of one or two turns"
    assert all(row["turns"] >= row["own_turns"] for row in told[1:]), "the expert plays on"
    (update,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert update["policy_version"] == 4, "three rounds and an update"
    assert update["behaviour_gap"] < 1e-4


def test_what_cloned_is_kept_beside_what_was_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = small_run(CLONE, updates=0), tmp_path / "clone"
    llmgym.train(config, run)
    result = json.loads((run / "result.json").read_text())
    kept, corrected = run / "checkpoints" / "clone", run / "checkpoints" / "update-000000"
    for policy, name in ((kept, "clone"), (corrected, "corrected")):
        measured = llmgym.evaluate(EvalConfig(str(policy), config.env, episodes=4, num_envs=2))
        assert (measured.row.success, measured.row.mean_turns) == (result[name]["success"], result[name]["mean_turns"])
    named = run_identity(kept)
    assert named.name == "clone, clone", "the run is called so, too"
    assert named.training == f"trained on {config.env} (4 demonstrations)"
    assert named.facts["checkpoint"] == "clone"
    assert named.facts["weights_sha256"] != run_identity(corrected).facts["weights_sha256"]
    assert "3 rounds of corrections" in run_identity(run).training
    monkeypatch.chdir(kept)
    assert run_identity(Path()) == replace(named, facts={**named.facts, "path": "."})
    run = run.rename(tmp_path / "update-000007")
    assert run_identity(run).facts["checkpoint"] == "update-000000", "a run may be called as a checkpoint is"


def test_rounds_may_have_a_learning_rate_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    scale = llmgym.Learner.scale_learning_rate

    def noted(learner: llmgym.Learner, factor: float) -> None:
        rates.append(1e-3 * factor)
        scale(learner, factor)

    monkeypatch.setattr(llmgym.Learner, "scale_learning_rate", noted)
    clone = replace(CLONE, epochs=2, round_learning_rate=4e-4, final_learning_rate=0.5)
    llmgym.train(small_run(clone, updates=0), tmp_path / "run")
    assert rates == pytest.approx([1e-3, 5e-4, 4e-4, 3e-4, 2e-4])


def test_an_interrupted_correction_goes_on_where_it_was(tmp_path: Path) -> None:
    class Stop(SilentReporter):
        def __init__(self) -> None:
            self.name = ""

        def stage(self, name: str, total: int | None, unit: str) -> None:
            self.name = name

        def advance(self, done: int, metrics: Any) -> None:
            if self.name == "correction" and done == 2:
                raise KeyboardInterrupt

    config = small_run(CLONE)
    llmgym.train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        llmgym.train(config, tmp_path / "run", Stop())
    assert len(log_of(tmp_path / "run")) == 3
    assert "2 rounds of corrections" in run_identity(tmp_path / "run").training
    llmgym.train(config, tmp_path / "run", resume=True)
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clone": CloneSettings(rounds=2)}, r"demonstrations before clone\.rounds=2, found none"),
        ({"acting": Acting("text")}, r"acting\.how to be score or constrained with clone\.rounds=3, found text"),
        ({"clone": CloneSettings(episodes=2, rounds=-1)}, r"clone\.rounds of at least 0, found -1"),
        ({"clone": CloneSettings(episodes=2, round_episodes=0)}, r"clone\.round_episodes of at least 1, found 0"),
        (
            {"clone": CloneSettings(episodes=2, rounds=1, round_learning_rate=0.0)},
            r"clone\.round_learning_rate above 0 where the rounds have a rate of their own, found 0\.001 and 0\.0",
        ),
        ({"clone": CloneSettings(lessons=(Lesson(0),))}, r"clone\.lessons\[0\]\.episodes of at least 1, found 0"),
        ({"clone": CloneSettings(episodes=2, own_turns=0)}, r"clone\.own_turns of at least 1, found 0"),
    ],
)
def test_what_cannot_be_corrected_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_run(CLONE, **changes) if "clone" not in changes else small_run(**changes)


def test_an_environment_without_an_expert_cannot_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"an environment with an expert to clone, .* clone\.episodes=0"):
        llmgym.train(small_run(CLONE, env="llmgym/CartPole-v0"), tmp_path / "run")


def test_without_an_update_the_clone_is_what_was_trained(tmp_path: Path) -> None:
    result = llmgym.train(small_run(CloneSettings(episodes=2, epochs=1), updates=0), tmp_path / "run")
    _, clone, trained = result.rows
    assert trained == replace(clone, name="trained")
