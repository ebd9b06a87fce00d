import random
import warnings
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import llmgym  # noqa: F401
from llmgym.errors import EnvError

IDS = sorted(
    name for name in gymnasium.registry if name.startswith("llmgym/") and not name.startswith("llmgym/BabyAI-")
)
needs_textworld = pytest.mark.skipif(find_spec("textworld") is None, reason="the package textworld is not installed")
MARKED = [pytest.param(name, marks=needs_textworld if "TextWorld" in name else ()) for name in IDS]


def choose(env: gymnasium.Env[Any, Any], info: dict[str, Any], rng: random.Random) -> Any:
    index = rng.randrange(len(info["actions"]))
    return index if isinstance(env.action_space, gymnasium.spaces.Discrete) else info["actions"][index]


def play(env: gymnasium.Env[Any, Any], seed: int) -> tuple[list[Any], float]:
    """Play an episode at random; return its texts and its return."""
    observation, info = env.reset(seed=seed)
    rng, seen, total, is_over = random.Random(seed), [observation], 0.0, False
    while not is_over:
        assert observation in env.observation_space
        assert observation["mission"]
        assert isinstance(info["actions"], tuple)
        observation, reward, terminated, truncated, info = env.step(choose(env, info, rng))
        is_over = terminated or truncated
        total += float(reward)
        seen.append((observation, reward, terminated, truncated, info["actions"]))
    return seen, total


def test_the_other_environments_are_these() -> None:
    assert [name.removeprefix("llmgym/") for name in IDS] == [
        "Blackjack-v0",
        "CartPole-v0",
        "CliffWalking-v0",
        "FrozenLake-v0",
        "FrozenLake8x8-v0",
        "Taxi-v0",
        "TextWorld-v0",
    ]


