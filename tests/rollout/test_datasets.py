"""Episodes as Minari datasets: what is written is what is read, by us and by Minari alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import count, cycle
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest

import llmgym  # noqa: F401
from llmgym.engine.scripted_engine import ByteTokenizer
from llmgym.envs.babyai.bot import Bot
from llmgym.errors import DatasetError, EnvError
from llmgym.rollout.datasets import dataset_spec, read_dataset, write_dataset
from llmgym.rollout.demonstrations import ADVISED, Expert, Speaker, demonstrate, retell
from llmgym.rollout.minari_format import DatasetFacts
from llmgym.rollout.recording import Episode, Recorder
from llmgym.rollout.store import write_trajectories
from llmgym.text import PromptSettings, TextEnv
from llmgym.types import Acting

MakeEnv = Callable[[], gym.Env[Any, Any]]
LEVEL = "llmgym/BabyAI-GoToLocal-v0"
BOT = Expert("bot", lambda env: Bot(env).act)
WALKER = Expert("walker", lambda env: lambda: 1)
NAME = "testing/demos-v0"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of datasets for Minari."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def facts(env_id: str = LEVEL, name: str = NAME, **settings: Any) -> DatasetFacts:
    spec = deepcopy(gym.spec(env_id))
    spec.kwargs = {**spec.kwargs, **settings}
    return DatasetFacts(name, spec, "bot", "a test", "Written by a test.", ("llmgym>=0.1",))


def play(env: gym.Env[Any, Any], expert: Expert = BOT, num_episodes: int = 3) -> list[Episode]:
    return list(demonstrate(env, expert, iter(count(40)), num_episodes))


def contents(episode: Episode) -> tuple[Any, ...]:
    """All of an episode, to compare."""
    infos = {name: np.asarray(column).tolist() for name, column in episode.infos.items()}
    texts = (episode.seed, episode.mission, episode.texts, episode.candidates, episode.actions)
    outcomes = (episode.rewards.tolist(), episode.terminations.tolist(), episode.truncations.tolist())
    return (*texts, *outcomes, infos)


def lines(folder: Path, episodes: Iterator[Episode] | list[Episode]) -> str:
    """Episodes as trajectories, as the store writes them."""
    speaker = Speaker(ByteTokenizer(), PromptSettings(), Acting(), 100_000)
    write_trajectories(folder / "turns.jsonl", retell(iter(episodes), speaker))
    return (folder / "turns.jsonl").read_text()


@pytest.mark.parametrize(("env_id", "settings"), [(LEVEL, {}), ("llmgym/BabyAI-MixedTrainLocal-v0", {"kind": "goto"})])
def test_what_is_read_is_what_was_played(env_id: str, settings: dict[str, Any], tmp_path: Path) -> None:
    env = gym.make(env_id, **settings)
    episodes = play(env)
    assert sum(episode.num_steps for episode in episodes) > 5
    write_dataset(episodes, env, facts(env_id, **settings))
    assert [contents(one) for one in read_dataset(NAME)] == [contents(one) for one in episodes]
    assert lines(tmp_path, read_dataset(NAME)) == lines(tmp_path, episodes)
    assert len(list(read_dataset(NAME, 2))) == 2
    assert dict(dataset_spec(NAME).kwargs) == {**gym.spec(env_id).kwargs, **settings}
    if settings:
        assert set(next(read_dataset(NAME)).infos["kind"]) == {"goto"}


def test_actions_that_depend_on_the_state_come_back(make_text_env: MakeEnv, tmp_path: Path) -> None:
    gym.register("llmgym-test/Line-v0", "tests.conftest:Line")
    env = make_text_env()
    episodes = play(env, WALKER)
    assert len({texts for episode in episodes for texts in episode.candidates}) == 2, "the actions change"
    write_dataset(episodes, env, facts("llmgym-test/Line-v0"))
    stored = minari.load_dataset(NAME)[0]
    assert stored.actions == ["walk"] * episodes[0].num_steps
    assert json.loads(stored.infos["actions"][0]) == ["stay", "walk", "walk on, whistling"]
    assert json.loads(stored.infos["actions"][1]) == ["stay", "walk", "go back"]
    assert [contents(one) for one in read_dataset(NAME)] == [contents(one) for one in episodes]
    assert lines(tmp_path, read_dataset(NAME)) == lines(tmp_path, episodes)


def test_truncation_is_kept_apart_from_termination(make_text_env: MakeEnv) -> None:
    gym.register("llmgym-test/Lazy-v0", "tests.conftest:Line")
    recorder = Recorder(make_text_env())
    recorder.reset(seed=1)
    for _ in range(6):
        recorder.step("stay")
    episode = recorder.take()
    write_dataset([episode], recorder, facts("llmgym-test/Lazy-v0"))
    (read,) = read_dataset(NAME)
    assert read.truncations.tolist() == [False] * 5 + [True]
    assert read.terminations.tolist() == [False] * 6
    (trajectory,) = retell([read], Speaker(ByteTokenizer(), PromptSettings(), Acting(), 10_000))
    assert trajectory.final_prompt_ids is not None, "the value of the last state counts"


def test_minari_alone_reads_a_dataset_and_makes_its_environment_again() -> None:
    """In a fresh interpreter: llmgym is not needed to read, and is found by itself to play."""
    env = gym.make(LEVEL, max_steps=30)
    write_dataset(play(env), env, facts(max_steps=30))
    script = f"""
