"""Whether an adapter fits a model: its factors are of the sizes of the model's layers. Knows no backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmgym.errors import EngineError

__all__ = ["LayerSizes", "check_adapter", "layer_sizes", "model_layer_sizes"]

LayerSizes = Mapping[str, tuple[int, int]]
"""Name of a linear layer to how many numbers it takes and gives."""

_PREFIX = "base_model.model."


def layer_sizes(model: Any) -> LayerSizes:
    """Return the sizes of the linear layers of a transformers model, without an adapter in it."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    sizes = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            sizes[name] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            sizes[name] = (int(module.weight.shape[0]), int(module.nf))
    return sizes


@lru_cache(maxsize=8)
def model_layer_sizes(source: str) -> LayerSizes:
    """Return the sizes of the linear layers of a causal language model's folder or hub id; no weight is loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return layer_sizes(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source)))


def check_adapter(folder: str, sizes: LayerSizes, model: str) -> None:
    """Refuse a low-rank adapter whose layers are not those of a model. What is no low-rank factor is not looked at.

    Args:
        folder: of the adapter, in PEFT's format.
        sizes: of the model's layers.
        model: its name, for the message.

    Raises:
        EngineError: says which layer does not fit, and which model the adapter was trained on.
    """
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        return
    for layer, found in _adapter_sizes(file).items():
        expected = sizes.get(layer)
        if expected == found:
            continue
        config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path") or "another model"
        has = "has no such layer" if expected is None else f"takes {expected[0]} and gives {expected[1]}"
        raise EngineError(
            f"Expected an adapter that fits the model, but the one in {folder} does not: it was trained on {base}, and "
            f"its {layer} takes {found[0]} numbers and gives {found[1]}, where {model} {has}. Load an adapter that was "
            "trained on this model."
        )


def _adapter_sizes(file: Path) -> dict[str, tuple[int, int]]:
    """Return the sizes of the layers that an adapter's factors, (rank, taken) and (given, rank), are made for."""
    from safetensors import safe_open

    with safe_open(str(file), "np") as tensors:
        shapes = {name.removeprefix(_PREFIX): tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return {
        name.removesuffix(".lora_A.weight"): (shape[1], shapes[name.replace(".lora_A.", ".lora_B.")][0])
        for name, shape in shapes.items()
        if name.endswith(".lora_A.weight") and len(shape) == 2
    }
