"""A file that the user names for results: looked at before the work begins, not after it."""

from __future__ import annotations

import os
from pathlib import Path

from llmgym.errors import ConfigError

__all__ = ["check_writable"]


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written.

    Raises:
        ConfigError: its folder is missing or not writable, or it is a folder itself.
    """
    if path.is_dir():
        problem = "it is a folder"
    elif not path.absolute().parent.is_dir():
        problem = f"there is no folder {path.parent}"
    elif not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        problem = "writing there is not permitted"
    else:
        return
    raise ConfigError(f"Expected to be able to write {path}, but {problem}. Name another file.")
