"""What a protocol found out, as tables: our rates, training seeds, comparisons, and the published rows beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgym.cli.metrics import percent
from llmgym.cli.table import WIDE, bar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from llmgym.rollout.statistics import Estimate
    from llmgym.run.protocols.result import Comparison, Method, PolicyResult, ProtocolResult

__all__ = ["print_protocol"]

BAR_WIDTH = 10
MAX_PUBLISHED = 8
"""Published rows on a terminal; the report has all."""
SHORT = {"pick_up_seq_go_to": "seq"}
"""Names of tasks that are too long for a column."""


def print_protocol(console: Console, result: ProtocolResult) -> None:
    """Print everything: a table a policy, then what several of them come to, then the published rows."""
    from rich.markup import escape

    console.print(f"\n[bold]Protocol {result.protocol.name}[/bold]: {escape(result.protocol.description)}")
    console.print(f"[dim]{escape(result.protocol.counting)}[/dim]")
    for policy in result.policies:
        console.print()
        _print_policy(console, result, policy)
    for method in result.methods:
        _print_method(console, result, method)
    for comparison in result.comparisons:
        _print_comparison(console, result, comparison)
    if result.protocol.published:
        _print_beside(console, result)
    console.print(f"[dim]after {result.seconds:.0f} s[/dim]")


def _print_policy(console: Console, result: ProtocolResult, policy: PolicyResult) -> None:
    from rich.markup import escape

    is_wide = console.width >= WIDE
    console.print(f"[bold]{escape(policy.identity.name)}[/bold]: {escape(policy.identity.training)}")
    asked = dict.fromkeys(task.asking.text for task in policy.tasks)
    console.print(f"[dim]asked with {escape('; '.join(asked))}[/dim]")
    is_wilson = all(task.by_episodes == task.success for task in policy.tasks)
    table = _table()
    table.add_column("task", no_wrap=is_wide, overflow="fold")
    if is_wide:
        table.add_column("", style="dim")
    table.add_column("success", justify="right", style="bold")
    if is_wide:
        table.add_column("", no_wrap=True, style="green")
    table.add_column(result.interval, justify="right")
    if not is_wilson:
        table.add_column(f"{100 * result.confidence:g} % Wilson", justify="right")
    table.add_column("episodes", justify="right")
    labels = {task.name: task.label for task in result.tasks}
    for task in policy.tasks:
        label = [escape(labels[task.task])] if is_wide else []
        wilson = [] if is_wilson else [_interval(task.by_episodes)]
        table.add_row(task.task, *label, *_cells(task.success, result, is_wide), *wilson, str(task.episodes))
    if policy.total is not None:
        num_episodes = str(sum(task.episodes for task in policy.tasks))
        table.add_section()
        label, wilson = [""] * is_wide, [""] * (not is_wilson)
        table.add_row("all tasks", *label, *_cells(policy.total, result, is_wide), *wilson, num_episodes)
    console.print(table)
    for task in policy.tasks:
        if task.given_up:
            counted = f"{task.given_up} of {task.episodes} episodes"
            console.print(f"[yellow]{task.task}: given up, and counted as failures: {counted}[/yellow]")
        if task.unparsed:
            console.print(f"[yellow]{task.task}: {percent(task.unparsed)} of the answers named no action[/yellow]")


def _print_method(console: Console, result: ProtocolResult, method: Method) -> None:
    table = _table(f"{len(method.runs)} training seeds as one method: {method.name}")
    table.add_column("over runs and tasks")
    table.add_column("success", justify="right", style="bold")
    table.add_column(f"{100 * result.confidence:g} % stratified bootstrap", justify="right")
    for name, estimate in (("interquartile mean", method.iqm), ("mean", method.mean)):
        table.add_row(name, percent(estimate.value), _interval(estimate))
    console.print(table)


def _print_comparison(console: Console, result: ProtocolResult, comparison: Comparison) -> None:
    training = {policy.identity.name: policy.identity.training for policy in result.policies}
    first, second = (f"{name} ({training[name]})" for name in (comparison.first, comparison.second))
    table = _table(f"{first}\nagainst {second}, on the same episodes")
    table.add_column("task", overflow="fold")
    table.add_column("difference", justify="right", style="bold")
    table.add_column(f"{100 * result.confidence:g} % paired bootstrap", justify="right")
    table.add_column("only 1st", justify="right")
    table.add_column("only 2nd", justify="right")
    table.add_column("McNemar p", justify="right")
    rows = list(comparison.tasks.items())
    for name, pair in [*rows, ("all tasks", comparison.total)] if len(rows) > 1 else rows:
        low, high = (f"{100 * end:+.1f}" for end in (pair.difference.low, pair.difference.high))
        table.add_row(
            name,
            f"{100 * pair.difference.value:+.1f}",
            f"{low} to {high}",
            str(pair.only_first),
            str(pair.only_second),
            f"{pair.p_value:.2g}",
        )
    console.print(table)


def _print_beside(console: Console, result: ProtocolResult) -> None:
    """Print our rows and the published ones in percent, each with what it was trained on."""
    from rich.markup import escape

    published = result.protocol.published
    names = [task.name for task in result.tasks]
    columns = ["all", *names] if any("all" in row.rates for row in published) else names
    table = _table("Beside published numbers, in percent")
    table.add_column("policy", overflow="fold", ratio=3)
    table.add_column("trained on", overflow="fold", ratio=4)
    for name in columns:
        short = SHORT.get(name, name)
        table.add_column(short if console.width >= WIDE else short[:5], justify="right", no_wrap=True)
    for policy in result.policies:
        rates = {task.task: task.success.value for task in policy.tasks}
        if policy.total is not None:
            rates["all"] = policy.total.value
        cells = [_whole(rates.get(name)) for name in columns]
        table.add_row(escape(policy.identity.name), escape(policy.identity.training), *cells, style="bold")
    table.add_section()
    for row in published[:MAX_PUBLISHED]:
        cells = [_whole(row.rates.get(name)) for name in columns]
        table.add_row(escape(row.policy), escape(row.training), *cells)
    console.print(table)
    for source in dict.fromkeys(row.source for row in published[:MAX_PUBLISHED]):
        console.print(f"[dim]published: {escape(source)}[/dim]")
    if len(published) > MAX_PUBLISHED:
        console.print(
            f"[dim]{len(published) - MAX_PUBLISHED} more published rows are in the report (--report DIR)[/dim]"
        )


def _table(title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _cells(estimate: Estimate, result: ProtocolResult, is_wide: bool) -> list[str]:
    """Return the cells of a rate: itself, its bar, and its interval."""
    drawn = [bar(estimate.value, BAR_WIDTH)] if is_wide else []
    if result.protocol.spread == "standard_error":
        return [percent(estimate.value), *drawn, f"± {100 * (estimate.high - estimate.value):.1f}"]
    return [percent(estimate.value), *drawn, _interval(estimate)]


def _interval(estimate: Estimate) -> str:
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def _whole(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.0f}"
