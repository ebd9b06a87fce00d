"""Which devices serve the models of a configuration."""

from __future__ import annotations

import logging

import torch

from llmgym.compat.lamorel.settings import CallerSettings, LlmSettings
from llmgym.errors import ConfigError
from llmgym.host.serving import Placement

__all__ = ["placements"]

_LOGGER = logging.getLogger("llmgym.compat.lamorel")


def placements(settings: CallerSettings) -> dict[str, Placement]:
    """Say where each model is served; models in order take the GPUs in order."""
    placed, first_gpu = {}, 0
    for name, llm in settings.llms.items():
        devices, first_gpu = _devices(name, llm, first_gpu)
        placed[name] = Placement(
            num_workers=llm.num_processes if llm.num_processes > 1 else 0,
            devices=devices,
            find_unused_parameters=llm.find_unused_parameters,
            timeout_seconds=settings.timeout_seconds,
        )
    return placed


def _devices(name: str, llm: LlmSettings, first_gpu: int) -> tuple[tuple[tuple[str, ...], ...], int]:
    """Return the devices of each process of a model, and the first GPU that is left."""
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if llm.devices:
        for entry in llm.devices:
            if entry != "cpu" and max(entry) >= num_gpus:
                raise ConfigError(
                    f"Expected GPUs below {num_gpus} for {name}, the number of this machine, found {max(entry)}."
                )
        listed = tuple(("cpu",) if entry == "cpu" else tuple(f"cuda:{gpu}" for gpu in entry) for entry in llm.devices)
        return listed, first_gpu
    if llm.use_gpu and num_gpus == 0:
        _LOGGER.warning("use_gpu is set, but this machine has no GPU: %s is served on the CPU.", name)
    if not llm.use_gpu or num_gpus == 0:
        return ((("cpu",),) * llm.num_processes), first_gpu
    needed = llm.num_processes * llm.gpus_per_process
    if llm.gpus_per_process > 1 and first_gpu + needed > num_gpus:
        raise ConfigError(
            f"Expected {needed} GPUs for {name} ({llm.num_processes} processes x model_parallelism_size "
            f"{llm.gpus_per_process}), found {num_gpus - first_gpu}. Lower one of the two."
        )
    spread = tuple(
        tuple(
            f"cuda:{(first_gpu + process * llm.gpus_per_process + part) % num_gpus}"
            for part in range(llm.gpus_per_process)
        )
        for process in range(llm.num_processes)
    )
    return spread, first_gpu + needed
