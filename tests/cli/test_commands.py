"""`llmgym train`, `eval`, `play` and `bench` around a run that is ours: what is passed on, and what is shown."""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from llmgym.bench.report import Report, make_report
from llmgym.cli.bench import benchmarks
from llmgym.cli.main import app
from llmgym.config import EvalConfig, RunConfig
from llmgym.run.episode import PlayStep
from llmgym.run.results import EvalResult, EvalRow, TrainResult

RUNNER = CliRunner()
ENV = "llmgym/BabyAI-GoToLocal-v0"
RANDOM = EvalRow("random", 0.125, 0.05, 0.275, 64, 0.1, 50.0)
TRAINED = EvalRow("trained", 0.875, 0.75, 0.95, 64, 0.8, 12.5)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, Path, bool]]:
    """Every call of train, which comes to the two rows above."""
    calls: list[tuple[RunConfig, Path, bool]] = []

    def train(config: RunConfig, run_dir: Path, reporter: Any, *, resume: bool) -> TrainResult:
        calls.append((config, run_dir, resume))
        reporter.stage("reinforcement learning", 2, "updates")
        reporter.advance(2, {"success": 0.5})
        return TrainResult((RANDOM, TRAINED), run_dir, 12.0)

    monkeypatch.setattr(importlib.import_module("llmgym.run.training"), "train", train)
    return calls


def test_train_passes_recipe_overrides_and_folder_on(trainings: list[tuple[RunConfig, Path, bool]]) -> None:
    result = RUNNER.invoke(app, ["train", "quickstart", "--run-dir", "here", "--set", "seed=3", "--set", "updates=1"])
    assert result.exit_code == 0
    ((config, run_dir, resume),) = trainings
    assert (config.seed, config.updates, run_dir, resume) == (3, 1, Path("here"), False)


def test_train_has_as_many_learners_as_asked_for(trainings: list[tuple[RunConfig, Path, bool]]) -> None:
    assert RUNNER.invoke(app, ["train", "--run-dir", "here", "--learners", "3"]).exit_code == 0
    assert RUNNER.invoke(app, ["train", "--run-dir", "here", "--set", "learner.num_ranks=2"]).exit_code == 0
    assert RUNNER.invoke(app, ["train", "--run-dir", "here"]).exit_code == 0
    assert [config.learner.num_ranks for config, _, _ in trainings] == [3, 2, 1]


def test_train_shows_each_policy_with_its_interval(trainings: list[tuple[RunConfig, Path, bool]]) -> None:
    output = RUNNER.invoke(app, ["train", "--run-dir", "here"]).output
    assert len(trainings) == 1
    (row,) = (line for line in output.splitlines() if line.strip().startswith("trained"))
    assert row.split() == ["trained", "87.5%", "█" * 18 + "░" * 2, "75.0%", "to", "95.0%", "64", "0.800", "12.5"]
    assert "tensorboard --logdir here/tensorboard" in output
    assert "watch it play   llmgym play here\n" in output


