"""NF4: weights of 4 bits as bitsandbytes packs them, and the plain weights that they stand for. Knows no policy.

Engine and learner load them alike, so that both compute the same; vLLM is given the plain weights that they stand for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["compute_exactly", "is_nf4", "nf4_options", "write_dequantized"]


def nf4_options(device: str) -> dict[str, Any]:
    """Return the options of transformers' `from_pretrained` that pack a model's linear layers into 4 bits.

    NF4 with double quantisation (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), computed in float32 on a CPU
    and in bfloat16 on a GPU. The embeddings and the output head stay as they are.

    Args:
        device: where the model is put, such as "cpu" or "cuda:0"; it is quantised there.
    """
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16,
        ),
    }


def compute_exactly(model: Any) -> None:
    """Keep 4-bit layers from repacking their weights on a CPU at the first pass without gradients.

    Repacked (bitsandbytes 0.50, on CPUs with bfloat16 of their own) they compute in bfloat16: the same score differs
    before and after, and gradients through them are lost without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_nf4(model: Any) -> bool:
    """Tell whether a transformers model holds weights of 4 bits."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def write_dequantized(source: str, folder: Path, *, device: str = "cpu") -> None:
    """Write the plain float32 weights that a model's 4-bit weights stand for, with its config and tokenizer.

    Args:
        source: folder or hub id of the model before it was quantised.
        folder: where; it exists.
        device: where the model is quantised; the same as the learner's, for rounding to be the same.

    Raises:
        OSError: the model or its tokenizer cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    packed = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **nf4_options(device))
    config = packed.config
    del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(_plain_tensors(packed, plain), strict=False, assign=True)
    plain.tie_weights()
    plain.generation_config = packed.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def _plain_tensors(packed: Any, plain: Any) -> dict[str, Any]:
    """Return the weights of a packed model by name, as the plain model of the same config stores them."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    tensors = {}
    for name, parameter in packed.named_parameters():
        tensor = parameter.detach()
        if (quant_state := getattr(parameter, "quant_state", None)) is not None:
            tensor = dequantize_4bit(tensor, quant_state).float()
            # GPT-2 stores its weights transposed, and they are packed the other way round.
            if isinstance(plain.get_submodule(name.rpartition(".")[0]), Conv1D):
                tensor = tensor.t()
        tensors[name] = tensor.cpu().contiguous()
    tensors |= {name: buffer.cpu() for name, buffer in packed.named_buffers()}
    return tensors
