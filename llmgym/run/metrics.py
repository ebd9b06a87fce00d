"""Metrics of a run: one line an update in metrics.jsonl, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from llmgym.run.folder import RunFolder
from llmgym.types import Acting, Trajectory

__all__ = ["MetricsLog", "RunningEpisodes", "unparsed_share"]

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
    """Adds up cut trajectories to whole episodes, and tells how those went that ended.

    The episodes that end first are the short ones, which are mostly successes. So nothing is told before every
    environment has ended one, and then about all of them.

    Args:
        num_envs: environments of the vector.
    """

    def __init__(self, num_envs: int) -> None:
        self._open: dict[int, tuple[float, int]] = {}
        self._awaited = set(range(num_envs))
        self._ended: list[tuple[float, int]] = []

    def ended(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Return success rate, mean return and mean length of the episodes that ended since the last answer.

        An episode succeeds if its undiscounted return is above 0. Where there is nothing to tell, the mapping only
        says how many episodes ended.
        """
        num_ended = 0
        for trajectory in trajectories:
            total, length = self._open.pop(trajectory.env_index, (0.0, 0))
            total += sum(turn.reward for turn in trajectory.turns)
            length += len(trajectory.turns)
            last = trajectory.turns[-1]
            if last.terminated or last.truncated:
                num_ended += 1
                self._ended.append((total, length))
                self._awaited.discard(trajectory.env_index)
            else:
                self._open[trajectory.env_index] = (total, length)
        if self._awaited or not self._ended:
            return {"episodes": num_ended}
        returns, lengths = zip(*self._ended, strict=True)
        self._ended = []
        return {
            "episodes": num_ended,
            "success": float(np.mean(np.array(returns) > 0)),
            "return": float(np.mean(returns)),
            "episode_turns": float(np.mean(lengths)),
        }


def unparsed_share(trajectories: Sequence[Trajectory], acting: Acting) -> dict[str, float]:
    """Return `unparsed`, the share of turns whose answer named no action; nothing where answers are not parsed."""
    if acting.how != "text":
        return {}
    parsed = [turn.is_parsed for trajectory in trajectories for turn in trajectory.turns]
    return {"unparsed": 1.0 - sum(parsed) / len(parsed)}
