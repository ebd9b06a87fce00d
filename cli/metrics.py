"""Which metrics of a run are shown, under which name and in which form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["percent", "shown_metrics", "sparkline"]

_FORMS = {
    "skipped_steps": ("SKIPPED STEPS", "{:.0f}"),
    "success": ("success", "{:.1%}"),
    "return": ("return", "{:.3f}"),
    "answers": ("answers", "{:,.0f}"),
    "unparsed": ("unparsed", "{:.1%}"),
    "env_steps_per_second": ("env steps/s", "{:,.0f}"),
    "env_steps": ("env steps", "{:,.0f}"),
    "loss": ("loss", "{:.4f}"),
    "policy_loss": ("policy loss", "{:.4f}"),
    "clone_loss": ("cloning loss", "{:.4f}"),
    "text_loss": ("text loss", "{:.4f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "value_loss": ("value loss", "{:.4f}"),
    "approx_kl": ("KL", "{:.4f}"),
    "entropy": ("entropy", "{:.3f}"),
    "peak_memory_gib": ("peak memory", "{:.1f} GiB"),
}
"""Metric to label and format, in the order in which they are shown."""

_BARS = "▁▂▃▄▅▆▇█"


def shown_metrics(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return label and text of the metrics worth showing; skipped steps only where there are any.

    >>> shown_metrics({"success": 0.5, "grad_norm": 1.0, "env_steps_per_second": 1234.5})
    [('success', '50.0%'), ('env steps/s', '1,234')]
    """
    shown = {name: value for name, value in metrics.items() if value or name != "skipped_steps"}
    return [(label, form.format(shown[name])) for name, (label, form) in _FORMS.items() if name in shown]


def percent(share: float) -> str:
    """Write a share of 1 as a percentage.

    >>> percent(0.8125)
    '81.2%'
    """
    return f"{share:.1%}"


def sparkline(shares: Iterable[float], width: int = 40) -> str:
    """Draw the last values, each from 0 to 1, as one character each.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    return "".join(_BARS[min(int(share * len(_BARS)), len(_BARS) - 1)] for share in list(shares)[-width:])
