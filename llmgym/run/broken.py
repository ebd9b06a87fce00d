"""What broke: the experience of an update with a step that was not finite, kept for whoever looks into it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgym.learner.non_finite import NonFiniteError
from llmgym.rollout.store import write_trajectories
from llmgym.run.folder import write_whole
from llmgym.run.report import Reporter
from llmgym.types import Trajectory

if TYPE_CHECKING:
    from llmgym.run.learning import RunLearner

__all__ = ["kept_if_broken"]


@contextmanager
def kept_if_broken(
    folder: Path, name: str, learner: RunLearner, trajectories: Sequence[Trajectory], reporter: Reporter
) -> Iterator[None]:
    """Keep what is learned from within the context if a step of it is not finite, stopped or skipped.

    NAME.jsonl gets the trajectories, as `llmgym.rollout.store` writes them, and NAME.json says of every such step what
    is broken, the metrics of its minibatch, and its turns, each as [line of NAME.jsonl, turn in it], both from 0; null
    for one that is in none.

    Args:
        folder: where; made when it is needed.
        name: of the update.
        learner: who takes the update.
        trajectories: what it learns from.
        reporter: is told of steps that were skipped.

    Raises:
        NonFiniteError: the learner stopped; says where its batch is, too.
    """
    learner.skipped = []
    try:
        yield
    except NonFiniteError as error:
        file = _keep(folder, name, learner.skipped or [error], trajectories)
        told = NonFiniteError(f"{error} What it learned from is kept in {file}.", error.broken)
        told.turns, told.metrics = error.turns, error.metrics
        raise told from error
    if learner.skipped:
        file = _keep(folder, name, learner.skipped, trajectories)
        reporter.note(f"{name}: steps that were not finite and were skipped: {len(learner.skipped)}; see {file}.")


def _keep(folder: Path, name: str, broken: Sequence[NonFiniteError], trajectories: Sequence[Trajectory]) -> Path:
    """Write the trajectories, and what is broken; return the file that says it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_trajectories(folder / f"{name}.jsonl", trajectories)
    places = {
        id(turn): [line, number]
        for line, trajectory in enumerate(trajectories)
        for number, turn in enumerate(trajectory.turns)
    }
    steps = [
        {
            "error": str(error),
            "broken": list(error.broken),
            "metrics": _as_json(error.metrics),
            "turns": [places.get(id(turn)) for turn in error.turns],
        }
        for error in broken
    ]
    file = folder / f"{name}.json"
    write_whole(file, json.dumps({"trajectories": f"{name}.jsonl", "steps": steps}, indent=2) + "\n")
    return file


def _as_json(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return metrics as JSON can hold them: what is not finite as a text, "nan", "inf" or "-inf"."""
    return {name: value if math.isfinite(value) else str(value) for name, value in metrics.items()}
