"""How full weights reach vLLM's workers: handed over, through CUDA's shared memory, or through a file in memory.

The other end of the first and the last is `PolicyWorker`; that of the second is vLLM's own weight transfer engine.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from llmgym.sync.folders import memory_folder
from llmgym.sync.weights import write_weights
from llmgym.types import NamedTensors

__all__ = ["Transport", "pick_transport", "send_weights"]

Transport = Literal["hand", "ipc", "file"]

CHUNK_BYTES = 2**30
"""Weights of about this size are copied to every GPU at once, beside the learner and the engine."""

_logger = logging.getLogger(__name__)


def pick_transport(num_workers: int, *, on_gpu: bool) -> Transport:
    """Return how weights travel best.

    One worker is in this process: it takes the tensors as they are. Several have processes of their own: on GPUs of
    this machine they read the learner's memory, on CPUs a file.
    """
    if num_workers == 1:
        return "hand"
    return "ipc" if on_gpu else "file"


def send_weights(llm: Any, named_tensors: NamedTensors, transport: Transport) -> None:
    """Replace all weights of every worker.

    Args:
        llm: a `vllm.LLM`; for "ipc", with a weight transfer engine of that name.
        named_tensors: every weight by its Hugging Face name.
        transport: see `pick_transport`.
    """
    detached = [(name, tensor.detach()) for name, tensor in named_tensors]
    if transport == "hand":
        llm.collective_rpc("load_policy_tensors", args=(detached,))
    elif transport == "file" or not _send_by_ipc(llm, detached):
        _send_by_file(llm, detached)


def _send_by_file(llm: Any, named_tensors: NamedTensors) -> None:
    folder = memory_folder()
    try:
        file = str(Path(folder) / "weights.safetensors")
        write_weights(named_tensors, file)
        llm.collective_rpc("load_policy_weights", args=(file,))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _send_by_ipc(llm: Any, named_tensors: Sequence[tuple[str, Any]]) -> bool:
    """Let every worker read the weights from its own GPU's memory; return False if CUDA cannot share memory here.

    A worker reads what lies on its GPU only, so each chunk is copied to all of them first. See
    https://docs.vllm.ai/en/latest/training/weight_transfer/
    """
    import torch

    chunks = _chunks(named_tensors)
    try:
        update, held = _export(next(chunks))
    except RuntimeError as error:
        _logger.warning("CUDA cannot share memory between processes here (%s): weights go through a file.", error)
        return False
    llm.init_weight_transfer_engine({"init_info": {}})
    llm.start_weight_update()
    llm.update_weights({"update_info": update})
    for chunk in chunks:
        update, held = _export(chunk)
        llm.update_weights({"update_info": update})
    llm.finish_weight_update()
    del held
    torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
    return True


def _export(chunk: Sequence[tuple[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """Return what vLLM's workers are told of some weights, and the copies that must live until they have read them."""
    import torch
    from torch.multiprocessing.reductions import reduce_tensor

    held: list[Any] = []
    handles: list[dict[str, Any]] = [{} for _ in chunk]
    for gpu in range(torch.cuda.device_count()):
        uuid = str(torch.cuda.get_device_properties(gpu).uuid)
        for handle, (_, tensor) in zip(handles, chunk, strict=True):
            copy = tensor.to(f"cuda:{gpu}").contiguous()
            held.append(copy)
            _, handle[uuid] = reduce_tensor(copy)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(gpu)
    update = {
        "names": [name for name, _ in chunk],
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in chunk],
        "shapes": [list(tensor.shape) for _, tensor in chunk],
        "ipc_handles": handles,
    }
    return update, held


def _chunks(named_tensors: Sequence[tuple[str, Any]], chunk_bytes: int = CHUNK_BYTES) -> Iterator[list[Any]]:
    """Cut weights into lists of about one size; a larger tensor is a list of its own.

    >>> import torch
    >>> weights = [("a", torch.zeros(3)), ("b", torch.zeros(2)), ("c", torch.zeros(9))]
    >>> [[name for name, _ in chunk] for chunk in _chunks(weights, 20)]
    [['a', 'b'], ['c']]
    """
    chunk: list[Any] = []
    size = 0
    for name, tensor in named_tensors:
        more = tensor.numel() * tensor.element_size()
        if chunk and size + more > chunk_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, tensor))
        size += more
    if chunk:
        yield chunk