import sys, warnings, minari
warnings.simplefilter("error")
dataset = minari.load_dataset({NAME!r})
episodes = list(dataset.iterate_episodes())
texts = [text for episode in episodes for text in episode.observations["text"]]
assert all(text in dataset.observation_space["text"] for text in texts)
assert "llmgym" not in sys.modules
env = dataset.recover_environment()
assert env.unwrapped.max_steps == 30
for episode, facts in zip(episodes, dataset.storage.get_episode_metadata(dataset.episode_indices)):
    seen = [env.reset(seed=facts["seed"])[0]]
    for action, reward in zip(episode.actions, episode.rewards):
        observation, now, terminated, truncated, _ = env.step(action)
        assert now == reward
        seen.append(observation)
    assert terminated
    assert [one["text"] for one in seen] == episode.observations["text"]
    assert [one["mission"] for one in seen] == episode.observations["mission"]
print("replayed", len(episodes))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "replayed 3\n", done.stderr


def test_texts_in_any_letters_are_in_the_space_that_minari_keeps() -> None:
    gym.register("llmgym-test/Words-v0", "tests.conftest:Line")
    env = TextEnv(gym.make("FrozenLake-v1"), lambda cell: f"поле {cell} ❄", ("←", "↓", "→", "↑"), mission="цель")
    recorder = Recorder(env)
    _, terminated = recorder.reset(seed=0), False
    while not terminated:
        _, _, terminated, truncated, _ = recorder.step(1)
        terminated = terminated or truncated
    write_dataset([recorder.take()], env, facts("llmgym-test/Words-v0"))
    dataset = minari.load_dataset(NAME)
    assert {"mission": "цель", "text": dataset[0].observations["text"][0]} in dataset.observation_space
    assert next(read_dataset(NAME)).candidates[0] == ("←", "↓", "→", "↑")


def test_minari_lists_the_dataset_and_its_namespaces(root: Path) -> None:
    env = gym.make(LEVEL)
    write_dataset(play(env, num_episodes=1), env, facts(name="one/two/three-v1"))
    assert list(minari.list_local_datasets()) == ["one/two/three-v1"]
    from minari.namespace import list_local_namespaces

    assert list_local_namespaces() == ["one", "one/two"]
    told = minari.list_local_datasets()["one/two/three-v1"]
    assert (told["algorithm_name"], told["total_episodes"]) == ("bot", 1)
    assert str(root) not in (root / "one/two/three-v1/data/metadata.json").read_text()


def test_a_dataset_is_read_by_its_path_too(tmp_path: Path) -> None:
    env = gym.make(LEVEL)
    folder = write_dataset(play(env, num_episodes=1), env, facts(), root=tmp_path / "elsewhere")
    assert folder == tmp_path / "elsewhere" / NAME
    for path in (folder, folder / "data"):
        assert len(list(read_dataset(str(path)))) == 1


