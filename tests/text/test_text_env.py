from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Text
from gymnasium.utils.env_checker import check_env

from llmgym.errors import ActionParseError, EnvError
from llmgym.text.space import UnicodeText
from llmgym.text.text_env import TextEnv

NAMES = ("left", "down", "right", "up")


def frozen_lake(**settings: Any) -> TextEnv:
    settings = {"describe": lambda cell: f"Vous êtes à la case {cell}.\n“Brr…”", "actions": NAMES} | settings
    return TextEnv(gymnasium.make("FrozenLake-v1", is_slippery=False), **settings)


class Counter(gymnasium.Env[Any, Any]):
    """Count up by 1, or from 2 on also by 10; over at 12 or more."""

    observation_space = Discrete(100)
    action_space: Any = Discrete(20)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(2))
        return self.count, {"actions": "of the base env", "count": self.count}

    def step(self, action: Any) -> Any:
        self.count += int(action)
        return self.count, 1.0, self.count >= 12, False, {"count": self.count}


def legal(count: int) -> dict[str, int]:
    if count >= 12:
        return {}
    return {"add one": 1, "add ten": 10} if count >= 2 else {"add one": 1}


def counter(**settings: Any) -> TextEnv:
    settings = {"describe": lambda count: f"The count is {count}.", "actions": legal} | settings
    return TextEnv(Counter(), **settings)


class Parser(Counter):
    """The counter, played by typing."""

    action_space = Text(8)

    def step(self, action: str) -> Any:
        return super().step(int(action) if action.isdigit() else 0)


def test_every_state_has_its_text_and_its_actions() -> None:
    env = frozen_lake(mission="Reach the goal.")
    observation, info = env.reset(seed=0)
    assert observation == {"mission": "Reach the goal.", "text": "Vous êtes à la case 0.\n“Brr…”"}
    assert info["actions"] == NAMES
    assert env.action_space == Discrete(4)
    observation, _, terminated, truncated, info = env.step(NAMES.index("right"))
    assert observation["text"].startswith("Vous êtes à la case 1.")
    assert (terminated, truncated, info["actions"]) == (False, False, NAMES)
    assert info["prob"] == 1.0


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_text_env_passes_gymnasiums_checker() -> None:
    check_env(frozen_lake(), skip_render_check=True)


def test_a_time_limit_truncates_and_does_not_terminate() -> None:
    env = TextEnv(gymnasium.make("FrozenLake-v1", max_episode_steps=1), describe=str, actions=NAMES)
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, True)


def test_the_same_seed_gives_the_same_episode() -> None:
    env = TextEnv(gymnasium.make("FrozenLake-v1"), describe=str, actions=NAMES)
    episodes = []
    for _ in range(2):
        env.reset(seed=11)
        episodes.append([env.step(2)[0]["text"] for _ in range(3)])
    assert episodes[0] == episodes[1]


def test_actions_that_depend_on_the_state_are_given_as_texts() -> None:
    env = counter(mission=lambda count: f"Count from {count} to 12.")
    observation, info = env.reset(seed=1)
    start = info["count"]
    assert observation["mission"] == f"Count from {start} to 12."
    assert info["actions"] == ("add one",)
    assert "add one" in env.action_space
    while len(info["actions"]) < 2:
        observation, *_, info = env.step("add one")
    assert observation == {"mission": f"Count from {start} to 12.", "text": "The count is 2."}
    assert info["actions"] == ("add one", "add ten")
    observation, reward, terminated, truncated, info = env.step("add ten")
    assert (observation["text"], reward, terminated, truncated) == ("The count is 12.", 1.0, True, False)
    assert info["actions"] == ()


def test_an_action_that_is_not_legal_now_is_refused_with_the_nearest() -> None:
    env = counter()
    env.reset(seed=0)
    with pytest.raises(ActionParseError, match=r"one of the 1 actions in info\['actions'\], got 'add ten'"):
        env.step("add ten")
    with pytest.raises(ActionParseError, match=r"got 'add on'\. Did you mean 'add one'\?"):
        env.step("add on")


def test_an_env_that_takes_texts_gets_any_text() -> None:
    env = TextEnv(Parser(), describe=str, actions=lambda count: ["1", "2"])
    assert env.reset(seed=0)[1]["actions"] == ("1", "2")
    before = env.unwrapped.count  # type: ignore[attr-defined]
    assert env.step("2")[0]["text"] == str(before + 2)
    assert env.step("look")[0]["text"] == str(before + 2)
    assert env.action_space == Text(8)


