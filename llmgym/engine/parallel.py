"""Several devices: which sizes a model can be cut into, and how this machine's cores and GPUs are dealt out.

Knows nothing of engines; reads a model's configuration only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llmgym.engine.settings import EngineSettings
from llmgym.errors import EngineError

__all__ = [
    "changed_environment",
    "check_devices",
    "check_shape",
    "core_shares",
    "gpu_shares",
    "omp_binding",
    "own_dtype",
    "possible_sizes",
    "visible_gpus",
]

CPU_HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""What vLLM's attention on a CPU is built for."""

VOCABULARY_UNIT = 64
"""vLLM pads a vocabulary to a multiple of this many tokens before it cuts it."""


def check_shape(model: str, tensor_parallel_size: int, *, on_gpu: bool) -> None:
    """Refuse a model that vLLM cannot cut into so many parts, or whose heads it cannot run on a CPU.

    Reads config.json only. A model without a configuration that transformers can read is let pass: vLLM says more
    about what it cannot load.

    Args:
        model: a folder or a hub id.
        tensor_parallel_size: how many parts.
        on_gpu: whether it will run on GPUs.

    Raises:
        EngineError: names the sizes, or the widths, that will do.
    """
    config = _read_config(model)
    if config is None:
        return
    possible = possible_sizes(config)
    if tensor_parallel_size not in possible:
        raise EngineError(
            f"Expected tensor_parallel_size to divide the model {model!r} ({_parts(config)}), found "
            f"{tensor_parallel_size}. Set it to {_list(possible)}."
        )
    width = _head_width(config)
    if width and not on_gpu and width not in CPU_HEAD_WIDTHS:
        raise EngineError(
            f"Expected attention heads of a width that vLLM runs on a CPU ({_list(CPU_HEAD_WIDTHS)}), but those of "
            f"{model!r} are {width} wide. Take another model, a GPU, or backend='transformers'."
        )


def check_context(model: str, max_context_tokens: int) -> None:
    """Refuse a longer context than the model was made for.

    Args:
        model: a folder or a hub id.
        max_context_tokens: what is asked for; 0 for the model's own limit.

    Raises:
        EngineError: names the limit.
    """
    limit = getattr(_read_config(model), "max_position_embeddings", None) or max_context_tokens
    if max_context_tokens > limit:
        raise EngineError(
            f"Expected max_context_tokens of at most {limit}, for which the model {model!r} was made, found "
            f"{max_context_tokens}. Lower it, or take a model with a longer context."
        )


def check_devices(model: str, settings: EngineSettings) -> None:
    """Refuse what this machine's devices cannot do with a model; see `check_shape` and `gpu_shares`."""
    import torch

    on_gpu = torch.cuda.is_available()
    check_shape(model, settings.tensor_parallel_size, on_gpu=on_gpu)
    if on_gpu:
        gpu_shares(settings.replicas, settings.tensor_parallel_size, visible_gpus())


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def possible_sizes(config: Any) -> list[int]:
    """Return every number of parts that a model can be cut into.

    Heads, feed-forward layers and the padded vocabulary are cut into equal parts. Key-value heads are cut too, or
    copied to several parts where there are fewer of them.

    Args:
        config: a transformers configuration of the language model.

    >>> from types import SimpleNamespace
    >>> shape = dict(num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536, vocab_size=49152)
    >>> possible_sizes(SimpleNamespace(**shape))
    [1, 3]
    """
    num_heads = getattr(config, "num_attention_heads", None) or 1
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    vocabulary = -(-(getattr(config, "vocab_size", None) or 0) // VOCABULARY_UNIT) * VOCABULARY_UNIT
    cut = (num_heads, getattr(config, "intermediate_size", None) or 0, vocabulary)
    return [
        size
        for size in range(1, num_heads + 1)
        if not any(count % size for count in cut) and (num_kv_heads % size == 0 or size % num_kv_heads == 0)
    ]


def own_dtype(model: str) -> str:
    """Return the dtype that a model's configuration names, or "auto" if it names none."""
    config = _read_config(model)
    dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return str(dtype).removeprefix("torch.") if dtype else "auto"


def core_shares(num_shares: int, cores: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """Deal the cores that this process may use out, in equal shares of neighbours.

    Where there are fewer cores than shares, several shares have the same core.

    Args:
        cores: their numbers; those that this process may use, by default.

    >>> core_shares(2, [0, 1, 2, 3, 4])
    [(0, 1), (2, 3)]
    >>> core_shares(3, [4, 5])
    [(4,), (5,), (4,)]
    """
    cores = sorted(_allowed_cores() if cores is None else cores)
    if len(cores) < num_shares:
        return [(cores[index % len(cores)],) for index in range(num_shares)]
    size = len(cores) // num_shares
    return [tuple(cores[index * size : (index + 1) * size]) for index in range(num_shares)]


def gpu_shares(num_shares: int, size: int, gpus: Sequence[str]) -> list[tuple[str, ...]]:
    """Deal GPUs out, some to each share.

    Args:
        size: GPUs a share.
        gpus: their names, as CUDA_VISIBLE_DEVICES has them.

    Raises:
        EngineError: there are too few.

    >>> gpu_shares(2, 2, ["0", "1", "2", "3"])
    [('0', '1'), ('2', '3')]
    """
    if len(gpus) < num_shares * size:
        raise EngineError(
            f"Expected {num_shares * size} GPUs for replicas={num_shares} of tensor_parallel_size={size}, found "
            f"{len(gpus)}. Lower one of them."
        )
    return [tuple(gpus[index * size : (index + 1) * size]) for index in range(num_shares)]


def omp_binding(num_workers: int) -> str:
    """Return which cores each worker of vLLM computes on, as VLLM_CPU_OMP_THREADS_BIND has it.

    vLLM's own choice is one NUMA node a worker, and it refuses to start where there are fewer.
    """
    return "|".join(",".join(map(str, share)) for share in core_shares(num_workers))


@contextmanager
def changed_environment(changes: dict[str, str]) -> Iterator[None]:
    """Set environment variables while processes are started that inherit them."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _read_config(model: str) -> Any:
    """Return the configuration of the language model, or None if transformers cannot read one."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model).get_text_config()
    except (OSError, ValueError, KeyError):
        return None


def _allowed_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return list(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _head_width(config: Any) -> int:
    """Return how wide an attention head is; 0 if the configuration does not say."""
    width = getattr(config, "head_dim", None)
    if width:
        return int(width)
    num_heads, hidden_size = getattr(config, "num_attention_heads", 0), getattr(config, "hidden_size", 0)
    return hidden_size // num_heads if num_heads and hidden_size else 0


def _parts(config: Any) -> str:
    """Say what of a model is cut."""
    names = {
        "num_attention_heads": "attention heads",
        "num_key_value_heads": "key-value heads",
        "intermediate_size": "feed-forward units",
        "vocab_size": "tokens",
    }
    counts = [(getattr(config, name, None), what) for name, what in names.items()]
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _list(numbers: Sequence[int]) -> str:
    """Write numbers out.

    >>> _list([1, 2, 4])
    '1, 2 or 4'
    """
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
