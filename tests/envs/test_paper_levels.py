import hashlib
import json
import random
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import llmgym  # noqa: F401
from llmgym.envs.babyai import KINDS, local_missions
from llmgym.envs.babyai.bot import Bot
from llmgym.errors import EnvError

HASHES = json.loads((Path(__file__).parents[1] / "data" / "babyai_text_hashes.json").read_text())
MIXED = "llmgym/BabyAI-MixedTrainLocal-v0"


def make(level: str, **settings: Any) -> Any:
    return gymnasium.make(f"llmgym/BabyAI-{level}-v0", disable_env_checker=True, **settings)


def digest(env: Any, seed: int) -> str:
    """Return a digest of an episode's beginning and of that of the next one."""
    found = hashlib.sha256()
    for seed_or_none in (seed, None):
        observation, info = env.reset(seed=seed_or_none)
        level = env.unwrapped
        found.update(level.grid.encode().tobytes())
        agent = [int(coordinate) for coordinate in level.agent_pos]
        facts = [observation["mission"], list(info["descriptions"]), agent, int(level.agent_dir), level.max_steps]
        found.update(json.dumps(facts).encode())
    return found.hexdigest()[:12]


@pytest.mark.parametrize("case", HASHES, ids=[f"{c['level']}-{c['kind']}-{c['num_dists']}" for c in HASHES])
def test_episodes_are_those_that_the_papers_environment_draws(
    case: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {name: case[name] for name in ("kind", "num_dists") if case[name] is not None}
    env = make(case["level"], **settings)
    assert [digest(env, seed) for seed in range(len(case["hashes"]))] == case["hashes"]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_training_and_test_missions_name_different_things(kind: str, held_out: bool) -> None:
    env = make("MixedTestLocal" if held_out else "MixedTrainLocal", kind=kind, num_dists=4)
    names = {"yellow box", "red key", "green ball", "red door", "grey door"}
    for seed in range(15):
        mission = env.reset(seed=seed)[0]["mission"]
        num_named = sum(mission.count(name) for name in names)
        num_things = mission.count("the ") + mission.count(" a ")
        assert num_named == (num_things if held_out else 0), mission


def test_an_unknown_kind_names_the_five() -> None:
    with pytest.raises(EnvError, match=r"one of goto, pickup, open, putnext, pick_up_seq_go_to.*Did you mean 'pickup'"):
        make("MixedTrainLocal", kind="pick_up")
    with pytest.raises(EnvError, match="num_dists >= 0, got -1"):
        make("MixedTrainLocal", num_dists=-1)
    assert make("MixedTrainLocal", kind="pick up seq go to").unwrapped.kind == "pick_up_seq_go_to"


def test_with_parity_an_instance_keeps_the_kind_of_its_first_seed() -> None:
    kinds = set()
    for first_seed in range(20):
        env = gymnasium.make(MIXED)
        seen = {env.reset(seed=seed)[1]["kind"] for seed in (first_seed, None, 1, 2, 3)}
        assert len(seen) == 1
        assert gymnasium.make(MIXED).reset(seed=first_seed)[1]["kind"] in seen
        kinds |= seen
    assert kinds == set(KINDS)


def test_without_parity_every_episode_draws_its_kind_from_its_seed() -> None:
    env = gymnasium.make(MIXED, parity=False)
    drawn = [env.reset(seed=seed)[1]["kind"] for seed in range(200)]
    assert drawn[:20] == [gymnasium.make(MIXED, parity=False).reset(seed=seed)[1]["kind"] for seed in range(20)]
    counts = [drawn.count(kind) for kind in KINDS]
    assert min(counts) > 20
    env.reset(seed=0)
    unseeded = [env.reset()[1]["kind"] for _ in range(20)]
    assert len(set(unseeded)) > 1
    env.reset(seed=0)
    assert [env.reset()[1]["kind"] for _ in range(20)] == unseeded


def test_a_drawn_kind_draws_the_room_that_the_kind_given_draws() -> None:
    for seed in range(10):
        observation, info = gymnasium.make(MIXED, parity=False).reset(seed=seed)
        assert gymnasium.make(MIXED, kind=info["kind"]).reset(seed=seed)[0] == observation


@pytest.mark.parametrize(("parity", "article"), [(True, "a"), (False, "an")])
def test_an_open_door_has_the_articles_of_the_paper_or_of_english(parity: bool, article: str) -> None:
    env = gymnasium.make(MIXED, kind="open", parity=parity)
    env.reset(seed=0)
    level: Any = env.unwrapped
    level.agent_pos, level.agent_dir = (4, 3), 0
    door = level.grid.get(7, 3)
    door.is_open, door.is_locked = True, False
    texts = env.step(1)[4]["descriptions"], env.step(0)[4]["descriptions"]
    assert any(text.startswith(f"You see {article} open purple door") for text in texts[1])


def test_the_french_variants_speak_french() -> None:
    observation, info = gymnasium.make("llmgym/BabyAI-GoToFrench-v0").reset(seed=1)
    english, _ = gymnasium.make("llmgym/BabyAI-GoToLocal-v0").reset(seed=1)
    assert observation["mission"] == english["mission"] == "go to the purple box"
    assert all(text.startswith("Tu vois un") for text in info["descriptions"])
    correct, _ = gymnasium.make("llmgym/BabyAI-GoToFrench-v0", parity=False).reset(seed=1)
    assert correct == {"mission": "aller à la boîte violette", "text": observation["text"]}
    mixed, _ = gymnasium.make("llmgym/BabyAI-MixedTrainLocalFrench-v0", kind="goto").reset(seed=0)
    assert mixed["text"].startswith("Tu vois un mur à 2 pas à gauche, Tu vois une clef violette 1 pas à gauche")
    with pytest.raises(EnvError, match=r"Expected language to be one of .*got 'frensh'. Did you mean 'french'"):
        gymnasium.make(MIXED, language="frensh")


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("autoreset", list(AutoresetMode))
def test_vector_envs_draw_a_kind_each_and_keep_it(mode: Any, autoreset: AutoresetMode) -> None:
    venv = gymnasium.make_vec(
        MIXED,
        num_envs=6,
        vectorization_mode=mode,
        vector_kwargs={"autoreset_mode": autoreset},
        max_steps=4,
        num_dists=2,
    )
    texts, info = venv.reset(seed=list(range(6)))
    kinds = list(info["kind"])
    assert kinds == [gymnasium.make(MIXED).reset(seed=seed)[1]["kind"] for seed in range(6)]
    for _ in range(10):
        texts, _, terminated, truncated, info = venv.step(np.array([0, 1, 2, 3, 4, 5]))
        assert texts in venv.observation_space
        assert list(info["kind"]) == kinds
        is_over = terminated | truncated
        if autoreset is AutoresetMode.DISABLED and is_over.any():
            venv.reset(options={"reset_mask": is_over})
    venv.close()


def test_an_impossible_room_is_refused_instead_of_drawing_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_missions, "_MAX_ATTEMPTS", 3)
    env = make("MixedTestLocal", kind="putnext", num_dists=12)
    with pytest.raises(EnvError, match=r"MixedLevel to draw a mission, but none of 3 rooms.*num_dists.*room_size"):
        env.reset(seed=0)


