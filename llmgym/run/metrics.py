"""Metrics of a run: one line an update in metrics.jsonl, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from llmgym.run.folder import RunFolder
from llmgym.types import Trajectory

__all__ = ["MetricsLog", "RunningEpisodes"]

STEPS = ("update", "env_steps")


class MetricsLog:
    """Writes one object an update. A context manager."""

    def __init__(self, folder: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._file = folder.metrics.open("a", encoding="utf-8")
        self._board: Any = SummaryWriter(str(folder.tensorboard))

    def write(self, row: Mapping[str, float]) -> None:
        """Write an update's metrics; `env_steps` is the horizontal axis in TensorBoard."""
        self._file.write(json.dumps(dict(row)) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name not in STEPS:
                self._board.add_scalar(name, value, global_step=int(row["env_steps"]))
        self._board.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()


class RunningEpisodes:
    """Adds up cut trajectories to whole episodes, and tells how those went that ended."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[float, int]] = {}

    def ended(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Return success rate, mean return and mean length of the episodes that ended in these trajectories.

        An episode succeeds if its undiscounted return is above 0. Where none ended, the mapping only says so.
        """
        returns, lengths = [], []
        for trajectory in trajectories:
            total, length = self._open.pop(trajectory.env_index, (0.0, 0))
            total += sum(turn.reward for turn in trajectory.turns)
            length += len(trajectory.turns)
            last = trajectory.turns[-1]
            if last.terminated or last.truncated:
                returns.append(total)
                lengths.append(length)
            else:
                self._open[trajectory.env_index] = (total, length)
        if not returns:
            return {"episodes": 0}
        return {
            "episodes": len(returns),
            "success": float(np.mean(np.array(returns) > 0)),
            "return": float(np.mean(returns)),
            "episode_turns": float(np.mean(lengths)),
        }
