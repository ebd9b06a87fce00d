"""The plan of a group of ranks: what its launcher and its processes are told when they start. Knows no torch."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["WATCH_SECONDS", "Plan", "watch_parent"]

WATCH_SECONDS = 0.5
"""Between two looks at whether another process lives."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who starts where.

    Attributes:
        folder: where the processes meet; only this user may look into it.
        log_dir: where each rank's output goes.
        num_ranks: how many learn together.
        device: "cpu", or "cuda", of which each rank has one.
        num_threads: of torch, in each rank.
        driver_pid: the process that all of them live for.
    """

    folder: str
    log_dir: str
    num_ranks: int
    device: str
    num_threads: int
    driver_pid: int

    @property
    def address(self) -> str:
        """The socket through which the driver speaks to the ranks."""
        return str(Path(self.folder) / "line")

    @property
    def store(self) -> str:
        """The file through which the ranks find each other."""
        return str(Path(self.folder) / "store")

    @property
    def rendezvous(self) -> str:
        """The file through which torch elastic keeps its state."""
        return str(Path(self.folder) / "rendezvous")

    @property
    def report(self) -> Path:
        """The file in which the launcher tells how a rank ended."""
        return Path(self.folder) / "report.json"

    @property
    def backend(self) -> str:
        """Of torch.distributed."""
        return "nccl" if self.device == "cuda" else "gloo"

    def to_json(self) -> str:
        """Return this plan as a command's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that was an argument."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)


def watch_parent(parent_pid: int, on_death: Callable[[], None]) -> None:
    """Call a function, in a thread of its own, once this process is no longer the child of its parent.

    Works however the parent dies, and wherever copies of its pipes may live on.
    """

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(WATCH_SECONDS)
        on_death()

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
