"""Plots of a run, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["plot_learning_curve"]

COLORS = {"random": "#8c8c8c", "clone": "#d08a2e", "trained": "#2a7f62"}
SMOOTHING_UPDATES = 5


def plot_learning_curve(
    file: Path, metrics: Sequence[Mapping[str, Any]], evaluations: Mapping[str, Mapping[str, Any]], title: str
) -> None:
    """Draw success in training over environment steps, and the held-out measurements with their 95 % intervals.

    Args:
        metrics: rows of metrics.jsonl.
        evaluations: name of a policy to its row: `success`, `low`, `high`, `episodes`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [row for row in metrics if "success" in row]
    steps = np.array([row["env_steps"] for row in rows], dtype=np.float64)
    success = np.array([row["success"] for row in rows], dtype=np.float64)
    if len(rows):
        axes.plot(steps, success, color=COLORS["trained"], alpha=0.3, linewidth=1)
        axes.plot(steps, _smooth(success), color=COLORS["trained"], linewidth=2, label="training episodes (mean of 5)")
    last = float(steps[-1]) if len(steps) else 1.0
    for name, row in evaluations.items():
        color = COLORS.get(name, "#444444")
        interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
        label = f"{name}: {row['success']:.2f} {interval}, {row['episodes']} held-out episodes"
        axes.axhspan(row["low"], row["high"], color=color, alpha=0.15, linewidth=0)
        axes.axhline(row["success"], color=color, linewidth=1.2, linestyle="--", label=label)
    axes.set_xlim(0, last)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("environment steps of reinforcement learning")
    axes.set_ylabel("success rate")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    figure.savefig(file)


def _smooth(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean over a trailing window."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - SMOOTHING_UPDATES, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts))
