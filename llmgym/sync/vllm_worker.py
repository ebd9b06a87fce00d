"""The engine's side of a full-weight swap: what runs inside every vLLM worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["PolicyWorker"]


class PolicyWorker:
    """Methods added to vLLM's worker class (`worker_extension_cls`); called by name through `collective_rpc`."""

    model_runner: Any

    def load_policy_weights(self, path: str) -> None:
        """Replace the worker's weights (its shard of them) by those of a safetensors file.

        Args:
            path: names are the Hugging Face model's own.
        """
        from safetensors import safe_open

        def tensors() -> Iterator[tuple[str, Any]]:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                    yield name, file.get_tensor(name)

        self.model_runner.reload_weights(weights_iterator=tensors())
        _repack_tied_head(self.model_runner.get_model())


def _repack_tied_head(model: Any) -> None:
    """Rebuild the packed copy of an output head that shares the input embedding's weight, on a CPU.

    Reloading fills the embedding in place, and leaves the packed copy from which a CPU multiplies as it was: without
    this the engine goes on answering with the old head, silently (seen in vLLM 0.32).
    """
    head = getattr(model, "lm_head", None)
    weight = getattr(head, "weight", None)
    if weight is None or weight.device.type != "cpu":
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
