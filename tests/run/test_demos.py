"""Demonstrations written by whoever plays, and cloned again: the learner is as if the expert had played on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

import llmgym
from llmgym.config import CloneSettings, CollectSettings, EvaluationSettings, RunConfig
from llmgym.engine.scripted_engine import ByteTokenizer
from llmgym.errors import ConfigError, DatasetError, EnvError
from llmgym.learner import Learner
from llmgym.learner.tiny import TinySettings
from llmgym.rollout.datasets import read_dataset
from llmgym.run.demos import DemosConfig, write_demos
from llmgym.run.report import SilentReporter
from llmgym.run.showing import check_demonstrations, demonstration_seeds, find_expert

LEVEL = "llmgym/BabyAI-GoToObjS4-v0"
LAKE = "llmgym/FrozenLake-v0"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of datasets for Minari."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def small_run(env: str = LEVEL, clone: CloneSettings | None = None, **changes: Any) -> RunConfig:
    config = RunConfig(
        env=env,
        updates=0,
        backend="transformers",
        tiny=TinySettings(vocab_size=400, hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64),
        clone=clone or CloneSettings(episodes=4, epochs=1),
        collect=CollectSettings(num_envs=2, steps_per_update=4),
        evaluation=EvaluationSettings(episodes=2, num_envs=2),
    )
    return replace(config, **changes)


def test_the_experts_episodes_are_those_that_a_run_clones() -> None:
    result = write_demos(DemosConfig(LEVEL, episodes=4, seed=3))
    assert result.name == "llmgym/BabyAI-GoToObjS4/bot-v0"
    assert (result.row.name, result.row.episodes, result.row.success) == ("bot", 4, 1.0)
    episodes = list(read_dataset(result.name))
    assert [episode.seed for episode in episodes] == list(islice(demonstration_seeds(3), 4))
    assert result.num_steps == sum(episode.num_steps for episode in episodes)
    assert result.row.mean_return == pytest.approx(np.mean([episode.rewards.sum() for episode in episodes]))
    assert (result.num_left_out, result.is_interrupted) == (0, False)


def test_cloning_a_dataset_gives_the_learner_that_cloning_the_expert_gives(tmp_path: Path) -> None:
    write_demos(DemosConfig(LEVEL, episodes=4, name="mine/bot-v0"))
    llmgym.train(small_run(), tmp_path / "expert")
    llmgym.train(small_run(clone=CloneSettings(dataset="mine/bot-v0", epochs=1)), tmp_path / "dataset")
    llmgym.train(small_run(clone=CloneSettings(episodes=3, dataset="mine/bot-v0", epochs=1)), tmp_path / "fewer")
    llmgym.train(small_run(clone=CloneSettings(episodes=99, dataset="mine/bot-v0", epochs=1)), tmp_path / "all")
    weights = {}
    for name in ("expert", "dataset", "fewer", "all"):
        learner = Learner.load(tmp_path / name / "checkpoints" / "update-000000")
        weights[name] = {key: weight.detach().numpy().copy() for key, weight in learner.policy.named_parameters()}
        learner.close()
    for key, weight in weights["expert"].items():
        np.testing.assert_array_equal(weight, weights["dataset"][key])
        np.testing.assert_array_equal(weight, weights["all"][key], "more than there are")
    assert any((weight != weights["fewer"][key]).any() for key, weight in weights["expert"].items())


def test_a_policys_episodes_tell_how_likely_its_actions_were() -> None:
    result = write_demos(DemosConfig(LEVEL, episodes=40, policy="random"))
    assert (result.name, result.row.name) == ("llmgym/BabyAI-GoToObjS4/random-v0", "random")
    episodes = list(read_dataset(result.name))
    assert [episode.seed for episode in episodes] == list(islice(demonstration_seeds(0), 40)), "whoever ends first"
    for episode in episodes:
        logprobs = np.asarray(episode.infos["logprob"])
        assert np.isnan(logprobs[0])
        assert logprobs[1:] == pytest.approx(np.log(1 / 6))
        assert np.asarray(episode.infos["policy_version"]).tolist() == [-1, *[0] * episode.num_steps]
    assert 0 < result.row.success < 1
    stored = minari.load_dataset(result.name)[0]
    assert len(stored.infos["logprob"]) == len(stored.actions) + 1


def test_a_runs_episodes_are_named_after_it_and_not_after_its_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "my run"
    llmgym.train(small_run(clone=CloneSettings(), updates=1), run_dir)
    result = write_demos(DemosConfig(LEVEL, episodes=3, policy=str(run_dir)))
    assert result.name == "llmgym/BabyAI-GoToObjS4/my-run-v0"
    metadata = (result.folder / "data" / "metadata.json").read_text()
    assert str(tmp_path) not in metadata
    assert "llmgym demos --env llmgym/BabyAI-GoToObjS4-v0 --policy my run --episodes 3 --seed 0" in metadata
    for episode in read_dataset(result.name):
        logprobs = np.asarray(episode.infos["logprob"])[1:]
        assert (logprobs < 0).all()
        assert set(np.asarray(episode.infos["policy_version"])[1:].tolist()) == {1}
        # The candidates are no longer equally likely.
        assert np.abs(logprobs - np.log(1 / 6)).max() > 1e-4


def test_an_agent_plays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmgym.run.agents import RandomAgent

    monkeypatch.setattr("llmgym.run.demos.find_agent", lambda policy, env_id, settings: RandomAgent())
    result = write_demos(DemosConfig(LEVEL, episodes=3, policy="some-baseline", name="mine/agent-v0"))
    episodes = list(read_dataset("mine/agent-v0"))
    assert [episode.seed for episode in episodes] == list(islice(demonstration_seeds(0), 3))
    assert result.row.name == "random"


def test_the_planner_of_the_lake_shows_its_bad_luck_too() -> None:
    expert = find_expert(LAKE)
    assert expert is not None
    assert (expert.name, expert.is_optimal) == ("planner", True)
    result = write_demos(DemosConfig(LAKE, episodes=50))
    assert result.name == "llmgym/FrozenLake/planner-v0"
    assert 0.5 < result.row.success < 0.95
    assert result.num_left_out == 0


def test_what_the_bot_fails_at_is_left_out_and_counted() -> None:
    level = "llmgym/BabyAI-UnlockToUnlock-v0"
    result = write_demos(DemosConfig(level, episodes=5))
    seeds = [episode.seed for episode in read_dataset(result.name)]
    drawn = list(islice(demonstration_seeds(0), 5 + result.num_left_out))
    assert set(seeds) < set(drawn), "the bot plans in circles now and then"
    assert result.num_left_out == len(drawn) - 5 > 0


class Stopping(SilentReporter):
    """Ctrl-C after so many episodes."""

    def __init__(self, after: int) -> None:
        self._after = after

    def advance(self, done: int, metrics: Any) -> None:
        if done == self._after:
            raise KeyboardInterrupt


def test_an_interrupted_player_leaves_whole_episodes_from_the_first_on() -> None:
    result = write_demos(DemosConfig(LEVEL, episodes=40, policy="random"), Stopping(20))
    assert result.is_interrupted
    seeds = [episode.seed for episode in read_dataset(result.name)]
    assert 0 < len(seeds) <= 20
    assert seeds == list(islice(demonstration_seeds(0), len(seeds))), "short episodes are not preferred"
    assert result.row.episodes == len(seeds)


def test_an_interrupt_before_the_first_episode_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: Any, **_settings: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("llmgym.run.demos.demonstrate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_demos(DemosConfig(LEVEL, episodes=2))
    assert not list(root.rglob("*.hdf5"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"env": "llmgym/FrozenLak-v0"},
            EnvError,
            r"Expected the id of a text environment, .* Did you mean 'llmgym/Fro",
        ),
        (
            {"env": "llmgym/CartPole-v0"},
            ConfigError,
            r"environment with an expert, found 'llmgym/CartPole-v0', .* random,",
        ),
        ({"env_settings": {"colour": 1}}, EnvError, "Expected env_settings that .* knows, found colour"),
        ({"name": "no version"}, DatasetError, "Expected the name of a dataset like namespace/name-v0"),
        ({"policy": "nobody"}, ConfigError, "found 'nobody'"),
    ],
)
def test_what_cannot_be_played_is_told(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        write_demos(replace(DemosConfig(LEVEL, episodes=1), **changes))


def test_a_dataset_of_another_environment_is_not_cloned(tmp_path: Path) -> None:
    write_demos(DemosConfig(LAKE, {"is_slippery": False}, episodes=1, name="mine/dry-v0"))
    clone = CloneSettings(dataset="mine/dry-v0")
    check_demonstrations(small_run(LAKE, clone, env_settings={"is_slippery": False}))
    with pytest.raises(
        ConfigError, match=r"Expected a dataset of llmgym/FrozenLake-v0 \{\} to learn from, found one of .*Fal"
    ):
        llmgym.train(small_run(LAKE, clone), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"Expected a dataset of llmgym/BabyAI-.* found one of llmgym/FrozenLake-v0"):
        llmgym.train(small_run(clone=clone), tmp_path / "run")
    with pytest.raises(DatasetError, match=r"Expected a dataset named 'mine/dri-v0' .* Did you mean 'mine/dry-v0'"):
        llmgym.train(small_run(clone=CloneSettings(dataset="mine/dri-v0")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_any_learner_tells_the_same_episodes_in_its_own_prompts() -> None:
    from llmgym.rollout.demonstrations import Speaker, retell
    from llmgym.text import PromptSettings
    from llmgym.types import Acting

    write_demos(DemosConfig(LAKE, episodes=1, name="mine/one-v0"))
    for prompt, begins in (
        (PromptSettings(), "Possible actions:"),
        (PromptSettings("window", 1), "Possible action of"),
    ):
        (told,) = retell(read_dataset("mine/one-v0"), Speaker(ByteTokenizer(), prompt, Acting(), 100_000))
        assert ByteTokenizer().decode(told.turns[0].prompt_ids).startswith(begins)


def test_slips_are_the_same_in_a_dataset_as_on_the_spot(tmp_path: Path) -> None:
    result = write_demos(DemosConfig(LEVEL, episodes=4, slips=0.3))
    on_the_spot = llmgym.train(small_run(clone=CloneSettings(4, slips=0.3, epochs=1)), tmp_path / "a")
    read = llmgym.train(small_run(clone=CloneSettings(dataset=result.name, epochs=1)), tmp_path / "b")
    one, other = (Learner.load(run.run_dir / "checkpoints" / "update-000000") for run in (on_the_spot, read))
    for (name, first), (_, second) in zip(one.policy.named_weights(), other.policy.named_weights(), strict=True):
        assert bool((first == second).all()), name


def test_only_an_experts_hand_slips() -> None:
    with pytest.raises(ConfigError, match=r"an expert whose hand can slip, found slips=0\.2 with the policy 'random'"):
        DemosConfig(LEVEL, policy="random", slips=0.2)
    with pytest.raises(ConfigError, match=r"clone\.slips from 0 to below 1, found -0\.1"):
        small_run(clone=CloneSettings(4, slips=-0.1))
    with pytest.raises(ConfigError, match=r"clone\.slips=0 where clone\.dataset is set"):
        small_run(clone=CloneSettings(dataset="some/where-v0", slips=0.1))
    with pytest.raises(ConfigError, match=r"clone\.final_learning_rate from 0 to 1, found 1\.5"):
        small_run(clone=CloneSettings(4, final_learning_rate=1.5))
