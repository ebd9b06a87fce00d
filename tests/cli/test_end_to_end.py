"""What a user types, on the real engine: train, eval, play, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENV = "llmgym/BabyAI-GoToObjS4-v0"
SMALL = [
    f"env={ENV}",
    "updates=2",
    "checkpoint_every=1",
    "tiny.hidden_size=32",
    "tiny.num_layers=1",
    "tiny.num_heads=1",
    "clone.episodes=8",
    "clone.epochs=1",
    "collect.num_envs=4",
    "collect.steps_per_update=8",
    "evaluation.episodes=8",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmgym.cli.main", *arguments]


def train_command(run_dir: Path, *settings: str) -> list[str]:
    pairs = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return command("train", "quickstart", "--run-dir", str(run_dir), *pairs)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    finished = subprocess.run(train_command(run_dir), capture_output=True, text=True, timeout=600, check=False)
    assert finished.returncode == 0, finished.stderr
    return run_dir, finished.stdout


def test_quickstart_prints_its_stages_and_the_three_policies(trained: tuple[Path, str]) -> None:
    run_dir, printed = trained
    for word in ("demonstrations", "cloning", "engine", "reinforcement learning", "random", "clone", "trained"):
        assert word in printed
    assert str(run_dir / "learning_curve.png") in printed.replace("\n", "")
    result = json.loads((run_dir / "result.json").read_text())
    assert result["trained"]["episodes"] == 8


def test_eval_repeats_the_trained_row_from_the_run_folder(trained: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = trained
    output = tmp_path / "row.json"
    finished = run("eval", str(run_dir), "--env", ENV, "--episodes", "8", "--json", str(output))
    assert finished.returncode == 0, finished.stderr
    expected = json.loads((run_dir / "result.json").read_text())["trained"]
    found = json.loads(output.read_text())
    assert found["success"] == expected["success"]
    assert found["mean_return"] == pytest.approx(expected["mean_return"])


def test_play_shows_an_episode_and_writes_its_film(trained: tuple[Path, str], tmp_path: Path) -> None:
    run_dir, _ = trained
    film = tmp_path / "episode.gif"
    finished = run("play", str(run_dir), "--env", ENV, "--max-turns", "3", "--render", str(film), "--delay", "0")
    assert finished.returncode == 0, finished.stderr
    assert "go forward" in finished.stdout
    from PIL import Image

    assert Image.open(film).n_frames >= 1


def test_random_policy_is_measured_without_a_model() -> None:
    finished = run("eval", "random", "--env", ENV, "--episodes", "4")
    assert finished.returncode == 0, finished.stderr
    assert "random" in finished.stdout


@pytest.mark.parametrize(
    ("sent", "status", "told"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_a_signal_to_end_keeps_a_checkpoint_to_resume_from(
    sent: signal.Signals, status: int, told: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        train_command(run_dir, "updates=500", "backend=transformers"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and hand that down: a user's foreground command does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while not (run_dir / "checkpoints" / "update-000002").is_dir():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    assert told in errors
    assert (run_dir / "checkpoints" / "update-000002").is_dir()
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) >= 2


@pytest.mark.slow
def test_smollm2_smoke_takes_three_updates_with_lora(tmp_path: Path) -> None:
    started = time.monotonic()
    finished = run("train", "smollm2-smoke", "--run-dir", str(tmp_path / "run"))
    assert finished.returncode == 0, finished.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["canary_gap"] < 1e-3
        assert row["behaviour_gap"] < 1e-3
    assert time.monotonic() - started < 600
