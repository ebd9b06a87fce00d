"""Every algorithm through a whole run, on the transformers engine; and what a configuration may say of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmgym
from llmgym.algorithms import ALGORITHMS, DAPO
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, Lesson, RunConfig
from llmgym.errors import ConfigError, LearnerError
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.batch import ReturnSettings
from llmgym.rollout.store import read_trajectories
from llmgym.run.experience import collect_experience
from llmgym.run.identity import run_identity
from llmgym.types import Acting, Trajectory

LAKE = "llmgym/FrozenLake-v0"


def small_config(algorithm: dict[str, Any], **changes: Any) -> RunConfig:
    config = RunConfig(
        env=LAKE,
        env_settings={"is_slippery": False, "max_episode_steps": 12},
        updates=2,
        checkpoint_every=1,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        clone=CloneSettings(episodes=2, epochs=1),
        collect=CollectSettings(num_envs=4, steps_per_update=4, group_size=2),
        evaluation=EvaluationSettings(episodes=2, num_envs=2),
        algorithm=algorithm,
    )
    return replace(config, **changes)


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"clone"}))
def test_a_run_learns_with_every_algorithm(name: str, tmp_path: Path) -> None:
    llmgym.train(small_config({"name": name}), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert [row["update"] for row in rows] == [1, 2]
    kept = [
        list(read_trajectories(tmp_path / "run" / "trajectories" / f"update-{number:06d}.jsonl")) for number in (1, 2)
    ]
    num_turns = [sum(len(one.turns) for one in trajectories) for trajectories in kept]
    assert [row["env_steps"] for row in rows] == [num_turns[0], sum(num_turns)]
    if name in ("ppo", "a2c"):
        assert num_turns == [16, 16]
    else:
        assert all(one.turns[-1].terminated or one.turns[-1].truncated for one in kept[0])
    learned = [row for row in rows if "behaviour_gap" in row]
    assert all(row["behaviour_gap"] < 1e-4 for row in learned)
    assert learned or name in ("dapo", "rejection"), "which learn from some episodes only"


@pytest.mark.parametrize("how", ["reason", "text"])
def test_draws_of_free_answers_are_learned_from_one_by_one(how: Any, tmp_path: Path) -> None:
    config = small_config({"name": "grpo"}, acting=Acting(how, max_new_tokens=4), updates=1)
    llmgym.train(config, tmp_path / "run")
    (row,) = rows_of(tmp_path / "run")
    assert row["behaviour_gap"] < 1e-4


def test_turns_of_gigpo_know_their_states(tmp_path: Path) -> None:
    llmgym.train(small_config({"name": "gigpo"}, updates=1), tmp_path / "run")
    (row,) = rows_of(tmp_path / "run")
    assert 0 < row["anchored_turns"] <= 1, "all begin in the same state, at least"


def test_a_resumed_run_of_whole_episodes_goes_on_counting(tmp_path: Path) -> None:
    config = small_config({"name": "grpo"})
    llmgym.train(config, tmp_path / "run")
    whole = rows_of(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text(lines[0])
    import shutil

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "update-000002")
    llmgym.train(config, tmp_path / "run", resume=True)
    again = rows_of(tmp_path / "run")
    assert again[1]["env_steps"] > again[0]["env_steps"] == whole[0]["env_steps"]
    facts = run_identity(tmp_path / "run")
    assert facts.facts["env_steps"] == again[1]["env_steps"]
    assert f"(2 demonstrations and {again[1]['env_steps']:,} env steps)" in facts.training


def test_a_report_counts_lessons_and_corrections(tmp_path: Path) -> None:
    lesson = Lesson(3, {"is_slippery": True})
    clone = CloneSettings(episodes=2, lessons=(lesson,), epochs=1, rounds=1, round_episodes=2)
    llmgym.train(small_config({}, clone=clone, updates=0), tmp_path / "run")
    told = "(3 demonstrations in earlier lessons, 2 demonstrations and 1 round of corrections)"
    assert told in run_identity(tmp_path / "run").training


def test_the_file_of_a_run_says_every_setting_of_its_algorithm() -> None:
    config = RunConfig(LAKE, algorithm={"name": "dapo", "clip": 0.1})
    assert config.algorithm["clip"] == 0.1
    assert config.algorithm["clip_high"] == 0.28
    assert config.make_algorithm() == DAPO(clip=0.1)
    assert "how far it may rise above 1" in config.algorithm_helps()["algorithm.clip_high"]
    assert RunConfig(LAKE).algorithm["name"] == "ppo"


@pytest.mark.parametrize(
    ("algorithm", "collect", "message"),
    [
        ({"name": "gripo"}, {}, r"got 'gripo'\. Did you mean 'grpo'\?.*It is algorithm\.name in the recipe\."),
        ({"name": "grpo", "clipp": 1}, {}, r"found 'algorithm\.clipp'\. Did you mean 'algorithm\.clip'\?"),
        ({"name": "nowhere:Mine"}, {}, r"Expected an algorithm at 'nowhere:Mine', found none: No module named"),
        ({"name": "json:JSONDecoder"}, {}, r"Expected 'json:JSONDecoder' to be a dataclass"),
        ({"name": "grpo"}, {"group_size": 3}, r"group_size of at least 2 that divides collect\.num_envs \(32\)"),
        ({"name": "rloo"}, {"group_size": 1}, r"which compares episodes from the same start, found 1\."),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    algorithm: dict[str, Any], collect: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(LAKE, algorithm=algorithm, collect=CollectSettings(**collect))


def test_an_algorithm_of_ones_own_is_found_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_algorithms.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Reinforce:\n"
        '    """REINFORCE.\n\n    Attributes:\n        epochs: how often.\n    """\n\n'
        "    epochs: int = 1\n    minibatch_turns: int = 256\n\n    def loss(self, outputs, targets):\n"
        "        loss = targets.mean(-targets.returns * outputs.logprobs)\n"
        '        return loss, {"policy_loss": loss.detach()}\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = small_config({"name": "my_algorithms:Reinforce", "epochs": 2}, updates=1)
    llmgym.train(config, tmp_path / "run")
    assert rows_of(tmp_path / "run")[0]["epochs"] == 2
    llmgym.train(replace(config, updates=1), tmp_path / "run", resume=True)
    sys.modules.pop("my_algorithms")


class Rounds:
    """A collector that plays what it is given, a round a call."""

    def __init__(self, *rounds: list[Trajectory]) -> None:
        self.rounds = list(rounds)

    def collect(self, num_steps: int) -> list[Trajectory]:
        raise LearnerError("Expected whole episodes.")

    def collect_episodes(self, num_episodes: int) -> list[Trajectory]:
        return self.rounds.pop(0)


def test_dapo_collects_until_enough_groups_differ(make_group: Any) -> None:
    alike, differing = make_group(1, 0.0, 0.0), make_group(2, 0.0, 1.0)
    settings = (CollectSettings(num_envs=2, group_size=2), ReturnSettings())
    collector = Rounds(alike, differing, alike)
    assert len(collect_experience(collector, DAPO(max_collections=3), *settings)) == 4
    assert len(collector.rounds) == 1, "the second round was enough"
    assert len(collect_experience(Rounds(alike, alike, alike), DAPO(max_collections=2), *settings)) == 4


@pytest.fixture
def make_group() -> Any:
    """Make a group of episodes of a turn each, from a seed and their rewards."""
    import numpy as np

    from llmgym.types import Turn

    def make(seed: int, *rewards: float) -> list[Trajectory]:
        prompt = np.array([3], np.int32)
        return [
            Trajectory((Turn(prompt, ((4,),), 0, -1.0, reward, True, False, 0),), None, index, seed)
            for index, reward in enumerate(rewards)
        ]

    return make
