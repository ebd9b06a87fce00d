"""A protocol's outcome as a picture: rates with their intervals, a line a task, published numbers as ticks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmgym.rollout.statistics import Estimate
from llmgym.run.identity import ZERO_SHOT
from llmgym.run.protocols.result import PolicyResult, ProtocolResult
from llmgym.run.protocols.task import PublishedRow

__all__ = ["plot_protocol"]

COLORS = ("#2a7f62", "#2c6fb0", "#b0432c", "#7d5ba6", "#c28a1c", "#4d4d4d")
PUBLISHED_COLOR = "#8c8c8c"
PUBLISHED_MARKERS = ("D", "s", "^", "v", "P", "X")
MAX_PUBLISHED = 6
ROW_INCHES = 0.22
LABEL_WIDTH, LEGEND_WIDTH = 34, 120
"""Characters of a line."""
BELOW, BELOW_STEP = 0.27, 0.06
"""Where published rows are drawn, below the middle of a line, so that they hide neither ours nor each other."""
ABOVE = 0.12
"""Where ours are drawn, above the middle of a line, where there are published rows."""
TOTAL = "all tasks"


def plot_protocol(file: Path, result: ProtocolResult) -> None:
    """Draw the rates of all policies with their intervals, and up to six published rows.

    Full marks are of trained policies, hollow ones of all others. Where more rows were published, those that lie
    nearest to our best total are drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [task.name for task in result.tasks]
    labels = [_wrapped(task.label, LABEL_WIDTH) for task in result.tasks]
    if any(policy.total is not None for policy in result.policies):
        lines, labels = [*lines, "all"], [*labels, TOTAL]
    published = _shown(result)
    height = (
        1.7 + len(lines) * (0.32 + ROW_INCHES * len(result.policies)) + 0.2 * (len(result.policies) + len(published))
    )
    figure = Figure(figsize=(9, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row in range(len(lines)):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.035, linewidth=0)
    handles = []
    for index, (policy, place) in enumerate(zip(result.policies, _places(result, bool(published)), strict=True)):
        handles.append(_draw_policy(axes, lines, policy, COLORS[index % len(COLORS)], place))
    for index, published_row in enumerate(published):
        place = BELOW + BELOW_STEP * (index - (len(published) - 1) / 2)
        handles.append(_draw_published(axes, lines, published_row, PUBLISHED_MARKERS[index], place))
    axes.set_yticks(range(len(lines)), labels, fontsize=9)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    has_thin = any(task.by_episodes != task.success for policy in result.policies for task in policy.tasks)
    thin = f"; thin: {100 * result.confidence:g} % Wilson" if has_thin else ""
    axes.set_xlabel(f"success rate; intervals: {result.interval}{thin}", fontsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"Protocol {result.protocol.name}", fontsize=11, fontweight="bold", loc="left")
    axes.set_title("full marks: trained; hollow: not trained here", fontsize=8, loc="right", color="#555555")
    figure.legend(handles=handles, loc="outside lower left", fontsize=8, frameon=False)
    figure.savefig(file)


def _places(result: ProtocolResult, has_published: bool) -> Sequence[float]:
    """Return where in a line each policy is drawn: about its middle, or above that where published rows are below."""
    middle, spread = (-ABOVE, 0.45) if has_published else (0.0, 0.6)
    half = spread * min(1.0, len(result.policies) / 3) / 2
    if len(result.policies) == 1:
        return [middle]
    return [float(place) for place in np.linspace(middle - half, middle + half, len(result.policies))]


def _draw_policy(axes: Any, lines: Sequence[str], policy: PolicyResult, color: str, offset: float) -> Any:
    """Draw a policy's rates: the protocol's intervals, and, thin, those of the episodes where they are others."""
    rates: dict[str, Estimate] = {task.task: task.success for task in policy.tasks}
    if policy.total is not None:
        rates["all"] = policy.total
    rows = [row for row, name in enumerate(lines) if name in rates]
    shown = [rates[lines[row]] for row in rows]
    values = [one.value for one in shown]
    # Rounding may leave an end of an interval a hair beyond its middle.
    below = [max(one.value - one.low, 0.0) for one in shown]
    above = [max(one.high - one.value, 0.0) for one in shown]
    for task in policy.tasks:
        if task.by_episodes != task.success:
            place = lines.index(task.task) + offset
            axes.plot([task.by_episodes.low, task.by_episodes.high], [place] * 2, color=color, linewidth=1, alpha=0.6)
    return axes.errorbar(
        values,
        [row + offset for row in rows],
        xerr=[below, above],
        fmt="o",
        color=color,
        markersize=6.5,
        markerfacecolor=color if policy.identity.is_trained else "white",
        markeredgewidth=1.6,
        elinewidth=1.8,
        capsize=3,
        zorder=3,
        clip_on=False,
        label=_wrapped(f"{policy.identity.name}: {policy.identity.training}", LEGEND_WIDTH),
    )


def _draw_published(axes: Any, lines: Sequence[str], row: PublishedRow, marker: str, place: float) -> Any:
    """Draw a published row, so far below the middles of the lines."""
    rows = [index for index, name in enumerate(lines) if name in row.rates]
    is_trained = not row.training.startswith((ZERO_SHOT, "not trained"))
    (marks,) = axes.plot(
        [row.rates[lines[index]] for index in rows],
        [index + place for index in rows],
        marker,
        color=PUBLISHED_COLOR,
        markerfacecolor=PUBLISHED_COLOR if is_trained else "white",
        markersize=5,
        alpha=0.9,
        zorder=2,
        clip_on=False,
        label=_wrapped(f"published: {row.policy}, {row.training}", LEGEND_WIDTH),
    )
    return marks


def _shown(result: ProtocolResult) -> list[PublishedRow]:
    """Return the published rows that there is room for."""
    rows = list(result.protocol.published)
    totals = [policy.total.value for policy in result.policies if policy.total is not None]
    if len(rows) <= MAX_PUBLISHED or not totals:
        return rows[:MAX_PUBLISHED]
    nearest = sorted(rows, key=lambda row: abs(row.rates.get("all", 0.0) - max(totals)))[:MAX_PUBLISHED]
    return [row for row in rows if row in nearest]


def _wrapped(label: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(label, width))
