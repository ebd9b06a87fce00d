"""`llmgym bench`: run a benchmark, and show or save its figures."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from llmgym.cli.console import make_console
from llmgym.cli.output_file import check_writable
from llmgym.cli.quiet import quiet_libraries
from llmgym.errors import ConfigError, did_you_mean

__all__ = ["bench", "benchmarks"]


def bench(
    name: Annotated[str | None, typer.Argument(help="Which benchmark.", show_default="list them")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write figures, versions and machine here instead.")
    ] = None,
) -> None:
    """Run a benchmark, or list them.

    Each runs beside its rivals, on this machine.
    """
    known = benchmarks()
    if name is None:
        _print_pairs(known)
        return
    if name not in known:
        raise ConfigError(f"Expected a benchmark ({', '.join(known)}), found '{name}'.{did_you_mean(name, known)}")
    if json_file is not None:
        check_writable(json_file)
    quiet_libraries()
    with _told_progress():
        report = importlib.import_module(f"llmgym.bench.{name}").run()
    if json_file is not None:
        report.write_json(json_file)
        typer.echo(f"Figures, versions and machine in {json_file}.")
    else:
        _print_figures(report.figures, name)
        typer.secho(_one_line(report.machine), dim=True)
        typer.secho(_one_line(report.versions), dim=True)


def benchmarks() -> dict[str, str]:
    """Return name and first docstring line of every module in llmgym.bench that has a function `run`.

    The files are read and not imported, because a benchmark imports everything that it compares.
    """
    package = importlib.util.find_spec("llmgym.bench")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    found = {}
    for module in pkgutil.iter_modules(folders):
        tree = ast.parse((Path(folders[0]) / f"{module.name}.py").read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            found[module.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


@contextmanager
def _told_progress() -> Iterator[None]:
    """Write to stderr how far benchmarks are, which they tell their loggers: the longest take an hour."""
    logger, handler = logging.getLogger("llmgym.bench"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _print_figures(figures: Mapping[str, float], title: str) -> None:
    """Print success rates as tables, one for each environment, and what is left as pairs."""
    from llmgym.bench.successes import measured_policies
    from llmgym.cli.success_table import print_successes

    shown: set[str] = set()
    for env, policies in measured_policies(figures).items():
        print_successes(make_console(), policies, env or title)
        prefixes = tuple(f"{env}_{policy}_" if env else f"{policy}_" for policy in policies)
        shown |= {figure for figure in figures if figure.startswith(prefixes)}
    _print_pairs({figure: f"{value:.4g}" for figure, value in figures.items() if figure not in shown})


def _print_pairs(pairs: dict[str, str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, text in pairs.items():
        table.add_row(f"[bold]{escape(name)}[/bold]", escape(text))
    make_console().print(table)


def _one_line(facts: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
