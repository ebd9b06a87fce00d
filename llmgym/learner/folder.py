"""A folder that is written whole or not at all. Knows nothing of what is in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_folder"]


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder beside path to write into; it takes path's name when the block ends without an error.

    Everything is flushed to the disk before the name is given: a folder of that name is complete. One that exists
    already is replaced. A process killed while it writes leaves a folder whose name begins with a dot, and nothing
    under path.
    """
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".unfinished", dir=target.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        _flush(unfinished)
        replaced = None
        if target.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".replaced", dir=target.parent))
            target.rename(replaced / target.name)
        unfinished.rename(target)
        _flush_entry(target.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Flush every file and folder below a folder to the disk, and the folder itself."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            _flush_entry(Path(root) / name)
        _flush_entry(Path(root))


def _flush_entry(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
