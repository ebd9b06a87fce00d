"""Plots of runs, as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.errors import RunError
from llmgym.run.folder import RunFolder

__all__ = ["plot_learning_curve", "plot_runs"]

Curve = npt.NDArray[np.float64]

COLORS = {"random": "#8c8c8c", "clone": "#d08a2e", "corrected": "#4a6fa5", "trained": "#2a7f62"}
SMOOTHING_UPDATES = 5


def plot_learning_curve(
    file: Path, metrics: Sequence[Mapping[str, Any]], evaluations: Mapping[str, Mapping[str, Any]], title: str
) -> None:
    """Draw success in training over environment steps, and the held-out measurements with their 95 % intervals.

    Args:
        metrics: rows of metrics.jsonl.
        evaluations: name of a policy to its row: `success`, `low`, `high`, `episodes`.
    """
    steps, success = _success(metrics)
    with _axes(file, title, float(steps[-1]) if len(steps) else 1.0) as axes:
        if len(steps):
            axes.plot(steps, success, color=COLORS["trained"], alpha=0.3, linewidth=1)
            label = f"training episodes (mean of {SMOOTHING_UPDATES})"
            axes.plot(steps, _smooth(success), color=COLORS["trained"], linewidth=2, label=label)
        for name, row in evaluations.items():
            shown = f"{row['success']:.2f} [{row['low']:.2f}, {row['high']:.2f}], {row['episodes']} held-out episodes"
            _draw_level(axes, name, row["success"], (row["low"], row["high"]), f"{name}: {shown}")


def plot_runs(file: Path, runs: Sequence[Path], title: str = "") -> None:
    """Draw the learning curves of several runs and their mean, and what was measured on held-out episodes.

    The shaded stripes go from the lowest of the runs to the highest.

    Args:
        runs: folders of runs of one environment, each with an update at least.
        title: what stands above; the environment if empty.

    Raises:
        RunError: a folder is no run, has no curve, or is of another environment than the first.
    """
    folders = [RunFolder.open(run) for run in runs]
    envs = [folder.config().env for folder in folders]
    curves = [_success(folder.read_metrics()) for folder in folders]
    for run, env, (steps, _) in zip(runs, envs, curves, strict=True):
        if env != envs[0]:
            raise RunError(f"Expected runs of one environment, {envs[0]}, found {env} in {run}. Leave it out.")
        if not len(steps):
            raise RunError(f"Expected a run with a learning curve, found no update with an episode in {run}.")
    last = min(float(steps[-1]) for steps, _ in curves)
    grid = np.linspace(max(float(steps[0]) for steps, _ in curves), last, 200)
    drawn = np.array([np.interp(grid, steps, _smooth(success)) for steps, success in curves])
    with _axes(file, title or f"{envs[0]}, {len(runs)} seeds", last) as axes:
        axes.plot(grid, drawn.T, color=COLORS["trained"], alpha=0.35, linewidth=1)
        label = f"training episodes (mean of {SMOOTHING_UPDATES}), mean of {len(runs)} runs"
        axes.plot(grid, drawn.mean(axis=0), color=COLORS["trained"], linewidth=2, label=label)
        measured = [folder.read_evaluations() for folder in folders]
        for name in [name for name in COLORS if all(name in one for one in measured)]:
            rates = [one[name]["success"] for one in measured]
            label = f"{name}: {np.mean(rates):.2f} (from {min(rates):.2f} to {max(rates):.2f}), held-out episodes"
            _draw_level(axes, name, float(np.mean(rates)), (min(rates), max(rates)), label)


@contextmanager
def _axes(file: Path, title: str, last: float) -> Iterator[Any]:
    """Yield axes for success rates over environment steps; write the picture behind it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    yield axes
    axes.set_xlim(0, last)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("environment steps of reinforcement learning")
    axes.set_ylabel("success rate")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    figure.savefig(file)


def _draw_level(axes: Any, name: str, rate: float, span: tuple[float, float], label: str) -> None:
    """Draw what a policy reached, and around it a stripe."""
    color = COLORS.get(name, "#444444")
    axes.axhspan(*span, color=color, alpha=0.15, linewidth=0)
    axes.axhline(rate, color=color, linewidth=1.2, linestyle="--", label=label)


def _success(metrics: Sequence[Mapping[str, Any]]) -> tuple[Curve, Curve]:
    """Return environment steps and success rates of the updates in which an episode ended."""
    rows = [row for row in metrics if "success" in row]
    steps = np.array([row["env_steps"] for row in rows], dtype=np.float64)
    return steps, np.array([row["success"] for row in rows], dtype=np.float64)


def _smooth(values: Curve) -> Curve:
    """Mean over a trailing window."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - SMOOTHING_UPDATES, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts))
