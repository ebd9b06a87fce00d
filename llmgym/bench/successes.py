"""Success rates among a report's figures: found by their names, and drawn. Prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmgym.run.plot import COLORS

__all__ = ["Measured", "draw_successes", "measured_policies"]

_ENDS = ("success", "low", "high")


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a policy.

    Attributes:
        success: mean success rate over training seeds.
        low: lower end of its interval.
        high: upper end.
        others: the other figures that begin with its name.
    """

    success: float
    low: float
    high: float
    others: Mapping[str, float]


def measured_policies(figures: Mapping[str, float]) -> dict[str, dict[str, Measured]]:
    """Return, for every environment, what is known of each policy, in the order of the figures.

    Figures are called ENVIRONMENT_POLICY_success, _low, _high and so on; the environment, which has no underscore in
    its name, may be missing: then it is called "".

    >>> found = measured_policies({"lake_ppo_success": 0.5, "lake_ppo_low": 0.4, "lake_ppo_high": 0.6, "x": 1.0})
    >>> found["lake"]["ppo"].high
    0.6
    """
    found: dict[str, dict[str, Measured]] = {}
    for figure in figures:
        name = figure.removesuffix("_success")
        if name == figure or not all(f"{name}_{end}" in figures for end in _ENDS):
            continue
        env, separator, policy = name.partition("_")
        env, policy = (env, policy) if separator else ("", name)
        others = {
            other.removeprefix(f"{name}_"): value
            for other, value in figures.items()
            if other.startswith(f"{name}_") and other.removeprefix(f"{name}_") not in _ENDS
        }
        success, low, high = (figures[f"{name}_{end}"] for end in _ENDS)
        found.setdefault(env, {})[policy] = Measured(success, low, high, others)
    return found


def draw_successes(file: Path, policies: Mapping[str, Mapping[str, Measured]], title: str) -> None:
    """Draw success rates with their intervals: a panel for each environment, a line for each policy; write a PNG.

    Args:
        policies: what `measured_policies` returns, with one policy at least.
        title: what stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(len(of_env) for of_env in policies.values())
    size = (1.5 + 4.0 * len(policies), 1.2 + 0.32 * most)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(policies), squeeze=False)[0]
    for axes, (env, of_env) in zip(panels, policies.items(), strict=True):
        for place, (name, measured) in enumerate(of_env.items()):
            color = COLORS.get(name, COLORS["trained"])
            axes.plot([measured.low, measured.high], [place, place], color=color, linewidth=2.5, alpha=0.45)
            axes.plot([measured.success], [place], "o", color=color)
        axes.set_yticks(range(len(of_env)), list(of_env))
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("success rate")
        axes.set_title(env, fontsize=11)
        axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    figure.savefig(file)
