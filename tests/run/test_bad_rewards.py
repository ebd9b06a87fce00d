"""A run on an environment that breaks: one line that says where, and nothing that was learned is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from click.testing import Result
from typer.testing import CliRunner

from llmgym.cli.main import app
from llmgym.run.folder import RunFolder
from llmgym.text import TextEnv

ENV = "Breaking-v0"


class Breaking(gym.Env[int, int]):
    """Four steps; the reward of the last is odd as soon as a run's metrics tell of two updates."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, odd: Any, metrics: Path) -> None:
        self.odd, self.metrics = odd, metrics

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.num_steps = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, Any, bool, bool, dict[str, Any]]:
        self.num_steps += 1
        is_last = self.num_steps == 4
        is_odd = is_last and self.metrics.is_file() and self.metrics.read_text().count("\n") >= 2
        return self.num_steps, self.odd if is_odd else float(action), is_last, False, {}


def make(odd: str, metrics: str) -> TextEnv:
    env = Breaking({"not-a-number": math.nan, "nothing": None}.get(odd, odd), Path(metrics))
    return TextEnv(env, describe=lambda place: f"at {place}", actions=("stay", "walk"), mission="walk")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register(ENV, make)
    yield
    del gym.registry[ENV]


def train(run_dir: Path, odd: str, barrier: bool) -> Result:
    settings = (
        f"env={ENV}",
        f"env_settings.odd={odd}",
        f"env_settings.metrics={run_dir / 'metrics.jsonl'}",
        "updates=9",
        "checkpoint_every=9",
        "backend=transformers",
        "tiny.hidden_size=32",
        "tiny.num_layers=1",
        "tiny.num_heads=1",
        "clone.episodes=0",
        "collect.num_envs=2",
        "collect.steps_per_update=4",
        f"collect.barrier={str(barrier).lower()}",
        "evaluation.episodes=2",
    )
    pairs = [word for setting in settings for word in ("--set", setting)]
    return CliRunner().invoke(app, ["train", "quickstart", "--run-dir", str(run_dir), *pairs])


@pytest.mark.parametrize(
    ("odd", "found"), [("not-a-number", "nan (float)"), ("nothing", "None (NoneType)"), ("much", "'much' (str)")]
)
@pytest.mark.parametrize("barrier", [True, False])
def test_a_reward_that_is_none_ends_the_run_with_what_it_learned(
    odd: str, found: str, barrier: bool, tmp_path: Path
) -> None:
    result = train(tmp_path / "run", odd, barrier)
    assert result.exit_code == 1
    told = " ".join(result.output.split())
    assert f"Expected a finite number as the reward of {ENV}, found {found}" in told
    assert "at step 3 of its episode" in told
    assert "Traceback" not in told
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) >= 2
    newest, _ = RunFolder.open(tmp_path / "run").newest_checkpoint()
    assert newest == len(rows) == rows[-1]["update"], "what was learned before is kept, though no checkpoint was due"