def test_table_fits_a_narrow_terminal(
    trainings: list[tuple[RunConfig, Path, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    output = RUNNER.invoke(app, ["train", "--run-dir", "here"]).output
    (row,) = (line for line in output.splitlines() if line.strip().startswith("trained"))
    assert row.split() == ["trained", "87.5%", "75.0%", "to", "95.0%", "64", "0.800"]
    assert len(trainings) == 1


def test_train_names_a_new_folder_after_the_recipe(trainings: list[tuple[RunConfig, Path, bool]]) -> None:
    RUNNER.invoke(app, ["train", "quickstart"])
    ((_, run_dir, _),) = trainings
    assert run_dir.parent == Path("runs")
    assert run_dir.name.startswith("quickstart-20")


def test_resume_takes_the_configuration_of_the_folder(
    trainings: list[tuple[RunConfig, Path, bool]], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(f'env = "{ENV}"\nseed = 9\n')
    result = RUNNER.invoke(app, ["train", "--resume", str(tmp_path)])
    assert result.exit_code == 0
    ((config, run_dir, resume),) = trainings
    assert (config.seed, run_dir, resume) == (9, tmp_path, True)


@pytest.mark.parametrize("also", [["quickstart"], ["--run-dir", "x"], ["--set", "seed=1"]])
def test_resume_stands_alone(also: list[str]) -> None:
    result = RUNNER.invoke(app, ["train", "--resume", "here", *also])
    assert result.exit_code == 1
    assert "Expected --resume alone" in result.stderr


def test_resume_of_no_run_is_refused(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["train", "--resume", str(tmp_path)])
    assert result.exit_code == 1
    assert f"Expected a run folder at {tmp_path}" in result.stderr


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[EvalConfig]:
    """Every call of evaluate, which comes to the trained row."""
    calls: list[EvalConfig] = []

    def evaluate(config: EvalConfig, reporter: Any) -> EvalResult:
        calls.append(config)
        reporter.stage("evaluation", config.episodes, "episodes")
        fields = {"row": TRAINED, "env": config.env, "env_settings": config.env_settings, "first_seed": 7}
        return EvalResult(temperature=1.0, seconds=3.0, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib.import_module("llmgym.run.evaluation"), "evaluate", evaluate)
    return calls


def test_eval_passes_options_on_and_writes_the_numbers(evaluations: list[EvalConfig], tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    options = ["--env", ENV, "--episodes", "64", "--seed", "5", "--temperature", "0", "--json", str(file)]
    result = RUNNER.invoke(app, ["eval", "random", *options])
    assert result.exit_code == 0
    assert evaluations == [EvalConfig("random", ENV, episodes=64, first_episode=5, temperature=0.0)]
    assert "75.0% to 95.0%" in result.output
    written = json.loads(file.read_text())
    assert (written["success"], written["low"], written["high"], written["episodes"]) == (0.875, 0.75, 0.95, 64)


def test_eval_takes_the_environment_of_a_run(evaluations: list[EvalConfig], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'env = "{ENV}"\nenv_settings = {{num_dists = 3, kind = "goto"}}\n')
    assert RUNNER.invoke(app, ["eval", str(tmp_path), "--env-set", "kind=open"]).exit_code == 0
    assert evaluations[0].env == ENV
    assert evaluations[0].env_settings == {"num_dists": 3, "kind": "open"}


def test_a_named_environment_has_none_of_the_runs_settings(evaluations: list[EvalConfig], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'env = "{ENV}"\nenv_settings = {{num_dists = 3}}\n')
    assert RUNNER.invoke(app, ["eval", str(tmp_path), "--env", ENV, "--env-set", "max_steps=9"]).exit_code == 0
    assert evaluations[0].env_settings == {"max_steps": 9}


@pytest.mark.parametrize("command", ["eval", "play"])
def test_environment_must_be_named_where_the_policy_is_no_run(command: str) -> None:
    result = RUNNER.invoke(app, [command, "random"])
    assert result.exit_code == 1
    assert "Expected --env, because 'random' is no run folder that names one" in result.stderr


@pytest.mark.parametrize("command", [["eval", "random", "--env", ENV], ["bench", "fake"]])
def test_file_that_cannot_be_written_is_refused_before_the_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgym.cli.bench.benchmarks", lambda: {"fake": ""})
    result = RUNNER.invoke(app, [*command, "--json", str(tmp_path / "absent" / "x.json")])
    assert result.exit_code == 1
    assert "x.json, but there is no folder " in result.stderr


@pytest.fixture
def episode(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call of play, which yields two turns."""
    calls: list[dict[str, Any]] = []

    def play(policy: str, env_id: str, env_settings: dict[str, Any], **options: Any) -> Iterator[PlayStep]:
        calls.append({"policy": policy, "env_id": env_id, "env_settings": env_settings, **options})
        frame = np.full((32, 48, 3), 200, dtype=np.uint8) if options["render"] else None
        actions = ("turn left", "pick up [the] key")
        yield PlayStep(0, "open the [red] door", "You see a door", actions, (0.25, 0.75), 1, 0.0, False, False, frame)
        yield PlayStep(1, "open the [red] door", "You see a key", actions, (0.5, 0.5), 0, 0.9, True, False, frame)

    monkeypatch.setattr(importlib.import_module("llmgym.run.episode"), "play", play)
    return calls


def test_play_shows_what_is_seen_and_how_probable_each_action_is(episode: list[dict[str, Any]]) -> None:
    result = RUNNER.invoke(app, ["play", "random", "--env", ENV, "--seed", "4", "--max-turns", "9"])
    assert result.exit_code == 0
    assert episode == [
        {"policy": "random", "env_id": ENV, "env_settings": {}, "seed": 4, "temperature": None}
        | {"max_turns": 9, "render": False}
    ]
    lines = [line.split() for line in result.output.splitlines()]
    assert ["open", "the", "[red]", "door"] in lines
    assert ["turn", "left", "█" * 6, "25.0%"] in lines
    assert ["▸", "pick", "up", "[the]", "key", "█" * 18, "75.0%"] in lines
    assert "The episode ended with success after 2 turns, return 0.900." in result.output


def test_play_renders_a_gif(episode: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "new" / "episode.gif"
    result = RUNNER.invoke(app, ["play", "random", "--env", ENV, "--render", str(file)])
    assert result.exit_code == 0
    assert episode[0]["render"] is True
    assert f"2 pictures in {file}" in result.output
    with Image.open(file) as film:
        assert film.n_frames == 2  # type: ignore[attr-defined]
        assert film.size == (48, 56)


def test_play_renders_a_folder_of_pictures(episode: list[dict[str, Any]], tmp_path: Path) -> None:
    RUNNER.invoke(app, ["play", "random", "--env", ENV, "--render", str(tmp_path / "film")])
    assert len(episode) == 1
    assert sorted(path.name for path in (tmp_path / "film").iterdir()) == ["turn-000.png", "turn-001.png"]


def test_play_refuses_another_kind_of_film(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["play", "random", "--env", ENV, "--render", str(tmp_path / "film.mp4")])
    assert result.exit_code == 1
    assert "Expected --render FILE.gif or a folder, found " in result.stderr


def test_benchmarks_are_listed_with_what_they_measure() -> None:
    result = RUNNER.invoke(app, ["bench"])
    assert result.exit_code == 0
    for name, about in benchmarks().items():
        assert name in result.output
        assert about
    assert "report" not in benchmarks()


def test_success_rates_of_a_benchmark_are_shown_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"success": 0.5, "low": 0.25, "high": 0.75}
    figures = {f"{name}_{end}": rate for name in ("lake_random", "lake_ppo") for end, rate in rates.items()}
    figures |= {"lake_ppo_env_steps": 8192.0, "score_tokens_per_second": 77.0}
    module = importlib.import_module("llmgym.bench.algorithms")
    monkeypatch.setattr(module, "run", lambda: make_report(figures))
    result = RUNNER.invoke(app, ["bench", "algorithms"])
    assert result.exit_code == 0
    rows = [line.split() for line in result.output.splitlines()]
    assert next(row for row in rows if row[:1] == ["random"])[-3:] == ["25.0%", "to", "75.0%"]
    assert next(row for row in rows if row[:1] == ["ppo"])[-4:] == ["25.0%", "to", "75.0%", "8192"]
    assert ["score_tokens_per_second", "77"] in rows
    assert "lake_ppo" not in result.output


def test_a_benchmark_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Report:
        logging.getLogger("llmgym.bench.env").info("%s: measured", "GoToLocal")
        return make_report({"ratio": 1.06})

    monkeypatch.setattr(importlib.import_module("llmgym.bench.env"), "run", run)
    result = RUNNER.invoke(app, ["bench", "env"])
    assert re.fullmatch(r"\d\d:\d\d:\d\d  GoToLocal: measured\n", result.stderr)
    assert result.stdout.startswith("ratio  1.06")


def test_unknown_benchmark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgym.cli.bench.benchmarks", lambda: {"scoring": "", "swap": ""})
    result = RUNNER.invoke(app, ["bench", "scorign"])
    assert result.exit_code == 1
    assert "Expected a benchmark (scoring, swap), found 'scorign'. Did you mean 'scoring'?" in result.stderr