@pytest.mark.parametrize("env_id", MARKED)
def test_an_environment_keeps_the_contract(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        check_env(gymnasium.make(env_id, disable_env_checker=True), skip_render_check=True)
    env = gymnasium.make(env_id)
    seen, _ = play(env, 3)
    assert play(env, 3)[0] == seen
    assert play(gymnasium.make(env_id), 3)[0] == seen
    assert env.spec is not None
    assert play(gymnasium.make(env.spec), 3)[0] == seen
    env.close()


@pytest.mark.parametrize(
    ("env_id", "low", "high"),
    [
        ("Blackjack", -0.55, -0.25),
        ("CartPole", 18.0, 27.0),
        ("CliffWalking", -4000.0, -900.0),
        ("FrozenLake", 0.0, 0.06),
        ("Taxi", -850.0, -650.0),
        pytest.param("TextWorld", 0.0, 0.9, marks=needs_textworld),
    ],
)
def test_the_random_policy_fares_as_expected(env_id: str, low: float, high: float) -> None:
    settings = {"num_games": 2} if env_id == "TextWorld" else {}
    env = gymnasium.make(f"llmgym/{env_id}-v0", **settings)
    num_episodes = {"TextWorld": 20, "CliffWalking": 60, "Taxi": 60}.get(env_id, 400)
    mean = np.mean([play(env, seed)[1] for seed in range(num_episodes)])
    assert low <= mean <= high


@pytest.mark.parametrize("autoreset", list(AutoresetMode))
@pytest.mark.parametrize("env_id", ["FrozenLake-v0", "CartPole-v0"])
def test_vector_envs_of_every_mode_agree(env_id: str, autoreset: AutoresetMode) -> None:
    venvs = [
        gymnasium.make_vec(
            f"llmgym/{env_id}", num_envs=2, vectorization_mode=mode, vector_kwargs={"autoreset_mode": autoreset}
        )
        for mode in ("sync", "async")
    ]
    assert venvs[0].reset(seed=1)[0] == venvs[1].reset(seed=1)[0]
    for _ in range(20):
        (texts, _, terminated, truncated, _), other = (venv.step(np.array([1, 1])) for venv in venvs)
        assert texts == other[0]
        is_over = terminated | truncated
        if autoreset is AutoresetMode.DISABLED and is_over.any():
            first, second = (venv.reset(options={"reset_mask": is_over})[0] for venv in venvs)
            assert first == second
    for venv in venvs:
        venv.close()


def test_frozen_lake_is_told_in_the_wordings_that_it_lists() -> None:
    env = gymnasium.make("llmgym/FrozenLake-v0", is_slippery=False)
    observation, _ = env.reset(seed=0)
    for action in (1, 1, 2, 2, 1, 2):
        text = observation["text"]
        for phrase in env.get_wrapper_attr("phrases"):
            text = text.replace(phrase, "")
        assert text in ("You stand on the start", "You stand on ice")
        observation, *_ = env.step(action)
    assert observation["text"].startswith("You stand on the goal in row 4, column 4")


def test_frozen_lake_tells_what_lies_around() -> None:
    env = gymnasium.make("llmgym/FrozenLake-v0", is_slippery=False)
    assert env.reset(seed=0)[0] == {
        "mission": "reach the goal in row 4, column 4 without falling into a hole.",
        "text": "You stand on the start in row 1, column 1, left: the shore, down: ice, right: ice, up: the shore",
    }
    assert env.step(1)[0]["text"].endswith("row 2, column 1, left: the shore, down: ice, right: a hole, up: the start")
    rewards = [env.step(action)[1:3] for action in (1, 2, 2, 1, 2)]
    assert rewards == [(0, False)] * 4 + [(1, True)]
    with pytest.raises(EnvError, match="Expected map_name to be one of 4x4, 8x8, got '5x5'"):
        gymnasium.make("llmgym/FrozenLake-v0", map_name="5x5")


def test_taxi_tells_walls_stands_and_the_passenger() -> None:
    env: Any = gymnasium.make("llmgym/Taxi-v0")
    env.reset(seed=0)
    town = env.unwrapped
    for state in range(500):
        row, column, passenger, destination = town.decode(state)
        text = env.get_wrapper_attr("_describe")(state)
        assert f"in row {row + 1}, column {column + 1}" in text
        assert ("is in the taxi" in text) == (passenger == 4)
        stand = ("red", "green", "yellow", "blue")[destination]
        assert f"wants to go to the {stand} stand" in text
        open_ways = text.partition("open to the ")[2].rstrip(".").split(", ")
        moves = {"south": 0, "north": 1, "east": 2, "west": 3}
        assert {name for name, action in moves.items() if town.P[state][action][0][1] != state} == set(open_ways)


def test_cliff_walking_warns_of_the_edge() -> None:
    env = gymnasium.make("llmgym/CliffWalking-v0")
    text = env.reset(seed=0)[0]["text"]
    assert text.startswith("You stand in row 4, column 1, if you go up you are safe, if you go right you fall off")
    assert env.step(1)[1] == -100
    for action in (0, *[1] * 11):
        text = env.step(action)[0]["text"]
    assert "if you go down you are there" in text
    assert env.step(2)[2] is True


def test_blackjack_tells_hand_and_card() -> None:
    env = gymnasium.make("llmgym/Blackjack-v0")
    texts = [env.reset(seed=seed)[0]["text"] for seed in range(200)]
    assert texts[1] == "You hold 20. The dealer shows a 7."
    assert any("with an ace that counts 11. The dealer shows an 8." in text for text in texts)
    assert any(text.endswith("shows an ace.") for text in texts)


def test_cart_pole_says_numbers_in_words() -> None:
    env: Any = gymnasium.make("llmgym/CartPole-v0")
    describe = env.get_wrapper_attr("_describe")
    assert describe(np.array([0.01, -0.02, 0.0, 0.04])) == (
        "The cart is in the middle and stands still. The pole stands upright and does not turn."
    )
    assert describe(np.array([-1.26, 0.3, 0.1, -2.0])) == (
        "The cart is 1.3 units left of the middle and moves slowly to the right. The pole leans 5.7 degrees to the "
        "right and turns fast to the left."
    )


@needs_textworld
def test_textworld_games_can_be_won_by_their_own_commands() -> None:
    env: Any = gymnasium.make("llmgym/TextWorld-v0", num_rooms=1, num_objects=2, quest_length=1, num_games=1)
    won = False
    for seed in range(30):
        observation, info = env.reset(seed=seed)
        assert observation["text"].startswith("-= ")
        rng, is_over = random.Random(seed), False
        while not is_over:
            command = rng.choice(info["actions"])
            observation, reward, terminated, truncated, info = env.step(command)
            assert " =-" not in observation["text"][-20:]
            is_over = terminated or truncated
        if terminated:
            won = True
            assert (reward, info["won"]) == (1.0, True)
            break
    assert won


@needs_textworld
def test_textworld_answers_any_text_and_refuses_wrong_settings() -> None:
    env = gymnasium.make("llmgym/TextWorld-v0", num_rooms=1, num_objects=2, quest_length=1, num_games=1)
    env.reset(seed=0)
    text = env.step("frobnicate the schöne Grüße")[0]["text"]
    assert "verb" in text
    env.step("")
    with pytest.raises(EnvError, match="Expected num_rooms >= 1, got 0"):
        gymnasium.make("llmgym/TextWorld-v0", num_rooms=0)
