"""`llmgym plot`: the learning curves of several runs, or the success rates of a benchmark, in one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmgym.errors import ConfigError

__all__ = ["plot"]


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders of one environment; or the JSON file of one benchmark."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG to write.")] = Path("learning_curves.png"),
    title: Annotated[str, typer.Option(help="What stands above.", show_default="the environment, or the file")] = "",
) -> None:
    """Draw the learning curves of several runs, such as the seeds of one recipe.

    Thin lines are runs and the thick one is their mean; dashed lines are what was measured on held-out episodes, with
    stripes from the lowest of the runs to the highest. Corrections of a clone have a panel of their own. Of a benchmark
    that measures success (what llmgym bench algorithms --json FILE writes), dots are means over training seeds, and
    lines their intervals.
    """
    from llmgym.cli.output_file import check_writable
    from llmgym.run.plot import plot_runs

    check_writable(out)
    if len(runs) == 1 and runs[0].suffix == ".json":
        _plot_report(out, runs[0], title)
        typer.echo(f"success rates  {out}")
        return
    plot_runs(out, runs, title)
    typer.echo(f"learning curves  {out}")


def _plot_report(out: Path, file: Path, title: str) -> None:
    """Draw the success rates that a benchmark found."""
    from llmgym.bench.successes import draw_successes, measured_policies

    try:
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
        policies = measured_policies(figures)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        policies = {}
    if not policies:
        raise ConfigError(
            f"Expected a report with success rates in {file}, found none. Write one: llmgym bench algorithms --json "
            f"{file}"
        )
    draw_successes(out, policies, title or file.stem)
