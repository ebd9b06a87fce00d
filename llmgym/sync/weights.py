"""Full weights: hand every weight of the learner to the engine, and the file they travel in. Knows no engine."""

from __future__ import annotations

from llmgym.errors import LLMGymError, SyncError
from llmgym.types import Engine, NamedTensors

__all__ = ["publish_weights", "write_weights"]


def publish_weights(engine: Engine, named_tensors: NamedTensors, version: int) -> None:
    """Replace all weights of the engine.

    Args:
        engine: who takes them.
        named_tensors: every weight by its Hugging Face name.
        version: policy version of these weights.

    Raises:
        SyncError: the engine refuses them.
    """
    try:
        engine.load_weights(named_tensors, version)
    except LLMGymError as error:
        raise SyncError(
            f"Expected the engine to take the weights of policy version {version}, but it refused: {error} "
            "Do not go on with this run: the engine may hold part of them."
        ) from error


def write_weights(named_tensors: NamedTensors, file: str) -> None:
    """Write weights, wherever they are, into a safetensors file.

    Args:
        named_tensors: every weight by its Hugging Face name.
        file: where to; its folder is there.
    """
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous() for name, tensor in named_tensors}, file)
