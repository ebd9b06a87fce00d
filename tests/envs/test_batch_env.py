from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Door, Wall

import llmgym  # noqa: F401
from llmgym.envs.babyai import KINDS, LEVELS, PAPER_LEVELS, describe
from llmgym.envs.babyai.batch_env import BatchTextLevel, is_covered
from llmgym.envs.babyai.batch_view import look_of, see
from llmgym.envs.babyai.bot import Bot
from llmgym.errors import EnvError

LOCAL = "llmgym/BabyAI-GoToLocal-v0"
MIXED = "llmgym/BabyAI-MixedTrainLocal-v0"


def make_pair(
    env_id: str, num_envs: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any
) -> tuple[VectorEnv, Any]:
    """Make a batch and the reference that it must agree with."""
    batch = gymnasium.make_vec(
        env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", autoreset_mode=mode, **settings
    )
    reference = gymnasium.make_vec(
        env_id,
        num_envs=num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **settings,
    )
    assert isinstance(batch, BatchTextLevel)
    assert batch.metadata["autoreset_mode"] is mode
    assert batch.observation_space == reference.observation_space
    assert batch.action_space == reference.action_space
    return batch, reference


def assert_same(found: Any, expected: Any) -> None:
    """Compare what reset and step return, types and all."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            assert_same(found[name], expected[name])
    elif isinstance(found, tuple) and found and not isinstance(found[0], str):
        assert len(found) == len(expected)
        for part, expected_part in zip(found, expected, strict=True):
            assert_same(part, expected_part)
    elif isinstance(found, np.ndarray) and found.dtype == object:
        assert (found.shape, expected.dtype) == (expected.shape, object)
        for part, expected_part in zip(found, expected, strict=True):
            assert_same(part, expected_part)
    elif isinstance(found, np.ndarray):
        assert (found.dtype, found.shape, found.tolist()) == (expected.dtype, expected.shape, expected.tolist())
    else:
        assert found == expected


def walk(env_id: str, num_steps: int, *, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any) -> int:
    """Take the same random steps in both, compare everything, and return how many episodes were won."""
    batch, reference = make_pair(env_id, 8, mode, **settings)
    choose = np.random.default_rng(0)
    assert_same(batch.reset(seed=5), reference.reset(seed=5))
    num_won = 0
    for _ in range(-(-num_steps // 8)):
        # As likely as in the papers, but twice as many steps forward.
        actions = choose.choice([0, 1, 2, 2, 3, 4, 5], size=8)
        found = batch.step(actions)
        assert_same(found, reference.step(actions))
        is_over = found[2] | found[3]
        num_won += int(found[2].sum())
        if mode is AutoresetMode.DISABLED and is_over.any():
            again = {"reset_mask": is_over}
            assert_same(batch.reset(options=dict(again)), reference.reset(options=dict(again)))
    batch.close()
    reference.close()
    return num_won


NOT_COVERED = {
    "GoToSeq-v0",
    "GoToSeqS5R2-v0",
    "OpenDoorDebug-v0",
    "OpenRedBlueDoorsDebug-v0",
    "OpenDoorsOrderN2Debug-v0",
    "OpenDoorsOrderN4Debug-v0",
    "PickupDistDebug-v0",
    "PutNextS5N2Carrying-v0",
    "PutNextS6N3Carrying-v0",
    "PutNextS7N4Carrying-v0",
    "KeyInBox-v0",
    "SynthSeq-v0",
    "MiniBossLevel-v0",
    "BossLevel-v0",
    "BossLevelNoUnlock-v0",
}
COVERED = [level for level in [*LEVELS, *PAPER_LEVELS] if level not in NOT_COVERED]


@pytest.mark.parametrize("level", COVERED)
def test_a_batch_does_what_single_levels_do(level: str) -> None:
    walk(f"llmgym/BabyAI-{level}", 160)


@pytest.mark.parametrize("level", sorted(NOT_COVERED))
def test_what_is_not_covered_is_known(level: str) -> None:
    env = gymnasium.make(f"llmgym/BabyAI-{level}", disable_env_checker=True)
    assert not is_covered(env.unwrapped)


@pytest.mark.slow
@pytest.mark.parametrize("level", COVERED)
def test_a_batch_does_what_single_levels_do_for_ten_thousand_steps(level: str) -> None:
    walk(f"llmgym/BabyAI-{level}", 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("parity", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_each_kind_does_so_too(kind: str, parity: bool) -> None:
    walk(MIXED, 10_000, kind=kind, parity=parity, language="french", room_size=5, num_dists=1)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_episodes_follow_each_other_in_every_autoreset_mode(mode: AutoresetMode) -> None:
    assert walk(LOCAL, 1500, mode=mode, room_size=5, num_dists=2, max_steps=20) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_missions_are_fulfilled_by_the_same_steps(kind: str) -> None:
    batch, reference = make_pair(MIXED, 6, AutoresetMode.SAME_STEP, kind=kind)
    choose = np.random.default_rng(1)
    assert_same(batch.reset(seed=3), reference.reset(seed=3))
    bots = [Bot(env) for env in reference.envs]
    previous: list[int | None] = [None] * 6
    num_won = 0
    for _ in range(150):
        actions = np.array([bot.act(action) for bot, action in zip(bots, previous, strict=True)])
        strays = choose.random(6) < 0.15
        # No strays that toggle: the bot gives up where a box was opened.
        actions[strays] = choose.integers(5, size=strays.sum())
        previous = actions.tolist()
        found = batch.step(actions)
        assert_same(found, reference.step(actions))
        num_won += int(found[2].sum())
        for index in np.flatnonzero(found[2] | found[3]):
            bots[index], previous[index] = Bot(reference.envs[index]), None
    assert num_won > 15


@pytest.mark.parametrize(
    "settings", [{"parity": False}, {"language": "french"}, {"parity": False, "language": "french"}]
)
def test_a_batch_speaks_as_single_levels_do(settings: dict[str, Any]) -> None:
    walk(MIXED, 800, room_size=5, num_dists=1, **settings)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_symbols_of_a_batch_are_those_of_single_levels(mode: AutoresetMode) -> None:
    assert walk(LOCAL, 1500, mode=mode, symbolic=True, room_size=5, num_dists=2, max_steps=20) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_symbols_are_minigrids_view_and_missions_stay(kind: str) -> None:
    walk(MIXED, 400, symbolic=True, kind=kind)
    batch, _ = make_pair(MIXED, 3, symbolic=True, kind=kind)
    texts, _ = make_pair(MIXED, 3, kind=kind)
    seen, infos = batch.reset(seed=2)
    told, told_infos = texts.reset(seed=2)
    assert seen["mission"] == told["mission"]
    assert "descriptions" not in infos
    assert [tuple(describe(image)) for image in seen["image"]] == list(told_infos["descriptions"])
    kept = seen["image"].copy()
    batch.step(np.zeros(3, dtype=np.int64))
    assert (seen["image"] == kept).all(), "an observation stays as it was when the environment moves on"


def test_things_may_be_many_and_kinds_may_change() -> None:
    walk(MIXED, 800, num_dists=12, kind="goto")
    batch, _ = make_pair(MIXED, 5)
    _, infos = batch.reset(seed=0)
    assert batch.get_attr("kind") == tuple(infos["kind"])


def test_a_seed_for_each_environment() -> None:
    batch, reference = make_pair(LOCAL, 3)
    assert_same(
        batch.reset(seed=[4, None, 9])[0]["mission"][::2], reference.reset(seed=[4, None, 9])[0]["mission"][::2]
    )
    with pytest.raises(EnvError, match="Expected 3 seeds, got 2"):
        batch.reset(seed=[1, 2])
    with pytest.raises(EnvError, match="Expected reset_mask to be an array of 3 bools"):
        batch.reset(options={"reset_mask": [True, False, False]})


@pytest.mark.parametrize("num_envs", [1, 5])
def test_what_is_seen_does_not_depend_on_the_number_of_environments(num_envs: int) -> None:
    few, _ = make_pair(LOCAL, num_envs)
    many, _ = make_pair(LOCAL, 16)
    texts, all_texts = few.reset(seed=2)[0]["text"], many.reset(seed=2)[0]["text"]
    assert texts == all_texts[:num_envs]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 6], r"Expected actions from 0 to 5, got 6\."),
        ([-1, 0], r"Expected actions from 0 to 5, got -1\."),
        ([0], r"Expected 2 integers as actions, got int64 \(1,\)"),
        ([0.5, 1.0], r"Expected 2 integers as actions, got float64 \(2,\)"),
    ],
)
def test_actions_that_are_none_are_refused(actions: list[Any], message: str) -> None:
    batch, _ = make_pair(LOCAL, 2)
    batch.reset(seed=0)
    with pytest.raises(EnvError, match=message):
        batch.step(np.array(actions))


def test_without_autoreset_an_episode_that_is_over_has_to_be_reset() -> None:
    batch, _ = make_pair(LOCAL, 2, AutoresetMode.DISABLED, max_steps=1)
    batch.reset(seed=0)
    batch.step(np.array([0, 0]))
    with pytest.raises(EnvError, match=r"those of environments \[0, 1\] are over.*reset_mask"):
        batch.step(np.array([0, 0]))


def test_a_level_that_is_not_covered_is_stepped_one_by_one_and_says_so() -> None:
    with pytest.warns(UserWarning, match=r"Environments of BabyAI-BossLevel-v0 are stepped one by one"):
        venv = gymnasium.make_vec("llmgym/BabyAI-BossLevel-v0", num_envs=2)
    assert type(venv) is SyncVectorEnv
    expected = gymnasium.make_vec("llmgym/BabyAI-BossLevel-v0", num_envs=2, vectorization_mode="sync")
    assert_same(venv.reset(seed=1), expected.reset(seed=1))


def test_occlusion_is_minigrids() -> None:
    choose = np.random.default_rng(0)
    looks, expected = [], []
    for _ in range(300):
        grid, view = Grid(7, 7), np.full((7, 7), look_of(1, 0, 0), dtype=np.uint16)
        for column in range(7):
            for row in range(7):
                things = (None, None, None, Wall(), Ball("red"), Door("blue", is_open=True), Door("blue"))
                thing = things[choose.integers(len(things))]
                grid.set(column, row, thing)
                view[column, row] = look_of(*thing.encode()) if thing else look_of(1, 0, 0)
        looks.append(view.ravel())
        mask = grid.process_vis((3, 6))
        grid.set(3, 6, None)
        encoded = grid.encode(mask).astype(np.int64)
        expected.append(encoded[..., 0] + 16 * encoded[..., 1] + 256 * encoded[..., 2])
    carried = np.full(300, look_of(1, 0, 0), dtype=np.uint16)
    assert see(np.array(looks), carried).tolist() == [view.ravel().tolist() for view in expected]
