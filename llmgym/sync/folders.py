"""Folders for weights on their way: in memory where the system has such a place."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["memory_folder"]


def memory_folder() -> str:
    """Make a new folder in memory (or among the temporary files), which the caller removes."""
    shared_memory = Path("/dev/shm")
    usable = shared_memory.is_dir() and os.access(shared_memory, os.W_OK)
    return tempfile.mkdtemp(prefix="llmgym-", dir=shared_memory if usable else None)
