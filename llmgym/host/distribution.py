"""One update over several processes: gradients are averaged as they are computed. Knows no updater and no model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llmgym.host.serving import Place

__all__ = ["Alone", "distribute"]


class Alone(nn.Module):
    """A module whose process updates it alone, in the shape of a distributed one: the module itself is `.module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Call the module."""
        return self.module(*arguments, **options)


def distribute(module: nn.Module, place: Place) -> nn.Module:
    """Wrap a module so that every backward pass averages gradients over the processes.

    Args:
        module: what is updated; the first process's weights count.
        place: of several processes, in a process group that has begun.
    """
    is_trained = any(value.requires_grad for value in module.parameters())
    if place.num_workers == 1 or not is_trained:
        return Alone(module)
    # Buffers are left alone: they never change in evaluation mode, and gloo cannot send those that hold booleans.
    return nn.parallel.DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=place.find_unused_parameters
    )


def seed_process(seed: int, place: Place) -> None:
    """Let every process sample differently; a process that is alone keeps the generator of its program."""
    if place.num_workers > 1:
        torch.manual_seed(seed + place.worker_index)
