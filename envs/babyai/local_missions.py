"""How the GLAM paper (Carta et al. 2023) draws missions inside one room: which random numbers, and in which order.

The same seeds give the same episodes as the paper's environment. Knows minigrid's rooms and instructions, no texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from minigrid.core.roomgrid import RoomGrid
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    BeforeInstr,
    Instr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)

from llmgym.errors import EnvError

__all__ = ["HELD_OUT", "Draw", "draw_mission", "draw_put_next", "draw_sequence", "draw_single", "draw_unlock"]

HELD_OUT = frozenset((("yellow", "box"), ("red", "key"), ("green", "ball"), ("red", "door"), ("grey", "door")))
"""Colour and type of what no training mission names, and what alone the missions of MixedTestLocal name."""

_TRAINING_DOORS = ("yellow", "green", "blue", "purple")
_HELD_OUT_DOORS = ("red", "grey")

_MAX_ATTEMPTS = 100_000
"""Rooms that may be drawn in vain in a row; with 8 distractors it takes about 3 of them, held-out pairs about 100."""

Draw = Callable[[RoomGridLevel], Instr]
"""Fill the empty room of a level, and return a mission for it."""


def draw_mission(level: RoomGridLevel, draw: Draw, *, held_out: bool) -> Instr:
    """Draw rooms until one has a mission of the wanted objects, all its objects within reach.

    Args:
        level: its grid is replaced.
        draw: fills a room.
        held_out: whether missions name `HELD_OUT` objects only, or none of them.

    Raises:
        EnvError: there was none in very many rooms.
    """
    for _ in range(_MAX_ATTEMPTS):
        RoomGrid._gen_grid(level, level.width, level.height)
        mission = draw(level)
        if not level.check_objs_reachable(raise_exc=False):
            continue
        named = {(desc.color, desc.type) for desc in _descriptions(mission) if desc.color is not None}
        if (named <= HELD_OUT) if held_out else named.isdisjoint(HELD_OUT):
            return mission
    raise EnvError(
        f"Expected {type(level).__name__} to draw a mission, but none of {_MAX_ATTEMPTS} rooms had one and all "
        "objects within reach. Give it fewer objects (num_dists) or more room (room_size)."
    )


def draw_single(level: RoomGridLevel, num_objects: int, instruction: Callable[[ObjDesc], Instr]) -> Instr:
    """Place the agent and the objects, and draw one of these for an instruction."""
    target = level._rand_elem(_place(level, num_objects))
    return instruction(_describe(target))


def draw_put_next(level: RoomGridLevel, num_objects: int) -> Instr:
    """Place the agent and the objects, and draw one of these to put next to another."""
    return PutNextInstr(*_draw_pair(level, num_objects))


def draw_sequence(level: RoomGridLevel, num_objects: int, order: str, second: Callable[[ObjDesc], Instr]) -> Instr:
    """Place the agent and the objects, and draw two of these: one to pick up first, one for what comes second.

    Args:
        level: is filled.
        num_objects: how many objects lie in the room.
        order: how it is said: "then", "after", or "either" of them, drawn last.
        second: the instruction that comes second.
    """
    first, other = _draw_pair(level, num_objects)
    first_part, second_part = PickupInstr(first), second(other)
    if order == "either":
        order = level._rand_elem(("then", "after"))
    return BeforeInstr(first_part, second_part) if order == "then" else AfterInstr(second_part, first_part)


def draw_unlock(level: RoomGridLevel, num_objects: int, *, held_out: bool) -> Instr:
    """Lock one of two rooms, put the key, the objects and the agent into the other, and ask to open the door.

    Training missions name the door's colour in half of the cases, held-out ones always.
    """
    color = level._rand_elem(_HELD_OUT_DOORS if held_out else _TRAINING_DOORS)
    locked_room = _lock_room(level, color)
    for j in range(level.num_rows):
        for i in range(level.num_cols):
            if level.get_room(i, j) is not locked_room:
                level.add_distractors(i, j, num_distractors=num_objects, all_unique=False)
    while True:
        level.place_agent()
        if level.room_from_pos(*level.agent_pos) is not locked_room:
            break
    return OpenInstr(ObjDesc("door", color if held_out else level._rand_elem((None, color))))


def _lock_room(level: RoomGridLevel, color: str) -> Any:
    """Lock a room behind a door of a colour, put the key into another, and return the locked one."""
    while True:
        i, j, door = level._rand_int(0, level.num_cols), level._rand_int(0, level.num_rows), level._rand_int(0, 4)
        locked_room = level.get_room(i, j)
        if locked_room.neighbors[door] is not None:
            break
    level.add_door(i, j, door, color, locked=True)
    while True:
        i, j = level._rand_int(0, level.num_cols), level._rand_int(0, level.num_rows)
        if level.get_room(i, j) is not locked_room:
            break
    level.add_object(i, j, "key", color)
    return locked_room


def _draw_pair(level: RoomGridLevel, num_objects: int) -> tuple[ObjDesc, ObjDesc]:
    """Place the agent and the objects, and draw two of these; they look the same only where two objects do."""
    objects = _place(level, num_objects)
    first, second = level._rand_elem(objects), level._rand_elem(objects)
    if _look(first) == _look(second) and sum(_look(thing) == _look(first) for thing in objects) < 2:
        while _look(first) == _look(second):
            second = level._rand_elem(objects)
    return _describe(first), _describe(second)


def _place(level: RoomGridLevel, num_objects: int) -> list[WorldObj]:
    level.place_agent()
    return list(level.add_distractors(num_distractors=num_objects, all_unique=False))


def _look(thing: WorldObj) -> tuple[str, str]:
    return thing.type, thing.color


def _describe(thing: WorldObj) -> ObjDesc:
    return ObjDesc(thing.type, thing.color)


def _descriptions(mission: Instr) -> Iterator[ObjDesc]:
    """Return what a mission names."""
    for part in ("instr_a", "instr_b"):
        if hasattr(mission, part):
            yield from _descriptions(getattr(mission, part))
    for part in ("desc", "desc_move", "desc_fixed"):
        if hasattr(mission, part):
            yield getattr(mission, part)
