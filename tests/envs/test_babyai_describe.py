import hashlib
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.core import constants
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Door, Floor, Goal, Key, Lava, Wall
from minigrid.minigrid_env import MiniGridEnv

import llmgym  # noqa: F401
from llmgym.envs.babyai import describe, grammar
from llmgym.errors import EnvError

DATA = Path(__file__).parents[1] / "data"
CASES = json.loads((DATA / "babyai_text_cases.json").read_text())
INSTANCES = json.loads((DATA / "babyai_text_instances.json").read_text())
MAKERS = {"key": Key, "ball": Ball, "box": Box}


def room(case: dict[str, Any]) -> MiniGridEnv:
    env: Any = gymnasium.make("llmgym/BabyAI-GoToObj-v0").unwrapped
    env.reset(seed=0)
    env.grid = Grid(case["w"], case["h"])
    env.grid.wall_rect(0, 0, case["w"], case["h"])
    for x, y in case["walls"]:
        env.grid.set(x, y, Wall())
    for color, state, x, y in case["doors"]:
        env.grid.set(x, y, Door(color, is_open=state == "open", is_locked=state == "locked"))
    for color, kind, x, y in case["objs"]:
        env.grid.set(x, y, MAKERS[kind](color))
    env.agent_pos, env.agent_dir = tuple(case["agent"]), "ESWN".index(case["dir"])
    env.carrying = MAKERS[case["carry"][1]](case["carry"][0]) if case["carry"] else None
    for action in case["acts"]:
        MiniGridEnv.step(env, action)
    return env


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_sentences_of_hand_built_rooms_are_those_of_the_paper(case: dict[str, Any]) -> None:
    assert describe(room(case).gen_obs()["image"], case["lang"]) == case["expected"]


@pytest.mark.parametrize("instance", INSTANCES, ids=[f"{i['level']}-{i['seed']}" for i in INSTANCES])
def test_seeded_instances_are_those_of_the_paper(instance: dict[str, Any]) -> None:
    settings = {name: instance[name] for name in ("kind", "num_dists") if instance.get(name) is not None}
    env = gymnasium.make(f"llmgym/BabyAI-{instance['level']}-v0", **settings)
    observation, info = env.reset(seed=instance["seed"])
    level: Any = env.unwrapped
    assert observation == {"mission": instance["mission"], "text": ", ".join(instance["desc"])}
    assert list(info["descriptions"]) == instance["desc"]
    assert [*level.agent_pos, level.agent_dir] == [*instance["agent"], instance["dir"]]
    assert (level.max_steps, [level.width, level.height]) == (instance["max_steps"], instance["size"])
    assert hashlib.sha256(level.grid.encode().tobytes()).hexdigest()[:12] == instance["grid_sha"]
    assert objects(level.grid) == instance["objects"]


def objects(grid: Grid) -> list[str]:
    cells = [(x, y, grid.get(x, y)) for y in range(grid.height) for x in range(grid.width)]
    return [f"{cell.color} {cell.type}{lock(cell)}@({x},{y})" for x, y, cell in cells if cell and cell.type != "wall"]


def lock(cell: Any) -> str:
    return ":locked" if cell.type == "door" and cell.is_locked else ""


def blank() -> np.ndarray:
    image = np.zeros((7, 7, 3), dtype=np.uint8)
    image[..., 0] = constants.OBJECT_TO_IDX["empty"]
    return image


def test_nothing_seen_gives_no_sentence() -> None:
    assert describe(blank()) == []
    assert describe(np.zeros((7, 7, 3), dtype=np.uint8)) == []


def test_unseen_cells_on_a_ray_are_skipped_and_walls_off_the_rays_are_not_told() -> None:
    image = blank()
    image[3, 5, 0], image[3, 2] = 0, Wall().encode()
    image[2, 5] = Wall().encode()
    assert describe(image) == ["You see a wall 4 steps forward"]


@pytest.mark.parametrize("thing", [Floor("blue"), Goal(), Lava()], ids=["floor", "goal", "lava"])
def test_floor_goal_and_lava_hide_the_wall_behind_them(thing: Any) -> None:
    image = blank()
    image[3, 5], image[3, 4] = thing.encode(), Wall().encode()
    assert describe(image) == [f"You see a {thing.color} {thing.type} 1 step forward"]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (0, "Tu vois une porte verte ouverte 2 pas à gauche"),
        (1, "Tu vois une porte verte fermée 2 pas à gauche"),
        (2, "Tu vois une porte verte fermée à clef 2 pas à gauche"),
    ],
)
def test_a_door_in_french_has_its_state_last(state: int, sentence: str) -> None:
    image = blank()
    image[1, 6] = (4, 1, state)
    assert describe(image, "french") == [sentence]
    assert describe(image)[0].startswith(f"You see a {('open', 'closed', 'locked')[state]} green door 2 steps left")


def test_the_agents_own_cell_is_told_only_as_what_it_carries() -> None:
    image = blank()
    image[3, 6] = Door("red", is_open=True).encode()
    assert describe(image) == []
    image[3, 6] = Box("grey").encode()
    assert describe(image) == ["You carry a grey box"]


def test_symbols_are_those_of_minigrid() -> None:
    english = grammar._ENGLISH
    assert {noun: index for index, noun in enumerate(english.nouns)} == constants.OBJECT_TO_IDX
    assert {color: index for index, color in enumerate(english.colors)} == constants.COLOR_TO_IDX
    assert {state: index for index, state in enumerate(english.states)} == constants.STATE_TO_IDX


def test_an_image_in_another_memory_order_reads_the_same() -> None:
    image = room(CASES[4]).gen_obs()["image"]
    assert describe(np.asfortranarray(image)) == CASES[4]["expected"]
    padded = np.zeros((9, 9, 3), dtype=np.uint8)
    padded[1:8, 1:8] = image
    assert describe(padded[1:8, 1:8]) == CASES[4]["expected"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((5, 5, 3), dtype=np.uint8), r"shape \(7, 7, 3\), got uint8 \(5, 5, 3\). .*agent_view_size=7"),
        (np.zeros((7, 7, 3)), r"got float64 \(7, 7, 3\). Convert it with image.astype"),
        ([[0]], "got list"),
    ],
)
def test_a_wrong_image_is_refused_with_what_was_expected(image: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        describe(image)


def test_an_unknown_symbol_is_refused() -> None:
    image = blank()
    image[0, 0] = (5, 77, 0)
    with pytest.raises(EnvError, match=r"found \(5, 77, 0\)"):
        describe(image)


def test_an_unknown_language_names_the_nearest() -> None:
    with pytest.raises(EnvError, match=r"\['english', 'french'\], got 'frensh'. Did you mean 'french'\?"):
        describe(blank(), "frensh")
