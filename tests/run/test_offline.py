"""Runs that learn from datasets, and policies that heads guide, on the transformers engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmgym
from llmgym.algorithms import ILQL
from llmgym.config import CloneSettings, CollectSettings, EvalConfig, EvaluationSettings, RunConfig
from llmgym.engine.scripted_engine import ByteTokenizer
from llmgym.errors import ConfigError, EngineError, LearnerError
from llmgym.learner import Learner
from llmgym.learner.settings import LearnerSettings
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.datasets import read_dataset
from llmgym.rollout.demonstrations import ADVISED, Speaker, retell
from llmgym.rollout.store import read_trajectories
from llmgym.run.demos import DemosConfig, write_demos
from llmgym.run.episode import play
from llmgym.run.evaluation import evaluate
from llmgym.run.guided import GuidedEngine, guided
from llmgym.run.identity import run_identity
from llmgym.run.offline import OfflineCollector, check_offline
from llmgym.run.policy import serve_policy
from llmgym.text.prompt import PromptSettings
from llmgym.types import Acting, Trajectory, Turn

LAKE = "llmgym/FrozenLake-v0"
LAKE_SETTINGS: dict[str, Any] = {"is_slippery": False, "max_episode_steps": 12}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Folders of two datasets: what chance does, and what the planner does with a hand that slips."""
    root = tmp_path_factory.mktemp("datasets")
    chance = DemosConfig(LAKE, LAKE_SETTINGS, episodes=6, policy="random", name="lake/random-v0", root=root)
    planner = replace(chance, policy="bot", episodes=3, name="lake/bot-v0", slips=0.4)
    return tuple(str(write_demos(one).folder) for one in (chance, planner))