@pytest.mark.parametrize("action", [4, -1, "left", None])
def test_an_index_beyond_the_actions_is_refused(action: Any) -> None:
    env = frozen_lake()
    env.reset(seed=0)
    with pytest.raises(ActionParseError, match=r"Expected an action from 0 to 3, got .*info\['actions'\]"):
        env.step(action)


def test_the_first_action_of_a_shifted_space_is_index_zero() -> None:
    base = Counter()
    base.action_space = Discrete(2, start=5)
    env = TextEnv(base, describe=str, actions=["add five", "add six"])
    start = int(env.reset(seed=0)[0]["text"])
    assert env.step(np.int64(1))[0]["text"] == str(start + 6)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (("left", "down"), r"Expected 4 texts, one for each action of Discrete\(4\), got 2: \['left', 'down'\]"),
        (("left", "left", "up", "down"), "Expected distinct texts"),
        (("left", "", "up", "down"), "Expected distinct texts that are not empty"),
    ],
)
def test_actions_that_do_not_fit_the_space_are_refused(actions: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        frozen_lake(actions=actions)


def test_names_for_actions_that_cannot_be_counted_are_refused() -> None:
    base = Counter()
    base.action_space = Box(-1, 1)
    with pytest.raises(EnvError, match=r"Expected a Discrete action space to name its actions, found Box.*function"):
        TextEnv(base, describe=str, actions=["left"])


def test_legal_actions_without_their_meaning_are_refused() -> None:
    env = counter(actions=lambda count: ["add one"])
    with pytest.raises(EnvError, match=r"map each text to an action of Discrete\(20\), got \['add one'\]"):
        env.reset(seed=0)


def test_no_legal_action_in_the_middle_of_an_episode_is_refused() -> None:
    with pytest.raises(EnvError, match="Expected at least one legal action while the episode goes on"):
        counter(actions=lambda count: {}).reset(seed=0)


@pytest.mark.parametrize(
    ("described", "found"),
    [(None, r"NoneType \(None\)"), ("x" * 41, r"41 characters \('xxx"), ("a\0b", "NUL character")],
)
def test_a_text_that_is_not_in_the_space_is_refused(described: Any, found: str) -> None:
    env = frozen_lake(describe=lambda cell: described, max_length=40)
    with pytest.raises(EnvError, match=rf"Expected describe of .* text of at most 40 characters, got .*{found}"):
        env.reset(seed=0)


@pytest.mark.parametrize("shared_memory", [True, False])
def test_sync_and_async_vector_envs_give_the_same_texts(shared_memory: bool) -> None:
    results = []
    for venv in (
        gymnasium.vector.SyncVectorEnv([frozen_lake, frozen_lake]),
        gymnasium.vector.AsyncVectorEnv([frozen_lake, frozen_lake], shared_memory=shared_memory),
    ):
        first, info = venv.reset(seed=0)
        assert info["actions"].tolist() == [NAMES, NAMES]
        texts, *_, info = venv.step(np.array([1, 2]))
        assert info["_actions"].tolist() == [True, True]
        results.append((first, texts))
        venv.close()
    assert results[0] == results[1]
    assert results[0][1]["text"] == ("Vous êtes à la case 4.\n“Brr…”", "Vous êtes à la case 1.\n“Brr…”")


def test_a_vector_env_that_does_not_copy_shows_the_texts_of_now() -> None:
    venv = gymnasium.vector.AsyncVectorEnv([frozen_lake, frozen_lake], copy=False)
    texts, _ = venv.reset(seed=0)
    venv.step(np.array([1, 2]))
    assert [text[:24] for text in texts["text"]] == ["Vous êtes à la case 4.\n“", "Vous êtes à la case 1.\n“"]
    assert len(texts["text"]) == 2
    venv.close()


def test_open_actions_work_in_vector_envs() -> None:
    venv = gymnasium.vector.AsyncVectorEnv([counter, counter])
    venv.reset(seed=[1, 1])
    texts, *_ = venv.step(("add one", "add one"))
    assert texts["text"][0] == texts["text"][1]
    venv.close()


def test_the_space_holds_any_text_up_to_its_length_and_samples_from_itself() -> None:
    space = UnicodeText(12, seed=0)
    assert all(text in space for text in ("", "à gauche\n", "漢字 🙂", "x" * 12))
    assert not any(text in space for text in ("x" * 13, "a\0", 3, None))
    assert all(space.sample() in space for _ in range(50))
    assert space == UnicodeText(12)
    assert space != UnicodeText(13)
    assert repr(space) == "UnicodeText(12)"