def test_a_dataset_is_replaced_only_when_that_is_asked_for() -> None:
    env = gym.make(LEVEL)
    folder = write_dataset(play(env), env, facts())
    with pytest.raises(DatasetError, match=rf"Expected the name of a new dataset, but {NAME} exists already in "):
        write_dataset(play(env, num_episodes=1), env, facts())
    assert len(list(read_dataset(NAME))) == 3
    write_dataset(play(env, num_episodes=1), env, facts(), overwrite=True)
    assert len(list(read_dataset(NAME))) == 1
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["demos-v0"], "nothing is left behind"


def test_writing_that_fails_leaves_what_was_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make(LEVEL)
    write_dataset(play(env), env, facts())

    def interrupt(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmgym.rollout.datasets.store_episodes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(play(env, num_episodes=1), env, facts(), overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(play(env, num_episodes=1), env, facts(name="testing/other-v0"))
    assert len(list(read_dataset(NAME))) == 3
    assert [path.name for path in (root / "testing").iterdir() if path.is_dir()] == ["demos-v0"]


@pytest.mark.parametrize("name", ["demos", "a b-v0", "x/-v", "/demos-v0", "../demos-v0"])
def test_names_that_minari_would_not_find_are_refused(name: str) -> None:
    with pytest.raises(DatasetError, match=r"Expected the name of a dataset like namespace/name-v0, .* found "):
        write_dataset([], gym.make(LEVEL), facts(name=name))


def test_a_folder_that_is_something_else_is_left_alone(root: Path) -> None:
    (root / "testing" / "demos-v0").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"Expected a new folder .*, but .*demos-v0 is something else"):
        write_dataset([], gym.make(LEVEL), facts(), overwrite=True)


def test_a_folder_that_cannot_be_written_is_named(root: Path) -> None:
    (root / "testing").write_text("a file")
    with pytest.raises(DatasetError, match=r"Expected to be able to write the dataset .*demos-v0, but "):
        write_dataset([], gym.make(LEVEL), facts())


def test_an_environment_that_no_file_can_name_is_refused() -> None:
    gym.register("llmgym-test/Closure-v0", entry_point=lambda: gym.make(LEVEL))
    with pytest.raises(DatasetError, match="Expected an environment that a file can name, found llmgym-test/Closure"):
        write_dataset([], gym.make(LEVEL), facts("llmgym-test/Closure-v0"))


def test_a_dataset_that_is_not_there_is_told_with_the_nearest() -> None:
    env = gym.make(LEVEL)
    with pytest.raises(DatasetError, match=r"Expected a dataset named 'testing/demo-v0' in .*, found none\. `llmgym"):
        next(read_dataset("testing/demo-v0"))
    write_dataset(play(env, num_episodes=1), env, facts())
    with pytest.raises(DatasetError, match=r"found none\. Did you mean 'testing/demos-v0'"):
        next(read_dataset("testing/demo-v0"))
    with pytest.raises(DatasetError, match=r"found none\. There is: testing/demos-v0\."):
        dataset_spec("nothing-like-it")


def test_datasets_of_others_are_told_apart() -> None:
    buffer = minari.data_collector.EpisodeBuffer(
        observations=[0, 1], actions=[0], rewards=[0.0], terminations=[True], truncations=[False], infos={}
    )
    numbers = gym.spaces.Discrete(2)
    minari.create_dataset_from_buffers(NAME, [buffer], observation_space=numbers, action_space=numbers)
    with pytest.raises(
        DatasetError, match=r"Expected a dataset of text observations, .* found Discrete\(2\) in testing"
    ):
        next(read_dataset(NAME))
    with pytest.raises(DatasetError, match="Expected a dataset that knows its environment, found none in testing"):
        dataset_spec(NAME)


def test_texts_without_candidate_actions_cannot_be_told_again() -> None:
    space = gym.spaces.Text(10)
    buffer = minari.data_collector.EpisodeBuffer(
        observations={"mission": ["go", "go"], "text": ["a", "b"]},
        actions=[0],
        rewards=[0.0],
        terminations=[True],
        truncations=[False],
        infos={"kind": ["goto", "goto"]},
    )
    minari.create_dataset_from_buffers(
        NAME,
        [buffer],
        observation_space=gym.spaces.Dict({"mission": space, "text": space}),
        action_space=gym.spaces.Discrete(2),
    )
    with pytest.raises(DatasetError, match=r"Expected infos\['actions'\] .* found only \['kind'\] in testing"):
        next(read_dataset(NAME))


def test_an_experts_mistakes_are_left_out_but_bad_luck_is_shown(make_text_env: MakeEnv) -> None:
    env = make_text_env()
    moods = cycle((0, 1))

    def begin(_env: gym.Env[Any, Any]) -> Callable[[], int]:
        mood = next(moods)
        return lambda: mood

    solved = play(env, Expert("fickle", begin), 3)
    assert [episode.rewards[-1] for episode in solved] == [1.0, 1.0, 1.0]
    assert [episode.seed for episode in solved] == [41, 43, 45], "every other episode was stayed through"
    assert [episode.seed for episode in play(env, Expert("unlucky", begin, is_optimal=True), 3)] == [40, 41, 42]


def test_an_expert_whose_hand_slips_shows_how_to_recover() -> None:
    env = gym.make(LEVEL)
    episodes = list(demonstrate(env, BOT, iter(count(40)), 6, slips=0.3))
    again = list(demonstrate(env, BOT, iter(count(40)), 6, slips=0.3))
    assert [contents(episode) for episode in episodes] == [contents(episode) for episode in again]
    assert [episode.actions for episode in episodes] != [episode.actions for episode in play(env, BOT, 6)]
    speaker = Speaker(ByteTokenizer(), PromptSettings(), Acting(), max_tokens=100_000)
    for episode, trajectory in zip(episodes, retell(episodes, speaker), strict=True):
        assert episode.rewards[-1] > 0
        advised = np.asarray(episode.infos[ADVISED])
        assert len(advised) == episode.num_steps + 1
        assert [turn.action for turn in trajectory.turns] == advised[:-1].tolist(), "the advice is what is learned"
        told = ByteTokenizer().decode(trajectory.turns[-1].prompt_ids)
        done = [episode.candidates[0][action] for action in episode.actions]
        assert told.count("Action: ") == episode.num_steps - 1
        assert all(f"Action: {action}\n" in told for action in done[:-1]), "the prompts tell what was done"
    num_slips = sum((np.asarray(e.infos[ADVISED])[:-1] != e.actions).sum() for e in episodes)
    assert 0.1 < num_slips / sum(episode.num_steps for episode in episodes) < 0.45
    with pytest.raises(EnvError, match=r"slips from 0 to below 1, found 1\.5"):
        next(demonstrate(env, BOT, iter(count()), 1, slips=1.5))


def test_the_bot_knows_what_was_done_instead() -> None:
    env = gym.make(LEVEL)
    _, info = env.reset(seed=2)
    bot = Bot(env)
    wrong = info["actions"].index("turn left")
    assert bot.act() != wrong
    env.step(wrong)
    alone = gym.make(LEVEL)
    alone.reset(seed=2)
    alone.step(wrong)
    assert bot.act(wrong) == Bot(alone).act()


def test_slips_are_kept_in_a_dataset() -> None:
    env = gym.make(LEVEL)
    episodes = list(demonstrate(env, BOT, iter(count(40)), 3, slips=0.3))
    write_dataset(episodes, env, facts())
    assert [contents(episode) for episode in read_dataset(NAME)] == [contents(episode) for episode in episodes]


def test_an_expert_that_always_fails_is_told(make_text_env: MakeEnv) -> None:
    with pytest.raises(EnvError, match=r"the sitter to solve .* failed at 100 episodes in a row\. The last one ended"):
        play(make_text_env(), Expert("sitter", lambda _env: lambda: 0))
    with pytest.raises(
        EnvError, match=r"the bot to solve .* 100 episodes in a row\. Expected the bot to solve .*KeyIn"
    ):
        play(gym.make("llmgym/BabyAI-KeyInBox-v0"))


def test_the_recorder_hands_out_what_is_over_only(make_text_env: MakeEnv) -> None:
    recorder = Recorder(make_text_env())
    with pytest.raises(EnvError, match="Expected an episode to record a step of, found none"):
        recorder.step("walk")
    recorder.reset(seed=0)
    with pytest.raises(EnvError, match=r"Expected an action among .* found 'fly'"):
        recorder.step("fly")
    with pytest.raises(EnvError, match="Expected an episode that is over, found none"):
        recorder.take()