def offline_config(datasets: tuple[str, ...], **changes: Any) -> RunConfig:
    config = RunConfig(
        env=LAKE,
        env_settings=LAKE_SETTINGS,
        updates=3,
        checkpoint_every=2,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        collect=CollectSettings(num_envs=2, episodes_per_update=2, datasets=datasets),
        evaluation=EvaluationSettings(episodes=4, num_envs=2),
        algorithm={"name": "ilql", "beta": 20.0},
    )
    return replace(config, **changes)


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(datasets: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ILQL from the two datasets, with a separate critic."""
    run_dir = tmp_path_factory.mktemp("runs") / "offline"
    llmgym.train(offline_config(datasets, learner=LearnerSettings(critic="separate")), run_dir)
    return run_dir


def timeless(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if "second" not in name and "memory" not in name}


def test_a_run_learns_from_datasets_and_plays_nothing(finished: Path, datasets: tuple[str, ...]) -> None:
    rows = rows_of(finished)
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert all(row["episodes"] == 4 and row["td_loss"] >= 0 for row in rows)
    assert [row["policy_version"] for row in rows] == [0, 1, 2], "published where a checkpoint is kept"
    assert ["canary_gap" in row for row in rows] == [False, True, True]
    known = [[turn.reward for turn in one.turns] for one in retold(datasets)]
    kept = [
        one for update in (2, 3) for one in read_trajectories(finished / "trajectories" / f"update-{update:06d}.jsonl")
    ]
    assert len(kept) == 8
    assert all([turn.reward for turn in one.turns] in known for one in kept)
    told = run_identity(finished)
    assert told.training.endswith(f"({rows[-1]['env_steps']:,} recorded steps)")
    assert (finished / "checkpoints" / "update-000003" / "critic.safetensors").is_file()


def retold(datasets: tuple[str, ...]) -> Iterator[Trajectory]:
    speaker = Speaker(ByteTokenizer(), PromptSettings(), Acting(), 100_000)
    for name in datasets:
        yield from retell(read_dataset(name), speaker, takes_advice=False)


def test_a_resumed_run_is_handed_the_same_episodes(finished: Path, datasets: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "update-000003")
    llmgym.train(offline_config(datasets), tmp_path / "run", resume=True)
    assert [timeless(row) for row in rows_of(tmp_path / "run")] == [timeless(row) for row in rows_of(finished)]


def test_what_training_measured_is_the_guided_policy(finished: Path) -> None:
    trained = json.loads((finished / "result.json").read_text())["trained"]
    own = EvalConfig(str(finished), LAKE, LAKE_SETTINGS, episodes=4, num_envs=2)
    again = evaluate(own).to_json()
    assert {name: again[name] for name in ("success", "mean_turns")} == {
        name: trained[name] for name in ("success", "mean_turns")
    }
    alone = evaluate(replace(own, beta=0.0)).to_json()
    assert 0 <= alone["success"] <= 1
    steps = list(play(str(finished), LAKE, LAKE_SETTINGS, max_turns=2))
    assert all(sum(step.probabilities) == pytest.approx(1.0, abs=1e-5) for step in steps)


def test_beta_0_serves_the_engine_itself_and_more_another_distribution(finished: Path) -> None:
    config = RunConfig(env=LAKE, env_settings=LAKE_SETTINGS)
    prompt, candidates, acting = [5, 6, 7], [[8], [9, 10], [11]], Acting()
    with serve_policy(str(finished), config, beta=0.0) as served:
        assert not isinstance(served.engine, GuidedEngine)
        (alone,) = served.engine.act([prompt], [candidates], acting, 3)
    with serve_policy(str(finished), config) as served:
        engine = served.engine
        assert isinstance(engine, GuidedEngine)
        (pulled,) = engine.act([prompt], [candidates], acting, 3)
        assert pulled.candidate_ids == alone.candidate_ids
        assert np.abs(pulled.logprobs - alone.logprobs).max() > 1e-4
        assert np.exp(pulled.logprobs).sum() == pytest.approx(1.0, abs=1e-5)
        (best,) = engine.act([prompt], [candidates], replace(acting, temperature=0.0), 3)
        assert best.index == int(pulled.logprobs.argmax())
        ticket = engine.start(prompt, candidates, acting, 3)
        ((handed, choice),) = engine.advance()
        assert handed == ticket
        assert engine.advance() == []
        assert choice.index == engine.act([prompt], [candidates], acting, [3])[0].index
        scores = engine.score([prompt], [candidates])[0]
        np.testing.assert_allclose(scores - scores[0], alone.logprobs - alone.logprobs[0], atol=1e-4)
        with pytest.raises(EngineError, match=r"Expected how='score' or 'constrained', .* found 'text', 'sum'"):
            engine.act([prompt], [candidates], Acting("text"))
    with (
        pytest.raises(ConfigError, match=r"Expected a run whose heads guide it for beta=1\.0, found 'random'"),
        serve_policy("random", config, beta=1.0),
    ):
        pass


class Marked:
    """What of an engine is looked at where no head guides."""


def test_only_algorithms_that_guide_have_a_beta(tiny_model: Path) -> None:
    engine: Any = Marked()
    learner = Learner(str(tiny_model))
    assert guided(engine, learner) is engine
    with pytest.raises(ConfigError, match=r"heads guide it for beta=2\.0, such as one of ilql, found one of PPO"):
        guided(engine, learner, 2.0)
    q_learner = Learner(str(tiny_model), algorithm=ILQL(two_qs=False))
    with pytest.raises(ConfigError, match=r"Expected beta of at least 0, found -1\.0\. Set 0 for the policy alone"):
        guided(engine, q_learner, -1.0)
    assert guided(engine, q_learner, 0.0) is engine


def test_every_episode_comes_once_before_any_comes_again() -> None:
    prompt = np.array([3], np.int32)
    episodes = [
        Trajectory((Turn(prompt, ((4,),), 0, 0.0, float(number), True, False, 0),), None) for number in range(7)
    ]

    def rewards(collector: OfflineCollector, num_updates: int) -> list[list[float]]:
        return [[one.turns[0].reward for one in collector.collect_episodes(2)] for _ in range(num_updates)]

    drawn = rewards(OfflineCollector(episodes, num_envs=2, seed=0, num_done=0), 7)
    flat = [reward for update in drawn for reward in update]
    for first in range(0, 28, 7):
        assert sorted(flat[first : first + 7]) == list(range(7))
    assert flat[:7] != flat[7:14]
    assert rewards(OfflineCollector(episodes, num_envs=2, seed=0, num_done=3), 4) == drawn[3:]
    assert rewards(OfflineCollector(episodes, num_envs=2, seed=1, num_done=0), 7) != drawn
    handed = OfflineCollector(episodes, num_envs=3, seed=0, num_done=0).collect_episodes(3)
    assert [one.env_index for one in handed] == [0, 1, 2, 0, 1, 2, 0, 1, 2], "more than there are come again"
    with pytest.raises(LearnerError, match="Expected an algorithm that learns from whole episodes"):
        OfflineCollector(episodes, num_envs=1, seed=0, num_done=0).collect(4)


def test_rewards_belong_to_what_was_done_and_not_to_what_was_advised(datasets: tuple[str, ...]) -> None:
    episodes = list(read_dataset(datasets[1]))
    speaker = Speaker(ByteTokenizer(), PromptSettings(), Acting(), 100_000)
    done = [turn.action for one in retell(episodes, speaker, takes_advice=False) for turn in one.turns]
    advised = [turn.action for one in retell(episodes, speaker) for turn in one.turns]
    assert done == [action for one in episodes for action in one.actions]
    assert advised == [int(action) for one in episodes for action in one.infos[ADVISED][:-1]]
    assert done != advised


def test_rejection_imitates_what_succeeded_in_a_dataset(datasets: tuple[str, ...], tmp_path: Path) -> None:
    config = offline_config(datasets, algorithm={"name": "rejection"}, updates=1)
    config = replace(config, collect=replace(config.collect, num_envs=9, episodes_per_update=1))
    llmgym.train(config, tmp_path / "run")
    (row,) = rows_of(tmp_path / "run")
    solved = sum(one.turns[-1].reward > 0 for one in retold(datasets))
    assert row["kept"] == pytest.approx(solved / 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": {"name": "ppo"}}, r"learns from what others did \(ilql, rejection\) for .*, found 'ppo', which"),
        (
            {"env_settings": {}},
            r"to learn from, found one of .* Set env and env_settings to these, or collect\.dataset",
        ),
        ({"acting": Acting("text")}, r"acting\.how to be score or constrained for the algorithm 'ilql', found 'text'"),
    ],
)
def test_datasets_that_cannot_be_learned_from_are_refused(
    changes: dict[str, Any], message: str, datasets: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_offline(offline_config(datasets, **changes))


def test_ilql_may_play_too_and_clones_first(tmp_path: Path) -> None:
    config = offline_config((), clone=CloneSettings(episodes=2, epochs=1), updates=1)
    llmgym.train(config, tmp_path / "run")
    (row,) = rows_of(tmp_path / "run")
    assert row["behaviour_gap"] < 1e-4
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {"random", "clone", "trained"} <= set(result)