def test_what_was_picked_up_still_counts_at_its_old_place() -> None:
    env = gymnasium.make(MIXED, kind="pick_up_seq_go_to", num_dists=0)
    level: Any = env.unwrapped
    env.reset(seed=0)
    assert level.mission == "pick up the green key, then go to the yellow key"
    level.agent_pos, level.agent_dir = (5, 5), 1
    assert env.step(3)[1:4] == (0, False, False)  # The yellow key is picked up, which is not asked for.
    assert env.step(0)[1:4] == (0, False, False)
    env.step(4)  # Put down at (6, 5), from where it is remembered.
    level.agent_pos, level.agent_dir = (4, 5), 3
    assert env.step(3)[2] is False
    level.agent_pos, level.agent_dir = (5, 5), 1
    assert env.step(5)[2] is False
    assert env.step(0)[2] is True


@pytest.mark.parametrize("kind", KINDS)
def test_the_bot_solves_every_kind(kind: str) -> None:
    num_solved = sum(solve(kind, seed) for seed in range(20))
    assert num_solved >= 19


def solve(kind: str, seed: int) -> bool:
    env = gymnasium.make(MIXED, kind=kind)
    env.reset(seed=seed)
    bot, action = Bot(env), None
    while True:
        try:
            action = bot.act(action)
        except EnvError:
            return False
        _, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return float(reward) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "published"),
    [("goto", 0.33), ("pickup", 0.15), ("open", 0.01), ("putnext", 0.0), ("pick_up_seq_go_to", 0.09)],
)
def test_the_random_policy_succeeds_as_often_as_published(kind: str, published: float) -> None:
    env = gymnasium.make(MIXED, kind=kind)
    choose, num_episodes, num_won = random.Random(0), 400, 0
    for seed in range(num_episodes):
        env.reset(seed=seed)
        is_over = False
        while not is_over:
            _, reward, terminated, truncated, _ = env.step(choose.randrange(6))
            is_over = terminated or truncated
        num_won += float(reward) > 0
    # The published rates are of 150 episodes: three standard errors of the difference, at least two hundredths.
    error = 3 * np.sqrt(published * (1 - published) * (1 / num_episodes + 1 / 150))
    assert num_won / num_episodes == pytest.approx(published, abs=max(0.02, error))
