"""Runs whose collecting and learning overlap, on the transformers engine; and what may go wrong in their thread."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import llmgym
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig, load_config
from llmgym.engine import EngineSettings
from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.engine.shared_engine import SharedEngine
from llmgym.errors import ConfigError, EnvError
from llmgym.learner import Learner
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.store import read_trajectories
from llmgym.run import training
from llmgym.run.experience import learn_from
from llmgym.run.learning import open_learner
from llmgym.run.pipeline import CollectsAhead
from llmgym.run.report import SilentReporter
from llmgym.types import Acting, Trajectory, Turn

LAKE = "llmgym/FrozenLake-v0"


def small_config(staleness: int, **changes: Any) -> RunConfig:
    config = RunConfig(
        env=LAKE,
        env_settings={"is_slippery": False, "max_episode_steps": 12},
        updates=5,
        checkpoint_every=1,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        clone=CloneSettings(episodes=2, epochs=1),
        collect=CollectSettings(num_envs=4, steps_per_update=4, group_size=2, staleness=staleness),
        evaluation=EvaluationSettings(episodes=2, num_envs=2),
    )
    return replace(config, **changes)


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def turns_of(run_dir: Path, update: int) -> list[Turn]:
    kept = read_trajectories(run_dir / "trajectories" / f"update-{update:06d}.jsonl")
    return [turn for one in kept for turn in one.turns]


def collecting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmgym-collect"]


@pytest.fixture
def learns_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the learner stay in this process, where a test is not about its own: that takes seconds to start."""

    def open_here(*arguments: Any, **settings: Any) -> Any:
        return open_learner(*arguments, **{**settings, "is_apart": False})

    monkeypatch.setattr(training, "open_learner", open_here)


def check_run(run_dir: Path, staleness: int, *, num_updates: int = 5) -> None:
    rows = rows_of(run_dir)
    assert [row["update"] for row in rows] == list(range(1, num_updates + 1))
    for row in rows:
        update = int(row["update"])
        turns = turns_of(run_dir, update)
        behind = [update - 1 - turn.policy_version for turn in turns]
        assert 0 <= min(behind) <= max(behind) <= staleness
        assert row["staleness"] == pytest.approx(sum(behind) / len(behind))
        assert row["dropped_stale"] == 0
        assert row["behaviour_gap"] < 1e-4
        assert 0 < row["weight"] <= 2.0
        assert 0 <= row["weight_clipped"] <= 1
        assert row["policy_version"] == update
        assert row["canary_gap"] < 1e-4
    assert not collecting_threads()


@pytest.mark.parametrize("staleness", [1, 3])
def test_no_turn_is_older_than_a_run_allows(staleness: int, tmp_path: Path, learns_here: None) -> None:
    llmgym.train(small_config(staleness), tmp_path / "run")
    check_run(tmp_path / "run", staleness)
    assert any(row["staleness"] > 0 for row in rows_of(tmp_path / "run")), "what came first was collected by version 0"
    assert [row["env_steps"] for row in rows_of(tmp_path / "run")] == [16, 32, 48, 64, 80]


def test_what_learns_has_a_process_of_its_own(tmp_path: Path) -> None:
    llmgym.train(small_config(1), tmp_path / "run")
    check_run(tmp_path / "run", 1)
    assert all(row["learners_peak_memory_gib"] > 0 for row in rows_of(tmp_path / "run"))


@pytest.mark.parametrize("how", ["score", "text"])
def test_whole_episodes_without_a_barrier_overlap_with_learning_too(
    how: Any, tmp_path: Path, learns_here: None
) -> None:
    collect = CollectSettings(num_envs=4, group_size=2, barrier=False, staleness=1, correction="masked")
    acting = Acting(how, max_new_tokens=4)
    config = small_config(1, algorithm={"name": "grpo"}, collect=collect, acting=acting, updates=3)
    llmgym.train(config, tmp_path / "run")
    check_run(tmp_path / "run", 1, num_updates=3)


def test_settings_of_a_recipe_reach_the_run(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'env = "{LAKE}"\n')
    overrides = ["collect.staleness=4", "collect.correction=masked", "collect.correction_limit=5.0"]
    collect = load_config(recipe, overrides).collect
    assert (collect.staleness, collect.correction, collect.correction_limit) == (4, "masked", 5.0)
    assert load_config(recipe).collect == CollectSettings(staleness=0, correction="truncated", correction_limit=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"staleness": -1}, "Expected collect.staleness of at least 0, found -1. Set collect.staleness=0 or more."),
        (
            {"correction_limit": 0.5},
            "Expected collect.correction_limit of at least 1, found 0.5: 1 is the weight of a turn of the policy that "
            "learns. Set 2.0 or so.",
        ),
    ],
)
def test_limits_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        RunConfig(LAKE, collect=CollectSettings(**changes))
    assert str(raised.value) == message


def test_an_engine_that_sleeps_while_the_learner_works_cannot_collect_meanwhile() -> None:
    with pytest.raises(ConfigError) as raised:
        RunConfig(LAKE, collect=CollectSettings(staleness=1), engine=EngineSettings(shares_gpu=True))
    assert str(raised.value) == (
        "Expected engine.shares_gpu=false with collect.staleness=1, found true: an engine that sleeps while the "
        "learner works cannot collect meanwhile. Change one of them."
    )
    RunConfig(LAKE, engine=EngineSettings(shares_gpu=True))


