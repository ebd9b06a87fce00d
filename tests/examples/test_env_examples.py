"""The examples about environments run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "random_baselines.py"


def test_random_baselines_prints_a_return_for_each_environment() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "FrozenLake", "Taxi"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean return of 100 episodes: ") == 2
    assert "drive south | drive north" in done.stdout
