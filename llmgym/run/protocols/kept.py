"""Tasks that an evaluation has played to their end, kept in a file until its report is written. Knows no policies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmgym.run.folder import read_lines, write_whole
from llmgym.run.protocols.task import EpisodeOutcome

__all__ = ["KeptTasks"]


class KeptTasks:
    """What was measured before an evaluation broke off, so that the same command goes on behind it.

    Attributes:
        file: JSON lines, a task of a policy each; None keeps nothing.
        num_of_this: tasks of this evaluation that are kept; the file may hold those of another, too.
        seconds: that those took which were found again.
    """

    def __init__(self, file: Path | None, versions: Mapping[str, str]) -> None:
        """Read what is kept.

        Args:
            file: see the class.
            versions: of the packages at work; what others have measured is not found.
        """
        self.file = file
        self._versions = dict(versions)
        self.num_of_this = 0
        self.seconds = 0.0
        self._rows = [] if file is None else read_lines(file)

    def find(self, key: Mapping[str, Any]) -> tuple[EpisodeOutcome, ...] | None:
        """Return the episodes of a task that was played to its end already; None where it was not.

        Args:
            key: everything that decides what comes out, beside versions: the policy, how it is asked, the task.
        """
        digest = self._digest(key)
        for row in self._rows:
            if row["key"] == digest:
                self.num_of_this += 1
                self.seconds += row["seconds"]
                return tuple(EpisodeOutcome(**outcome) for outcome in row["outcomes"])
        return None

    def add(self, key: Mapping[str, Any], outcomes: tuple[EpisodeOutcome, ...], seconds: float) -> None:
        """Keep the episodes of a task, whole or not at all."""
        if self.file is None:
            return
        row = {"key": self._digest(key), "seconds": seconds, "outcomes": [asdict(one) for one in outcomes]}
        rows = [*self._rows, row]
        write_whole(self.file, "".join(json.dumps(one) + "\n" for one in rows))
        self._rows = rows
        self.num_of_this += 1

    def _digest(self, key: Mapping[str, Any]) -> str:
        told = json.dumps({**key, "versions": self._versions}, sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()
