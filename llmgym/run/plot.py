"""Plots of runs, as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.errors import RunError
from llmgym.run.folder import RunFolder

__all__ = ["plot_learning_curve", "plot_runs"]

Values = npt.NDArray[np.float64]

COLORS = {"random": "#8c8c8c", "clone": "#d08a2e", "corrected": "#4a6fa5", "trained": "#2a7f62"}
SMOOTHING_UPDATES = 5
CORRECTION = "rounds of correction"
REINFORCEMENT = "environment steps of reinforcement learning"
LABELS = {
    CORRECTION: f"solved alone, in a drawn number of turns (mean of {SMOOTHING_UPDATES})",
    REINFORCEMENT: f"training episodes (mean of {SMOOTHING_UPDATES})",
}
"""What the curve of each stage shows."""
STAGE_COLORS = {CORRECTION: COLORS["corrected"], REINFORCEMENT: COLORS["trained"]}


@dataclass(frozen=True)
class _Stage:
    """How training episodes went over a stage of a run, over the rounds or the steps of it."""

    name: str
    x: Values
    success: Values


def plot_learning_curve(
    file: Path,
    metrics: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
    title: str,
    rounds: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Draw success in training, stage by stage, and the held-out measurements with their 95 % intervals.

    Args:
        metrics: rows of metrics.jsonl.
        evaluations: name of a policy to its row: `success`, `low`, `high`, `episodes`.
        title: what stands above.
        rounds: rows of the rounds of correction, if there were any.
    """
    stages = _stages(metrics, rounds)
    with _axes(file, title, [(stage.name, float(stage.x[-1])) for stage in stages]) as panels:
        for axes, stage in zip(panels, stages, strict=False):
            color = STAGE_COLORS[stage.name]
            axes.plot(stage.x, stage.success, color=color, alpha=0.3, linewidth=1)
            axes.plot(stage.x, _smooth(stage.success), color=color, linewidth=2, label=LABELS[stage.name])
        for name, row in evaluations.items():
            shown = f"{row['success']:.2f} [{row['low']:.2f}, {row['high']:.2f}], {row['episodes']} held-out episodes"
            _draw_level(panels, name, row["success"], (row["low"], row["high"]), f"{name}: {shown}")


def plot_runs(file: Path, runs: Sequence[Path], title: str = "") -> None:
    """Draw the learning curves of several runs and their mean, and what was measured on held-out episodes.

    The shaded stripes go from the lowest of the runs to the highest. Stages that only some of the runs have are left
    out.

    Args:
        runs: folders of runs of one environment, each with an update or a round of correction at least.
        title: what stands above; the environment if empty.

    Raises:
        RunError: a folder is no run, has no curve, or is of another environment than the first, or no stage is in all.
    """
    folders = [RunFolder.open(run) for run in runs]
    envs = [folder.config().env for folder in folders]
    stages = [{one.name: one for one in _stages(folder.read_metrics(), folder.read_rounds())} for folder in folders]
    for run, env, found in zip(runs, envs, stages, strict=True):
        if env != envs[0]:
            raise RunError(f"Expected runs of one environment, {envs[0]}, found {env} in {run}. Leave it out.")
        if not found:
            raise RunError(
                "Expected a run with a learning curve, found neither an update with an episode nor a round of "
                f"correction in {run}. Leave it out."
            )
    common = [name for name in LABELS if all(name in found for found in stages)]
    if not common:
        raise RunError(f"Expected runs with a stage in common, found {', '.join(map(str, runs))}. Draw them apart.")
    lasts = [min(float(found[name].x[-1]) for found in stages) for name in common]
    with _axes(file, title or _title(envs[0], len(runs)), list(zip(common, lasts, strict=True))) as panels:
        for axes, name, last in zip(panels, common, lasts, strict=True):
            curves = [found[name] for found in stages]
            grid = np.linspace(max(float(curve.x[0]) for curve in curves), last, 200)
            drawn = np.array([np.interp(grid, curve.x, _smooth(curve.success)) for curve in curves])
            axes.plot(grid, drawn.T, color=STAGE_COLORS[name], alpha=0.35, linewidth=1)
            label = f"{LABELS[name]}, mean of {len(runs)} runs" if len(runs) > 1 else LABELS[name]
            axes.plot(grid, drawn.mean(axis=0), color=STAGE_COLORS[name], linewidth=2, label=label)
        measured = [folder.read_evaluations() for folder in folders]
        for name in [name for name in COLORS if all(name in one for one in measured)]:
            rates = [one[name]["success"] for one in measured]
            span = f" (from {min(rates):.2f} to {max(rates):.2f})" if len(rates) > 1 else ""
            label = f"{name}: {np.mean(rates):.2f}{span}, held-out episodes"
            _draw_level(panels, name, float(np.mean(rates)), (min(rates), max(rates)), label)


def _title(env: str, num_runs: int) -> str:
    return f"{env}, {num_runs} seeds" if num_runs > 1 else env


@contextmanager
def _axes(file: Path, title: str, stages: Sequence[tuple[str, float]]) -> Iterator[list[Any]]:
    """Yield axes for success rates, one for each stage and its last x, or one without any; write the picture then."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12 if len(stages) > 1 else 8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, max(len(stages), 1), sharey=True, squeeze=False)[0])
    yield panels
    for axes, (stage, last) in zip(panels, stages, strict=False):
        axes.set_xlim(0, last)
        axes.set_xlabel(stage)
    for axes in panels:
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.25)
        axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    if not stages:
        panels[0].set_xticks([])
    panels[0].set_ylabel("success rate")
    figure.suptitle(title, fontsize=11)
    figure.savefig(file)


def _draw_level(panels: Sequence[Any], name: str, rate: float, span: tuple[float, float], label: str) -> None:
    """Draw what a policy reached, and around it a stripe; only the last of the panels says what it is."""
    color = COLORS.get(name, "#444444")
    for axes in panels:
        axes.axhspan(*span, color=color, alpha=0.15, linewidth=0)
        axes.axhline(rate, color=color, linewidth=1.2, linestyle="--", label=label if axes is panels[-1] else None)


def _stages(metrics: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]) -> list[_Stage]:
    """Return the stages of a run that have a curve, in order."""
    updates = [row for row in metrics if "success" in row]
    found = (
        (CORRECTION, [row["round"] for row in rounds], [row["solved_alone"] for row in rounds]),
        (REINFORCEMENT, [row["env_steps"] for row in updates], [row["success"] for row in updates]),
    )
    return [_Stage(name, np.array(x, np.float64), np.array(success, np.float64)) for name, x, success in found if x]


def _smooth(values: Values) -> Values:
    """Mean over a trailing window."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - SMOOTHING_UPDATES, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts))
