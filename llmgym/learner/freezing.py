"""Freezing: which weights of a model learn where there is no adapter. Knows no losses and no optimizer."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmgym.errors import LearnerError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TrainedSettings", "freeze_others"]


@dataclass(frozen=True, slots=True)
class TrainedSettings:
    """Which weights of a model learn; heads always do.

    Attributes:
        last_layers: only this many layers at the end, with the norm behind them and output embeddings that are not the
            input's too; 0 trains heads only. Where it is left out, all layers are trained.
        names: only weights in whose names one of these parts stands, such as "q_proj" or "layers.1."; all if empty.
    """

    last_layers: int | None = None
    names: tuple[str, ...] = ()


def freeze_others(model: Any, settings: TrainedSettings) -> None:
    """Freeze the weights of a model that are not to learn.

    Args:
        model: a transformers PreTrainedModel; it is changed in place.

    Raises:
        LearnerError: there are not so many layers, or a part stands in no weight's name.
    """
    if settings.last_layers is not None:
        _freeze_below(model, settings.last_layers)
    known = [name for name, _ in model.named_parameters()]
    for part in settings.names:
        if not any(part in name for name in known):
            raise LearnerError(
                f"Expected a part of a weight's name in learner.trained.names, found {part!r}, which stands in none."
                f"{_near(part, known)}"
            )
    if settings.names:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and any(part in name for part in settings.names))


def _freeze_below(model: Any, num_layers: int) -> None:
    """Freeze the embeddings and all layers but the last."""
    layers = _layers(model)
    if not 0 <= num_layers <= len(layers):
        raise LearnerError(
            f"Expected learner.trained.last_layers from 0 to {len(layers)}, the layers of {type(model).__name__}, "
            f"found {num_layers}. Change it, or leave it out to train them all."
        )
    trained = {id(parameter) for layer in list(layers)[len(layers) - num_layers :] for parameter in layer.parameters()}
    before = {id(parameter) for layer in layers for parameter in layer.parameters()}
    before.add(id(model.get_input_embeddings().weight))
    for name, parameter in model.named_parameters():
        # What belongs to no layer: the norm at the end and the output embeddings learn, positions do not.
        is_behind = id(parameter) not in before and num_layers > 0 and "wpe" not in name and "position" not in name
        parameter.requires_grad_(id(parameter) in trained or is_behind)


def _layers(model: Any) -> nn.ModuleList:
    """Return the layers of a model of one stack."""
    from torch import nn

    count = model.config.num_hidden_layers
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if not found:
        raise LearnerError(
            f"Expected {type(model).__name__} to have a list of its {count} layers, found none. Name the weights to "
            "train in learner.trained.names instead."
        )
    return found[0]


def _near(part: str, names: list[str]) -> str:
    """List the parts of weights' names that are most like one that stands in none."""
    parts = sorted({piece for name in names for piece in name.split(".") if not piece.isdigit()})
    near = difflib.get_close_matches(part, parts, n=3, cutoff=0.4)
    return f" Did you mean {' or '.join(repr(one) for one in near)}?" if near else f" There are {', '.join(parts)}."
