"""The adapter: hand the learner's adapter to the engine through a folder, in memory where there is such a place."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from llmgym.errors import LLMGymError, SyncError
from llmgym.sync.folders import memory_folder
from llmgym.types import Engine

__all__ = ["AdapterPublisher"]


class AdapterPublisher:
    """Writes each version into a folder of its own, and removes the one before when the engine holds the next."""

    def __init__(self) -> None:
        self._folder: str | None = None

    def publish(self, engine: Engine, write_adapter: Callable[[str], None], version: int) -> None:
        """Write the adapter and have the engine serve it.

        Args:
            engine: who takes it.
            write_adapter: writes adapter_config.json and the weights into a folder, in PEFT's format.
            version: policy version of this adapter.

        Raises:
            SyncError: the engine refuses it.
        """
        folder = memory_folder()
        try:
            write_adapter(folder)
            engine.load_adapter(folder, version)
        except LLMGymError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise SyncError(
                f"Expected the engine to take the adapter of policy version {version}, but it refused: {error} "
                "Do not go on with this run."
            ) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.close()
        self._folder = folder

    def close(self) -> None:
        """Remove the folder that is served; the engine holds the adapter in memory. A second call does nothing."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