class Stop(SilentReporter):
    """Ctrl-C after an update."""

    def advance(self, done: float, metrics: Any) -> None:
        if metrics.get("update") == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_a_checkpoint_and_no_thread_and_goes_on(tmp_path: Path, learns_here: None) -> None:
    config = small_config(1, checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt):
        llmgym.train(config, tmp_path / "run", Stop())
    assert not collecting_threads()
    kept = sorted(child.name for child in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["update-000000", "update-000002"]
    before = rows_of(tmp_path / "run")
    llmgym.train(config, tmp_path / "run", resume=True)
    rows = rows_of(tmp_path / "run")
    assert rows[:2] == before
    assert [row["update"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["policy_version"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2]["staleness"] == 0, "what was collected ahead is collected anew, by the policy of the checkpoint"
    assert {turn.policy_version for turn in turns_of(tmp_path / "run", 5)} <= {3, 4}
    assert not collecting_threads()


class Breaks(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that fails after a number of steps."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.num_steps = 0

    def step(self, action: Any) -> Any:
        self.num_steps += 1
        if self.num_steps > 9:
            raise EnvError("Expected a lake, found none. Wait for winter.")
        return self.env.step(action)


@pytest.mark.parametrize("barrier", [True, False])
def test_an_error_in_the_collecting_thread_ends_the_run_with_its_own_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, barrier: bool, learns_here: None
) -> None:
    from llmgym.run import experience

    open_collector = experience.open_collector

    class Breaking:
        """Wraps every environment of a collector."""

        @staticmethod
        def wrap(env: Any) -> Any:
            return Breaks(env)

        @staticmethod
        def wrap_vector(venv: Any) -> Any:
            venv.envs = [Breaks(env) for env in venv.envs]
            return venv

    def open_breaking(*arguments: Any, **settings: Any) -> Any:
        return open_collector(*arguments, **settings, telling=Breaking())

    monkeypatch.setattr(experience, "open_collector", open_breaking)
    config = small_config(2, collect=replace(small_config(2).collect, barrier=barrier))
    with pytest.raises(EnvError, match=r"Expected a lake, found none\. Wait for winter\."):
        llmgym.train(config, tmp_path / "run")
    assert not collecting_threads()


def ahead(collect: Any, *, staleness: int = 1, num_updates: int = 10) -> CollectsAhead:
    return CollectsAhead(collect, SharedEngine(ScriptedEngine()), staleness=staleness, num_updates=num_updates)


class Publishes:
    """A learner of which only the version matters here."""

    def __init__(self) -> None:
        self.version = 0

    def publish(self, engine: Any) -> dict[str, float]:
        self.version += 1
        engine.load_weights([], self.version)
        return {}


@pytest.mark.parametrize("staleness", [1, 4])
def test_no_more_is_collected_ahead_than_may_be_learned_from(staleness: int) -> None:
    begun: list[int] = []
    pipeline = ahead(lambda: begun.append(len(begun)) or [], staleness=staleness)
    learner: Any = Publishes()
    try:
        for update in range(3):
            deadline = time.monotonic() + 20
            while len(begun) < update + staleness + 1 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert len(begun) == update + staleness + 1
            pipeline.take()
            pipeline.publish(learner)
    finally:
        pipeline.close()
    pipeline.close()
    assert not collecting_threads()


def test_a_run_that_ends_in_the_midst_of_collecting_waits_for_no_experience() -> None:
    shared = SharedEngine(ScriptedEngine())

    def collect() -> list[Trajectory]:
        while True:
            shared.act(["a"], [["x", "y"]], Acting(), [0])

    pipeline = CollectsAhead(collect, shared, staleness=1, num_updates=3)
    time.sleep(0.01)
    pipeline.close()
    assert not collecting_threads()


def test_what_is_too_old_is_dropped_and_counted(tmp_path: Path) -> None:
    config = small_config(0, updates=1)
    llmgym.train(config, tmp_path / "run")
    kept = list(read_trajectories(tmp_path / "run" / "trajectories" / "update-000001.jsonl"))
    learner = Learner.load(tmp_path / "run" / "checkpoints" / "update-000001")
    learner.version = 3
    aged = [
        replace(one, turns=(*one.turns[:-1], replace(one.turns[-1], policy_version=3 - number % 3)))
        for number, one in enumerate(replace(one, turns=one.turns[-1:]) for one in kept)
    ]
    oldest = sum(one.turns[-1].policy_version == 1 for one in aged)
    assert oldest
    collect = CollectSettings(staleness=1)
    metrics = learn_from(aged, learner, config.returns, collect)
    assert metrics["dropped_stale"] == oldest
    assert "policy_loss" in metrics
    learner.version = 9
    metrics = learn_from(aged, learner, config.returns, collect)
    assert metrics["dropped_stale"] == len(aged)
    assert set(metrics) == {"staleness", "dropped_stale"}, "nothing is learned where nothing is left"


def test_without_a_correction_nothing_is_weighted(tmp_path: Path, learns_here: None) -> None:
    collect = replace(small_config(1).collect, correction="none")
    llmgym.train(small_config(1, collect=collect, updates=2), tmp_path / "run")
    for row in rows_of(tmp_path / "run"):
        assert "weight" not in row
        assert "staleness" in row


def test_on_policy_runs_say_nothing_of_staleness(tmp_path: Path) -> None:
    llmgym.train(small_config(0, updates=1), tmp_path / "run")
    (row,) = rows_of(tmp_path / "run")
    assert not {"staleness", "weight", "weight_clipped", "dropped_stale", "learners_peak_memory_gib"} & set(row)
