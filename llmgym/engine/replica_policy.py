"""What replicas serve: files of the last weights and adapters, kept so that a replica can be started anew with them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmgym.sync.folders import memory_folder
from llmgym.sync.weights import write_weights
from llmgym.types import NamedTensors

__all__ = ["Call", "PolicyFiles"]

Call = tuple[str, tuple[Any, ...]]
"""Name of a method of a backend, and its arguments."""


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """Copies of weights and adapters, in folders of their own: whoever published them may delete theirs.

    Attributes:
        weights: folder with the full weights; None if they were never replaced.
        adapters: folder of each adapter, by name.
    """

    weights: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)

    def calls(self) -> list[Call]:
        """Return what makes a fresh backend serve them."""
        weights: list[Call] = [] if self.weights is None else [("load_weights_file", (self.weights_file,))]
        return weights + [("load_adapter", (folder, name)) for name, folder in self.adapters.items()]

    @property
    def weights_file(self) -> str:
        """The file in the folder of the weights."""
        assert self.weights is not None, "asked for where there are weights"
        return str(Path(self.weights) / "weights.safetensors")

    def with_weights(self, named_tensors: NamedTensors) -> PolicyFiles:
        """Return these with other weights, written into a file in memory."""
        folder = memory_folder()
        changed = replace(self, weights=folder)
        try:
            write_weights(named_tensors, changed.weights_file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return changed

    def with_adapter(self, path: str, name: str) -> PolicyFiles:
        """Return these with a copy of an adapter under a name.

        Raises:
            OSError: there is none.
        """
        folder = memory_folder()
        try:
            shutil.copytree(path, folder, dirs_exist_ok=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return replace(self, adapters={**self.adapters, name: folder})

    def without_adapter(self, name: str) -> PolicyFiles:
        """Return these without an adapter; an unknown name is ignored."""
        return replace(self, adapters={known: folder for known, folder in self.adapters.items() if known != name})

    def remove(self, *, but: PolicyFiles | None = None) -> None:
        """Delete the folders, but for those that others need."""
        needed = but.folders() if but is not None else set()
        for folder in self.folders() - needed:
            shutil.rmtree(folder, ignore_errors=True)

    def folders(self) -> set[str]:
        """Return all folders."""
        return {folder for folder in (self.weights, *self.adapters.values()) if folder is not None}
