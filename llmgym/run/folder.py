"""The run folder: where everything a run leaves behind has its place."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmgym.config import RunConfig, load_config
from llmgym.errors import RunError
from llmgym.settings import to_toml

__all__ = ["RunFolder"]

_CHECKPOINT = re.compile(r"update-(\d{6})")


class RunFolder:
    """The files of one run.

    `config.toml` (resolved), `model/` (a model that was built for the run), `dequantized/` (the plain weights of one
    that is learned on in 4 bits), `cloning.jsonl` (one object a part of the demonstrations), `metrics.jsonl` (one
    object an update), `checkpoints/update-NNNNNN/`, `checkpoints/clone/` (what cloned, where it was corrected then),
    `trajectories/`, `broken/` (what steps that were not finite learned from), `tensorboard/`, `learners/` (what several
    learners printed), `evaluations.json`, `result.json` and plots.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model"
        self.dequantized = path / "dequantized"
        self.metrics = path / "metrics.jsonl"
        self.cloning = path / "cloning.jsonl"
        self.learner_logs = path / "learners"
        self.checkpoints = path / "checkpoints"
        self.clone = self.checkpoints / "clone"
        self.trajectories = path / "trajectories"
        self.broken = path / "broken"
        self.tensorboard = path / "tensorboard"
        self.evaluations = path / "evaluations.json"
        self.result = path / "result.json"
        self.learning_curve = path / "learning_curve.png"

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunFolder:
        """Make a new run folder, and write the resolved configuration into it.

        Raises:
            RunError: the folder holds something already, or cannot be written.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"Expected a new or empty run folder, but {path} exists and is not empty. "
                f"Continue it with --resume {path}, or choose another --run-dir."
            )
        folder = cls(path)
        try:
            for made in (folder.checkpoints, folder.trajectories, folder.tensorboard):
                made.mkdir(parents=True, exist_ok=True)
            (path / "config.toml").write_text(to_toml(config), encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"Expected to be able to write the run folder {path}, but {error.strerror or error}. "
                "Choose another with --run-dir."
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run folder that exists.

        Raises:
            RunError: there is none.
        """
        if not (path / "config.toml").is_file():
            raise RunError(f"Expected a run folder at {path}, found no config.toml there. Check the path.")
        return cls(path)

    @classmethod
    def find(cls, path: Path) -> RunFolder | None:
        """Return the run that a path names, by its folder or by the folder of one of its checkpoints; or None."""
        if (path / "config.toml").is_file():
            return cls(path)
        checkpoint = path.resolve()
        run = cls(checkpoint.parent.parent)
        is_checkpoint = checkpoint == run.clone or _CHECKPOINT.fullmatch(checkpoint.name)
        return run if is_checkpoint and path.is_dir() and (run.path / "config.toml").is_file() else None

    def config(self) -> RunConfig:
        """Read the resolved configuration back."""
        return load_config(self.path / "config.toml")

    def checkpoint(self, update: int) -> Path:
        """Return where the checkpoint after so many updates is."""
        return self.checkpoints / f"update-{update:06d}"

    def named_checkpoint(self, path: Path) -> tuple[int, Path]:
        """Return the checkpoint that a path names, as `newest_checkpoint` does: one of the run's, or the run's newest.

        Raises:
            RunError: there is none.
        """
        named = path.resolve()
        if named == self.path.resolve():
            return self.newest_checkpoint()
        match = _CHECKPOINT.fullmatch(named.name)
        return (int(match[1]) if match else 0), named

    def newest_checkpoint(self) -> tuple[int, Path]:
        """Return the number of updates of the newest complete checkpoint, and its folder.

        Raises:
            RunError: there is none.
        """
        found = [
            (int(match[1]), child)
            for child in (self.checkpoints.iterdir() if self.checkpoints.is_dir() else ())
            if (match := _CHECKPOINT.fullmatch(child.name))
        ]
        if not found:
            raise RunError(
                f"Expected a checkpoint in {self.checkpoints}, found none: the run ended before its first. "
                "Start it anew with another --run-dir."
            )
        return max(found)

    def forget_after(self, update: int) -> list[dict[str, Any]]:
        """Drop the metrics of updates that the checkpoint does not hold, and return those that stay."""
        kept = [row for row in self.read_metrics() if row["update"] <= update]
        write_whole(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        return kept

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return one mapping an update; a last line that was cut off is left out."""
        return read_lines(self.metrics)

    def read_rounds(self) -> list[dict[str, Any]]:
        """Return one mapping a round of correction."""
        return [row for row in read_lines(self.cloning) if "round" in row]

    def read_evaluations(self) -> dict[str, Any]:
        """Return what has been measured so far, by the name of the policy."""
        if not self.evaluations.is_file():
            return {}
        evaluations: dict[str, Any] = json.loads(self.evaluations.read_text(encoding="utf-8"))
        return evaluations

    def write_evaluation(self, name: str, row: Mapping[str, Any]) -> None:
        """Keep one policy's measurement."""
        write_whole(self.evaluations, json.dumps({**self.read_evaluations(), name: dict(row)}, indent=2) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read a file of JSON objects, if there is one; a last line that was cut off is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_whole(file: Path, text: str) -> None:
    """Write a file whole or not at all: under another name, synced, then renamed."""
    unfinished = file.with_name(f".{file.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    unfinished.replace(file)
