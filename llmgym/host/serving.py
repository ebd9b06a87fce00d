"""What is asked of a hosted model, and where it is: the records and protocols between a host and its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmgym.host.forward import PassResult
from llmgym.host.generation import Sampled
from llmgym.host.inputs import Candidates, PassRequest

__all__ = ["Answer", "GenerateRequest", "Place", "Placement", "Request", "Servable", "Served", "Shard", "answer"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model is served.

    Attributes:
        num_workers: processes that serve it, each with a copy; 0 serves it in this process.
        devices: for each process the devices of its copy, such as (("cuda:0",), ("cuda:1",)); empty for the CPU.
        find_unused_parameters: whether an update over several processes may leave parameters without a gradient;
            slower where it is not needed.
        timeout_seconds: longest that a call may take, of several processes.
    """

    num_workers: int = 0
    devices: tuple[tuple[str, ...], ...] = ()
    find_unused_parameters: bool = False
    timeout_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class Place:
    """Which of a model's processes this one is.

    Attributes:
        devices: of this process's copy of the model.
        worker_index: from 0 to num_workers - 1.
        num_workers: processes that update the model together; 1 is alone.
        find_unused_parameters: see `Placement`.
    """

    devices: tuple[str, ...] = ("cpu",)
    worker_index: int = 0
    num_workers: int = 1
    find_unused_parameters: bool = False


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Answers wanted; see `HostedModel.generate`."""

    contexts: Sequence[Any]
    generation: Mapping[str, Any]
    adapter: str | None = None
    minibatch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """One process's part of an update.

    Attributes:
        contexts: texts or token ids.
        candidates: for each context its candidates; None where none were given.
        indices: places of these contexts among all contexts of the update.
        data: what was given besides, by name; the same for every process, so `indices` picks a shard's part of it.
    """

    contexts: Sequence[Any]
    candidates: Candidates | None
    indices: tuple[int, ...]
    data: Mapping[str, Any] = field(default_factory=dict)


Request = PassRequest | GenerateRequest | Shard
Answer = Any
"""A list of `PassResult` or of lists of `Sampled`, one entry a context, or what an updater returned."""


class Served(Protocol):
    """A model as one process serves it."""

    def run(self, request: PassRequest) -> list[PassResult]:
        """Run module functions."""
        ...

    def generate(self, request: GenerateRequest) -> list[list[Sampled]]:
        """Generate answers."""
        ...

    def update(self, shard: Shard) -> Any:
        """Update the model, together with its other processes."""
        ...


class Servable(Protocol):
    """What a model is made from, in the process that serves it; it can be pickled."""

    def serve(self, place: Place) -> Served:
        """Load the model."""
        ...


def answer(served: Served, request: Request) -> Answer:
    """Let a served model answer a request."""
    if isinstance(request, PassRequest):
        return served.run(request)
    if isinstance(request, GenerateRequest):
        return served.generate(request)
    return served.update(request)
