"""Training from Python on the transformers engine: what it leaves, that it repeats, resumes, and survives Ctrl-C."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import llmgym
from llmgym.config import CloneSettings, CollectSettings, EvalConfig, EvaluationSettings, RunConfig
from llmgym.engine import EngineSettings
from llmgym.errors import ConfigError, EnvError, RunError
from llmgym.learner.lora import LoraSettings
from llmgym.learner.settings import LearnerSettings
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.store import read_trajectories
from llmgym.run.folder import RunFolder
from llmgym.run.identity import run_identity
from llmgym.run.report import SilentReporter

TINY = TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64)


def small_config(**changes) -> RunConfig:
    config = RunConfig(
        env="llmgym/BabyAI-GoToObjS4-v0",
        updates=3,
        checkpoint_every=2,
        backend="transformers",
        tiny=TINY,
        clone=CloneSettings(episodes=4, epochs=1),
        collect=CollectSettings(num_envs=3, steps_per_update=6),
        evaluation=EvaluationSettings(episodes=6, num_envs=3),
    )
    return replace(config, **changes)


def metrics_without_times(run_dir: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if "second" not in name and "memory" not in name} for row in rows
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    llmgym.train(small_config(), run_dir)
    return run_dir


def test_run_leaves_everything_it_promises(finished: Path) -> None:
    rows = metrics_without_times(finished)
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert [row["env_steps"] for row in rows] == [18, 36, 54]
    assert [row["policy_version"] for row in rows] == [1, 2, 3]
    result = json.loads((finished / "result.json").read_text())
    for name in ("random", "clone", "trained"):
        assert result[name]["episodes"] == 6
        assert 0 <= result[name]["low"] <= result[name]["success"] <= result[name]["high"] <= 1
    assert result["seconds"] > 0
    assert sorted(child.name for child in (finished / "checkpoints").iterdir()) == [
        "update-000000",
        "update-000002",
        "update-000003",
    ]
    assert list((finished / "tensorboard").glob("events*"))
    (cloned,) = [json.loads(line) for line in (finished / "cloning.jsonl").read_text().splitlines()]
    assert cloned["episodes"] == 4
    assert {"clone_loss", "accuracy", "value_loss"} <= set(cloned)
    for row in map(json.loads, (finished / "metrics.jsonl").read_text().splitlines()):
        assert 0.05 < row["peak_memory_gib"] < 64
    assert (finished / "learning_curve.png").stat().st_size > 10_000
    assert RunFolder.open(finished).config() == small_config()
    turns = [turn for one in read_trajectories(finished / "trajectories" / "update-000003.jsonl") for turn in one.turns]
    assert len(turns) == 18
    assert {turn.policy_version for turn in turns} == {2}


def test_engine_and_learner_agree_on_every_update(finished: Path) -> None:
    for row in metrics_without_times(finished):
        assert row["canary_gap"] < 1e-4
        assert row["behaviour_gap"] < 1e-4


def test_a_checkpoint_of_a_run_is_a_policy_of_its_own(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    checkpoint = finished / "checkpoints" / "update-000000"
    for policy, name in ((checkpoint, "clone"), (finished, "trained")):
        measured = llmgym.evaluate(EvalConfig(str(policy), small_config().env, episodes=6, num_envs=3))
        assert (measured.row.success, measured.row.mean_turns) == (result[name]["success"], result[name]["mean_turns"])
    first, newest = run_identity(checkpoint), run_identity(finished)
    assert (first.name, first.facts["update"]) == ("run, update 0", 0)
    assert (newest.name, newest.facts["update"]) == ("run", 3)
    assert "4 demonstrations)" in first.training
    assert "4 demonstrations and 54 env steps)" in newest.training


def test_same_recipe_and_seed_write_the_same_metrics(finished: Path, tmp_path: Path) -> None:
    llmgym.train(small_config(), tmp_path / "again")
    assert metrics_without_times(tmp_path / "again") == metrics_without_times(finished)
    llmgym.train(small_config(seed=1), tmp_path / "other")
    assert metrics_without_times(tmp_path / "other") != metrics_without_times(finished)


def test_resumed_run_goes_on_from_its_newest_checkpoint(finished: Path, tmp_path: Path) -> None:
    class Stop(SilentReporter):
        def advance(self, done, metrics):
            if metrics.get("update") == 3:
                raise KeyboardInterrupt

    config = small_config(updates=4)
    with pytest.raises(KeyboardInterrupt):
        llmgym.train(config, tmp_path / "run", Stop())
    checkpoints = tmp_path / "run" / "checkpoints"
    kept = sorted(child.name for child in checkpoints.iterdir())
    assert kept == ["update-000000", "update-000002", "update-000003"], "Ctrl-C keeps what was learned"
    before = metrics_without_times(tmp_path / "run")
    result = llmgym.train(config, tmp_path / "run", resume=True)
    rows = metrics_without_times(tmp_path / "run")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    assert rows[:3] == before
    assert [row.name for row in result.rows] == ["random", "clone", "trained"]


def test_lora_is_published_as_an_adapter(tmp_path: Path) -> None:
    learner = LearnerSettings(lora=LoraSettings(rank=4, targets=("q_proj", "v_proj")))
    with pytest.raises(
        ConfigError, match=r"Expected engine.max_lora_rank of at least learner.lora.rank \(4\), found 0"
    ):
        small_config(learner=learner)
    config = small_config(updates=1, learner=learner, engine=EngineSettings(max_lora_rank=8))
    llmgym.train(config, tmp_path / "run")
    (row,) = metrics_without_times(tmp_path / "run")
    assert row["canary_gap"] < 1e-4
    assert list((tmp_path / "run" / "checkpoints" / "update-000001").rglob("adapter_model.safetensors"))


def test_evaluation_of_a_run_repeats_what_training_measured(finished: Path) -> None:
    result = llmgym.evaluate(EvalConfig(policy=str(finished), env="llmgym/BabyAI-GoToObjS4-v0", episodes=6, num_envs=3))
    trained = json.loads((finished / "result.json").read_text())["trained"]
    assert result.row.success == trained["success"]
    assert result.row.mean_return == pytest.approx(trained["mean_return"])


def test_play_shows_texts_probabilities_and_pictures(finished: Path) -> None:
    from llmgym.run import play

    steps = list(play(str(finished), "llmgym/BabyAI-GoToObjS4-v0", seed=1, render=True))
    assert [step.turn for step in steps] == list(range(len(steps)))
    for step in steps:
        assert len(step.actions) == len(step.probabilities) == 6
        assert sum(step.probabilities) == pytest.approx(1.0, abs=1e-5)
        assert step.mission.startswith("go to the ")
        assert step.frame is not None
        assert step.frame.shape[2] == 3
    assert steps[-1].terminated or steps[-1].truncated


def test_run_folder_that_holds_something_is_refused(finished: Path) -> None:
    with pytest.raises(
        RunError, match=r"Expected a new or empty run folder, but .* exists and is not empty\. Continue"
    ):
        llmgym.train(small_config(), finished)


def test_resuming_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Expected a run folder at .*, found no config\.toml there"):
        llmgym.train(small_config(), tmp_path, resume=True)


def test_run_without_a_checkpoint_cannot_be_resumed(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", small_config())
    with pytest.raises(RunError, match=r"Expected a checkpoint in .*, found none: the run ended before its first"):
        llmgym.train(small_config(), tmp_path / "run", resume=True)


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Expected to be able to write the run folder .*file/run"):
        llmgym.train(small_config(), tmp_path / "file" / "run")


def test_unknown_environment_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        EnvError, match=r"found 'llmgym/BabyAI-GoToLocl-v0'\. Did you mean 'llmgym/BabyAI-GoToLocal-v0'"
    ):
        llmgym.train(small_config(env="llmgym/BabyAI-GoToLocl-v0"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cloning_where_nobody_knows_how_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected an environment with an expert to clone, found 'FrozenLake-v1'"):
        llmgym.train(small_config(env="FrozenLake-v1"), tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tinny", r"found 'tinny'\. Did you mean 'tiny'"),
        ("./nowhere", r"a folder, or a hub id that can be reached, found './nowhere'"),
        ("nobody/nothing", "a hub id that can be reached, found 'nobody/nothing'"),
    ],
)
def test_unknown_model_is_refused_before_a_folder_is_made(tmp_path: Path, model, message) -> None:
    with pytest.raises(ConfigError, match=message):
        llmgym.train(small_config(model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_model_without_tokenizer_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    with pytest.raises(ConfigError, match=r"Expected a tokenizer beside the model in .*, found none\. Save one there"):
        llmgym.train(small_config(model=str(tmp_path / "model")), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_every": 0}, "Expected checkpoint_every of at least 1, found 0"),
        ({"collect": CollectSettings(num_envs=0)}, "Expected collect.num_envs of at least 1, found 0"),
        (
            {"tiny": replace(TINY, num_heads=5)},
            r"Expected tiny.hidden_size to be a multiple of 32 \* tiny.num_heads \(160\)",
        ),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)
