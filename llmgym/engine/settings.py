"""What can be set about an engine. Knows no backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Backend", "EngineSettings"]

Backend = Literal["vllm", "transformers", "scripted"]


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs; what it serves is given apart.

    Attributes:
        dtype: of weights and activations: "auto" is float32 on a CPU and the model's own elsewhere.
        max_context_tokens: longest prompt plus answer, in tokens; 0 takes the model's own limit.
        kv_cache_gib: memory for the prefix cache, in GiB; more keeps more histories. Used by vLLM on a CPU.
        gpu_memory_fraction: share of a GPU's memory that vLLM may take.
        tensor_parallel_size: how many devices (or, on a CPU, processes) share the model; vLLM only.
        max_lora_rank: largest rank of an adapter that will be loaded; 0 serves no adapters.
        max_batch_tokens: tokens computed in one forward pass at most; more is faster and takes more memory.
        max_batch_requests: requests in one forward pass at most.
        seed: of what the engine draws when a call gives no seed.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_context_tokens: int = 0
    kv_cache_gib: float = 1.0
    gpu_memory_fraction: float = 0.5
    tensor_parallel_size: int = 1
    max_lora_rank: int = 0
    max_batch_tokens: int = 8192
    max_batch_requests: int = 256
    seed: int = 0
