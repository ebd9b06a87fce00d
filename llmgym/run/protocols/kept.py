"""What an evaluation has measured so far, kept in files until its report is written. Knows no policies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmgym.run.folder import read_lines, write_whole
from llmgym.run.protocols.task import EpisodeOutcome

__all__ = ["KeptTasks", "forget_kept"]

FINISHED = "finished_tasks.jsonl"
UNFINISHED = "unfinished_task_"


class KeptTasks:
    """What was measured before an evaluation broke off, so that the same command goes on behind it.

    Attributes:
        folder: where the files are: JSON lines of the tasks of policies that were played to their end, and of the
            answers of those that were not; None keeps nothing.
        num_of_this: finished tasks of this evaluation that are kept; the folder may hold those of another, too.
        seconds: that those took which were found again.
        answers: where the answers of the task that is being played belong; there may be none yet.
    """

    def __init__(self, folder: Path | None, versions: Mapping[str, str]) -> None:
        """Read what is kept.

        Args:
            folder: see the class.
            versions: of the packages at work; what others have measured is not found.
        """
        self.folder = folder
        self._versions = dict(versions)
        self.num_of_this = 0
        self.seconds = 0.0
        self.answers: Path | None = None
        self._rows = [] if folder is None else read_lines(folder / FINISHED)

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

    def begin(self, key: Mapping[str, Any]) -> Path | None:
        """Return where the answers of a task belong until it was played to its end; None where nothing is kept."""
        if self.folder is not None:
            self.answers = self.folder / f"{UNFINISHED}{self._digest(key)[:16]}.jsonl"
        return self.answers

    def told(self) -> str:
        """Return what of this evaluation is kept, in words, with the verb; "" where nothing is."""
        has_answers = self.answers is not None and self.answers.exists()
        if not self.num_of_this:
            return "The answers of an unfinished task are" if has_answers else ""
        finished = "1 finished task" if self.num_of_this == 1 else f"{self.num_of_this} finished tasks"
        if has_answers:
            return f"{finished} and the answers of an unfinished one are"
        return f"{finished} is" if self.num_of_this == 1 else f"{finished} are"

    def add(self, key: Mapping[str, Any], outcomes: tuple[EpisodeOutcome, ...], seconds: float) -> None:
        """Keep the episodes of a task, whole or not at all."""
        if self.folder is None:
            return
        row = {"key": self._digest(key), "seconds": seconds, "outcomes": [asdict(one) for one in outcomes]}
        rows = [*self._rows, row]
        write_whole(self.folder / FINISHED, "".join(json.dumps(one) + "\n" for one in rows))
        self._rows = rows
        self.num_of_this += 1
        if self.answers is not None:
            self.answers.unlink(missing_ok=True)
            self.answers = None

    def _digest(self, key: Mapping[str, Any]) -> str:
        told = json.dumps({**key, "versions": self._versions}, sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()


def forget_kept(folder: Path) -> None:
    """Remove what is kept in a folder, when a report says it all."""
    for file in (folder / FINISHED, *folder.glob(f"{UNFINISHED}*.jsonl")):
        file.unlink(missing_ok=True)
