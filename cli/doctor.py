"""`llmgym doctor`: whether this machine has what llmgym needs, and what to do if it has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgym.cli.console import make_console
from llmgym.cli.quiet import captured_output, quiet_libraries

if TYPE_CHECKING:
    from llmgym.cli.check import Check, Status

__all__ = ["doctor", "print_checks"]

MARKS = {"ok": "[green]✓[/green]", "note": "[yellow]•[/yellow]", "missing": "[red]✗[/red]"}


def doctor(
    gpu: Annotated[bool, typer.Option("--gpu", help="Check instead that engine and learner work on the GPUs.")] = False,
) -> None:
    """Look at this machine, and tell what is missing.

    Shows versions and devices, and the command that helps. Exits with 1 if something that is needed is missing.
    """
    quiet_libraries()
    if gpu and not _gpu_names():
        make_console().print(
            "[red]No GPU that torch sees[/red]: there is nothing to check. [bold]llmgym doctor[/bold] tells more."
        )
        raise typer.Exit(1)
    checks = _gpu_checks() if gpu else list(_all_checks())
    print_checks(checks)
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)


def print_checks(checks: list[Check]) -> None:
    """Print a line a check, then how many are missing."""
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(MARKS[check.status], check.name, escape(check.found))
        if check.fix:
            table.add_row("", "", f"[cyan]→ {escape(check.fix)}[/cyan]")
    console = make_console()
    console.print(table)
    num_missing = sum(check.status == "missing" for check in checks)
    if num_missing:
        console.print(f"\n[red]{num_missing} to repair[/red]: do what stands after →, then ask again.")
    else:
        console.print("\n[green]All that is needed is here.[/green] Next: [bold]llmgym train[/bold]")


def _all_checks() -> Iterator[Check]:
    from llmgym.cli.check import (
        check_devices,
        check_engine,
        check_folder,
        check_model_package,
        check_packages,
        check_torchvision,
    )

    yield from check_packages()
    yield check_engine()
    torchvision = check_torchvision()
    if torchvision is not None:
        yield torchvision
    yield check_model_package()
    yield from check_devices(_gpu_names())
    yield check_folder(Path.cwd())


def _gpu_checks() -> list[Check]:
    """Run everything that only GPUs can show: minutes, in processes of their own."""
    from llmgym.cli.check import Check
    from llmgym.run.gpu_checks import GPU_CHECKS, run_check

    checks = []
    with captured_output() as terminal:
        console = make_console(terminal)
        for check in GPU_CHECKS:
            with console.status(f"{check.__name__.replace('_', ' ')} ..."):
                for outcome in run_check(check):
                    status: Status = "ok" if outcome.is_passed else "missing"
                    fix = (
                        "" if outcome.is_passed else "report it, with this table: what llmgym needs does not work here"
                    )
                    checks.append(Check(outcome.name, status, outcome.found, fix))
    return checks


def _gpu_names() -> list[str]:
    """Return the names of the GPUs that torch sees."""
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
