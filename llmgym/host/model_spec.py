"""What a hosted model is made of: settings, module functions, an initialiser, an updater."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from llmgym.errors import HostError
from llmgym.host.distribution import distribute, seed_process
from llmgym.host.forward import PassResult
from llmgym.host.generation import Sampled
from llmgym.host.hosted_model import FunctionSpec, HostedModel
from llmgym.host.inputs import PassRequest
from llmgym.host.loading import ModelSettings
from llmgym.host.serving import GenerateRequest, Place, Shard

__all__ = ["ModelSpec", "Updater"]


class Updater(Protocol):
    """Who updates a model, with the whole graph in hand.

    It owns the optimizer. Where several processes serve the model, each has an updater of its own, sees a shard, and
    must take as many backward passes as the others.
    """

    def update(self, module: nn.Module, shard: Shard) -> Any:
        """Update the model.

        Args:
            module: called like `HostedModel.forward`, it averages gradients over the processes; the `HostedModel`
                itself is `module.module`.
            shard: this process's part of the contexts.

        Returns:
            anything that can be pickled.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to host.

    Where worker processes serve it, all of this is pickled: functions, initialiser and updater are defined at the top
    level of a module, or of a script whose calls stand under ``if __name__ == "__main__":``.

    Attributes:
        settings: which model, and how it is loaded.
        functions: key to module function, or to what makes one from the model's config.
        initialise: changes the loaded model before it is distributed: freezes, adds adapters, loads weights.
        updater: who updates it; None for a model that only answers.
    """

    settings: ModelSettings
    functions: Mapping[str, FunctionSpec] = field(default_factory=dict)
    initialise: Callable[[HostedModel], None] | None = None
    updater: Updater | None = None

    def serve(self, place: Place) -> ServedModel:
        """Load the model; see `Servable`."""
        hosted = HostedModel.load(self.settings, self.functions, devices=place.devices)
        if self.initialise is not None:
            self.initialise(hosted)
        hosted.language_model.eval()
        seed_process(self.settings.seed, place)
        return ServedModel(hosted, self.updater, place)


class ServedModel:
    """A hosted model with its updater, in one process."""

    def __init__(self, hosted: HostedModel, updater: Updater | None, place: Place) -> None:
        self.hosted = hosted
        self._updater = updater
        self._trained = distribute(hosted, place) if updater is not None else None

    def run(self, request: PassRequest) -> list[PassResult]:
        """Run module functions; see `Served`."""
        return self.hosted.run_modules(
            request.keys, request.contexts, request.candidates, request.options, with_gradients=request.with_gradients
        )

    def generate(self, request: GenerateRequest) -> list[list[Sampled]]:
        """Generate answers; see `Served`."""
        return self.hosted.generate(
            request.contexts, request.generation, adapter=request.adapter, minibatch_size=request.minibatch_size
        )

    def update(self, shard: Shard) -> Any:
        """Update the model.

        Raises:
            HostError: it has no updater.
        """
        if self._updater is None or self._trained is None:
            raise HostError("Expected a model with an updater, found none. Give ModelSpec(updater=...).")
        return self._updater.update(self._trained, shard)
