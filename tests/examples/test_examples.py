"""Every example runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=600, check=False, cwd=EXAMPLES.parent
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_own_loop_drives_a_vector_environment() -> None:
    assert len(run(str(EXAMPLES / "own_loop.py")).splitlines()) == 10


def test_own_loop_drives_a_model(tiny_model: Path) -> None:
    assert len(run(str(EXAMPLES / "own_loop.py"), str(tiny_model)).splitlines()) >= 10


def test_an_algorithm_of_ones_own_learns() -> None:
    assert len((EXAMPLES / "own_algorithm.py").read_text().splitlines()) < 80
    printed = run(str(EXAMPLES / "own_algorithm.py"))
    success = {line.split()[0]: float(line.split()[2]) for line in printed.splitlines()}
    assert success["trained"] > success["clone"] + 0.2


def test_several_critics_and_an_auxiliary_loss_learn(tmp_path: Path) -> None:
    assert len((EXAMPLES / "several_critics.py").read_text().splitlines()) < 80
    printed = run(str(EXAMPLES / "several_critics.py"), str(tmp_path / "run"))
    success = {line.split()[0]: float(line.split()[2]) for line in printed.splitlines()}
    assert success["trained"] > success["clone"] + 0.2
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["pays_loss"] < rows[0]["pays_loss"], "whether the episode pays is learned, too"
    assert {"value_loss", "mean_value_loss"} <= rows[-1].keys()


def test_ten_lines_train_a_model(tmp_path: Path) -> None:
    printed = run(str(EXAMPLES / "train_in_ten_lines.py"), str(tmp_path / "run"))
    for policy in ("random", "clone", "trained"):
        assert f"{policy:8} success" in printed
