"""Measured policies as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmgym.cli.metrics import percent

if TYPE_CHECKING:
    from rich.console import Console

    from llmgym.run.results import EvalRow

__all__ = ["WIDE", "bar", "print_rows"]

BAR_WIDTH = 20
WIDE = 90
"""Columns from which a terminal has room for bars."""


def bar(rate: float, width: int = BAR_WIDTH) -> str:
    """Draw a rate from 0 to 1 in so many characters.

    >>> bar(0.25)
    '█████░░░░░░░░░░░░░░░'
    """
    filled = round(rate * width)
    return "█" * filled + "░" * (width - filled)


def print_rows(console: Console, rows: Sequence[EvalRow], title: str) -> None:
    """Print a row a policy: its success with a 95 % Wilson interval, and how many episodes that comes from."""
    from rich import box
    from rich.table import Table

    is_wide = console.width >= WIDE
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=not rows or max(len(row.name) for row in rows) < WIDE // 3, overflow="fold")
    table.add_column("success", justify="right", style="bold")
    if is_wide:
        table.add_column("", no_wrap=True, style="green")
    table.add_column("95 % interval", justify="right")
    table.add_column("episodes", justify="right")
    table.add_column("return", justify="right")
    if is_wide:
        table.add_column("turns", justify="right")
    for row in rows:
        turns = [f"{row.mean_turns:.1f}"] if is_wide else []
        interval = f"{percent(row.low)} to {percent(row.high)}"
        counts = [interval, str(row.episodes), f"{row.mean_return:.3f}"]
        table.add_row(row.name, percent(row.success), *([bar(row.success)] if is_wide else []), *counts, *turns)
    console.print(table)
