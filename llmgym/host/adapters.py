"""Which of a model's PEFT adapters answers. Knows nothing of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmgym.errors import HostError, did_you_mean

__all__ = ["BASE", "activate_adapter", "adapter_names", "borrow_adapter"]

BASE = "base"
"""The name that stands for the model without an adapter."""


def adapter_names(model: Any) -> list[str]:
    """Return the names of a model's adapters."""
    return list(getattr(model, "peft_config", {}) or {})


def activate_adapter(model: Any, name: str | None) -> None:
    """Let an adapter answer, and be the one that is trained, from now on; None changes nothing.

    Raises:
        HostError: the model has no such adapter.
    """
    if name is not None:
        _check_name(model, name)
        model.set_adapter(name)


@contextmanager
def borrow_adapter(model: Any, name: str | None) -> Iterator[None]:
    """Let an adapter answer within a block, and leave everything as it was behind it; None changes nothing.

    Args:
        model: a transformers or PEFT model.
        name: of an adapter, or `BASE`.

    Raises:
        HostError: the model has no such adapter.
    """
    if name is None or (name == BASE and not adapter_names(model)):
        yield
        return
    if name == BASE:
        with model.disable_adapter():
            yield
        return
    _check_name(model, name)
    if name == model.active_adapter:
        yield
        return
    # PEFT trains the active adapter and freezes the others: put that back too.
    before, trained = model.active_adapter, {key: value.requires_grad for key, value in model.named_parameters()}
    model.set_adapter(name)
    try:
        yield
    finally:
        model.set_adapter(before)
        for key, value in model.named_parameters():
            value.requires_grad_(trained[key])


def _check_name(model: Any, name: str) -> None:
    known = adapter_names(model)
    if name not in known:
        found = ", ".join(known) or "none"
        raise HostError(
            f"Expected an adapter of the model, found no {name!r} among: {found}.{did_you_mean(name, known)} "
            "Add it when the model is initialised."
        )
