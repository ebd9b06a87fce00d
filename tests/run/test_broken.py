"""A run with a step that is not finite: what it keeps for inspection, and how it goes on or ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmgym
from llmgym.cli.metrics import shown_metrics
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig
from llmgym.errors import LearnerError
from llmgym.learner import NonFiniteError
from llmgym.learner.settings import LearnerSettings
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.store import read_trajectories
from llmgym.run.report import SilentReporter

ALGORITHM = '''
from dataclasses import dataclass
import math
from llmgym.algorithms import PPO

CALLS = []

@dataclass(frozen=True)
class Breaks:
    """PPO that breaks at some losses.

    Attributes:
        first: number of the first loss that is NaN.
        last: number of the last.
    """
    first: int = 0
    last: int = 0
    epochs: int = 1
    minibatch_turns: int = 6

    def loss(self, outputs, targets):
        CALLS.append(1)
        loss, metrics = PPO().loss(outputs, targets)
        return loss * (math.nan if self.first <= len(CALLS) <= self.last else 1.0), metrics
'''


@pytest.fixture
def algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an algorithm that breaks, in a module that is new for every test."""
    name = f"breaks_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(ALGORITHM)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:Breaks"


def make_config(algorithm: str, first: int, last: int, on_non_finite: str) -> RunConfig:
    return RunConfig(
        env="llmgym/BabyAI-GoToObjS4-v0",
        updates=2,
        checkpoint_every=1,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        clone=CloneSettings(episodes=0),
        collect=CollectSettings(num_envs=3, steps_per_update=6),
        evaluation=EvaluationSettings(episodes=2, num_envs=2),
        algorithm={"name": algorithm, "first": first, "last": last},
        learner=LearnerSettings(on_non_finite=on_non_finite),
    )


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_a_run_that_stops_keeps_the_batch_and_its_last_checkpoint(algorithm: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"^Expected a finite loss, got nan .* kept in .*broken/update-000002\.js"):
        llmgym.train(make_config(algorithm, 4, 4, "stop"), run_dir)
    told = json.loads((run_dir / "broken" / "update-000002.json").read_text())
    (step,) = told["steps"]
    assert step["broken"] == ["loss"]
    assert step["metrics"]["loss"] == "nan"
    assert isinstance(step["metrics"]["policy_loss"], float)
    kept = list(read_trajectories(run_dir / "broken" / told["trajectories"]))
    assert sum(len(trajectory.turns) for trajectory in kept) == 18
    turns = [kept[line].turns[number] for line, number in step["turns"]]
    assert 0 < len(turns) < 18
    assert {turn.policy_version for turn in turns} == {1}
    assert sorted(child.name for child in (run_dir / "checkpoints").iterdir()) == ["update-000000", "update-000001"]
    # Put right, it goes on from there: the counter of this process is beyond what breaks.
    llmgym.train(make_config(algorithm, 4, 4, "stop"), run_dir, resume=True)
    assert (run_dir / "checkpoints" / "update-000002").is_dir()


def test_a_run_that_skips_goes_on_and_says_so(algorithm: str, tmp_path: Path) -> None:
    run_dir, notes = tmp_path / "run", Notes()
    llmgym.train(make_config(algorithm, 1, 1, "skip"), run_dir, notes)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_steps"] for row in rows] == [1, 0]
    assert rows[0]["steps"] == rows[1]["steps"] - 1
    file = run_dir / "broken" / "update-000001.json"
    assert notes.texts == [f"update-000001: steps that were not finite and were skipped: 1; see {file}."]
    assert file.is_file()
    assert [child.name for child in sorted(file.parent.iterdir())] == ["update-000001.json", "update-000001.jsonl"]
    assert ("SKIPPED STEPS", "1") in shown_metrics(rows[0])
    assert "SKIPPED STEPS" not in dict(shown_metrics(rows[1]))


def test_a_run_in_which_every_step_is_skipped_ends(algorithm: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    message = r"^Expected a step of the update that can be taken, but all 3 were skipped, .*update-000002\.json"
    with pytest.raises(LearnerError, match=message):
        llmgym.train(make_config(algorithm, 4, 99, "skip"), run_dir)
    assert len(json.loads((run_dir / "broken" / "update-000002.json").read_text())["steps"]) == 3
    assert (run_dir / "checkpoints" / "update-000001").is_dir()
