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
        kv_cache_gib: memory for the prefix cache, in GiB; more keeps more histories. Used by
            transformers, and by vLLM on a CPU.
        gpu_memory_fraction: share of a GPU's memory that vLLM may take.
        shares_gpu: whether the learner works on the engine's GPUs: while it does, the engine moves its weights out and
            frees its cache. Then gpu_memory_fraction may be large. vLLM only.
        tensor_parallel_size: how many devices (or, on a CPU, processes) share the model; vLLM only.
        replicas: how many engines answer as one, each in a process and on devices of its own; vLLM only. All else that
            is set here holds for each of them.
        max_lora_rank: largest rank of an adapter that will be loaded; 0 serves no adapters.
        max_batch_tokens: tokens computed in one forward pass at most; more is faster and takes more memory.
        max_batch_requests: requests in one forward pass at most.
        num_adapters: adapters served at once, by name.
        reads_special_tokens: whether "<|im_end|>" and the like, inside a text, become the token of that name; off, no
            text of an environment can end a turn or begin another's.
        load_in_4bit: pack the weights into 4 bits (NF4) by bitsandbytes: far less memory, and
            slower; transformers only, on a CPU or a GPU.
        seed: of what is drawn without a seed of its own.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_context_tokens: int = 0
    kv_cache_gib: float = 1.0
    gpu_memory_fraction: float = 0.5
    shares_gpu: bool = False
    tensor_parallel_size: int = 1
    replicas: int = 1
    max_lora_rank: int = 0
    max_batch_tokens: int = 8192
    max_batch_requests: int = 256
    num_adapters: int = 1
    reads_special_tokens: bool = False
    load_in_4bit: bool = False
    seed: int = 0
