"""Watching a model while it computes, to find the first module that yields what is not a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["first_non_finite"]


def first_non_finite(model: torch.nn.Module, compute: Callable[[], None]) -> str:
    """Return the name of the first module whose output is not finite while something is computed."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not found and isinstance(first, torch.Tensor) and not bool(first.isfinite().all()):
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        compute()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "a module that could not be found"
