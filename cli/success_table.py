"""Success rates of a benchmark as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmgym.cli.metrics import percent
from llmgym.cli.table import WIDE, bar

if TYPE_CHECKING:
    from rich.console import Console

    from llmgym.bench.successes import Measured

__all__ = ["print_successes"]


def print_successes(console: Console, policies: Mapping[str, Measured], title: str) -> None:
    """Print a row a policy: its mean success over training seeds with its interval, and what else was measured."""
    from rich import box
    from rich.table import Table

    is_wide = console.width >= WIDE
    columns = list(dict.fromkeys(name for measured in policies.values() for name in measured.others))
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("success", justify="right", style="bold")
    if is_wide:
        table.add_column("", no_wrap=True, style="green")
    table.add_column("interval", justify="right", no_wrap=True)
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for policy, measured in policies.items():
        interval = f"{percent(measured.low)} to {percent(measured.high)}"
        others = [f"{measured.others[name]:.4g}" if name in measured.others else "" for name in columns]
        table.add_row(
            policy, percent(measured.success), *([bar(measured.success)] if is_wide else []), interval, *others
        )
    console.print(table)
