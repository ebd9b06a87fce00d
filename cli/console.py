"""Where commands print: rich consoles, made when they are first needed because rich takes a while to import."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["make_console"]

PIPED_WIDTH = 120
"""Columns where the output goes to no terminal, which has no width of its own."""


def make_console(file: IO[str] | None = None) -> Console:
    """Return a console that prints plain text, as wide as the terminal, to stdout or a file."""
    from rich.console import Console

    console = Console(file=file, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in console._environ:
        console.width = PIPED_WIDTH
    return console
