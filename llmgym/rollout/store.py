"""Trajectories on disk: one JSON object a line, exactly what was sampled, prompts written as what they add."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.types import Trajectory, Turn

__all__ = ["read_trajectories", "write_trajectories"]

_PLAIN = [field.name for field in fields(Turn) if field.name != "prompt_ids"]
"""What of a turn is written as it is."""


def write_trajectories(file: Path, trajectories: Iterable[Trajectory]) -> None:
    """Write trajectories, one a line; a prompt is written as the tokens beyond what it shares with the one before."""
    with file.open("w", encoding="utf-8") as lines:
        for trajectory in trajectories:
            lines.write(json.dumps(_to_json(trajectory)) + "\n")


def read_trajectories(file: Path) -> Iterator[Trajectory]:
    """Read back what `write_trajectories` wrote."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield _from_json(json.loads(line))


def _to_json(trajectory: Trajectory) -> dict[str, Any]:
    before: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
    turns = []
    for turn in trajectory.turns:
        turns.append({**_added(before, turn.prompt_ids), **{name: getattr(turn, name) for name in _PLAIN}})
        before = turn.prompt_ids
    final = None if trajectory.final_prompt_ids is None else _added(before, trajectory.final_prompt_ids)
    return {"env_index": trajectory.env_index, "seed": trajectory.seed, "turns": turns, "final": final}


def _from_json(data: dict[str, Any]) -> Trajectory:
    prompt: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
    turns = []
    for turn in data["turns"]:
        prompt = _restored(prompt, turn)
        # A file may have been written before turns knew some of this.
        values = {name: turn[name] for name in _PLAIN if name in turn}
        values["candidate_ids"] = tuple(tuple(ids) for ids in values["candidate_ids"])
        values |= {name: tuple(values[name]) for name in ("sampled_ids", "cue_ids", "draw_logprobs") if name in values}
        turns.append(Turn(prompt_ids=prompt, **values))
    final = None if data["final"] is None else _restored(prompt, data["final"])
    return Trajectory(tuple(turns), final, data["env_index"], data["seed"])


def _added(before: npt.NDArray[np.int32], after: npt.NDArray[np.int32]) -> dict[str, Any]:
    length = min(len(before), len(after))
    differing = np.flatnonzero(before[:length] != after[:length])
    shared = int(differing[0]) if len(differing) else length
    return {"shared_tokens": shared, "new_tokens": after[shared:].tolist()}


def _restored(before: npt.NDArray[np.int32], added: dict[str, Any]) -> npt.NDArray[np.int32]:
    new = np.array(added["new_tokens"], dtype=np.int32)
    return np.concatenate([before[: added["shared_tokens"]], new])
