"""`llmgym train --learners 2`: what it trains, and that nothing is left of it when a process dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from llmgym.cli.main import app
from llmgym.config import load_config

SMALL = """
env = "llmgym/BabyAI-GoToObjS4-v0"
backend = "transformers"
updates = {updates}
checkpoint_every = 1
tiny = {{vocab_size = 400, hidden_size = 32, num_layers = 1, num_heads = 1, intermediate_size = 64}}
collect = {{num_envs = 3, steps_per_update = 6}}
clone = {{episodes = 6, epochs = 1}}
evaluation = {{episodes = 4, num_envs = 2}}
"""
DEATH_SECONDS = 30


def train(folder: Path, num_learners: int, updates: int) -> subprocess.Popen[str]:
    recipe = folder / "small.toml"
    recipe.write_text(SMALL.format(updates=updates), encoding="utf-8")
    arguments = ["train", str(recipe), "--run-dir", str(folder / f"run-{num_learners}")]
    return subprocess.Popen(
        [sys.executable, "-m", "llmgym.cli.main", *arguments, "--learners", str(num_learners)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def lines_of(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> list[str]:
    """Return the command lines of those that are still there."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [" ".join(process.cmdline()) for process in alive]


def test_two_learners_train_what_one_does(tmp_path: Path) -> None:
    cloned, first = {}, {}
    for num_learners in (1, 2):
        process = train(tmp_path, num_learners, updates=1)
        _, stderr = process.communicate(timeout=900)
        assert process.returncode == 0, stderr
        run_dir = tmp_path / f"run-{num_learners}"
        (cloned[num_learners],) = lines_of(run_dir / "cloning.jsonl")
        (first[num_learners],) = lines_of(run_dir / "metrics.jsonl")
        assert load_config(run_dir / "config.toml").learner.num_ranks == num_learners
        assert json.loads((run_dir / "result.json").read_text())["trained"]["episodes"] == 4
    for rows in (cloned, first):
        assert 0.05 < rows[2].pop("learners_peak_memory_gib") < 64
    assert cloned[2] == pytest.approx(cloned[1], rel=1e-3, abs=1e-4)
    assert first[2].keys() == first[1].keys()
    for name in ("loss", "entropy", "value_loss", "grad_norm", "explained_variance", "env_steps"):
        assert first[2][name] == pytest.approx(first[1][name], rel=1e-2, abs=1e-3, nan_ok=True)
    assert first[2]["canary_gap"] < 1e-4
    assert first[2]["behaviour_gap"] < 1e-4


def test_a_rank_that_is_killed_ends_the_run(tmp_path: Path) -> None:
    process = train(tmp_path, 2, updates=100_000)
    deadline = time.monotonic() + 900
    while not lines_of(tmp_path / "run-2" / "metrics.jsonl"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    parents = {child.pid: child.ppid() for child in family}
    ranks = [child for child in family if parents.get(parents[child.pid]) in parents]
    assert len(ranks) == 2, "driver > launcher > the process that ranks are forked from > ranks"
    ranks[1].kill()
    killed = time.monotonic()
    _, stderr = process.communicate(timeout=DEATH_SECONDS)
    assert time.monotonic() - killed < DEATH_SECONDS
    assert process.returncode == 1
    assert "Error: Expected all 2 learner ranks to live, but rank " in stderr
    assert "died of SIGKILL; the others were ended. Its log: " in stderr
    assert wait_until_gone(family, 5) == []


def test_ranks_do_not_outlive_a_driver_that_is_killed() -> None:
    script = (
        "import time\n"
        "from llmgym.learner.ranks.pool import RankPool\n"
        "pool = RankPool(2, num_threads=1)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) >= 4
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert wait_until_gone(family, DEATH_SECONDS) == []


def test_learners_must_be_at_least_one(tmp_path: Path) -> None:
    for number in ("0", "-1"):
        result = CliRunner().invoke(app, ["train", "--learners", number, "--run-dir", str(tmp_path / "run")])
        assert result.exit_code == 1
        message = f"Expected learner.num_ranks of at least 1, found {number}. Set learner.num_ranks=1 or more."
        assert message in result.output
    assert not (tmp_path / "run").exists()
