"""The publisher: hands an engine what a learner has to give, its adapter or all of its weights. Knows no model."""

from __future__ import annotations

from typing import Protocol

from llmgym.sync.adapter import AdapterPublisher
from llmgym.sync.weights import publish_weights
from llmgym.types import Engine, NamedTensors

__all__ = ["Published", "Publisher"]


class Published(Protocol):
    """What a publisher takes from a learner, wherever its weights are."""

    @property
    def publishes_adapter(self) -> bool:
        """Whether an engine is given the adapter; else the whole weights, those of an adapter with them."""
        ...

    def named_weights(self) -> NamedTensors:
        """Yield every weight by its Hugging Face name."""
        ...

    def write_adapter(self, folder: str) -> None:
        """Write the adapter into a folder, in PEFT's format."""
        ...


class Publisher:
    """Swaps version after version into engines."""

    def __init__(self) -> None:
        self._adapters = AdapterPublisher()

    def publish(self, engine: Engine, published: Published, version: int) -> None:
        """Have an engine serve the weights as they are now.

        Raises:
            SyncError: the engine refuses them.
        """
        if published.publishes_adapter:
            self._adapters.publish(engine, published.write_adapter, version)
        else:
            publish_weights(engine, published.named_weights(), version)

    def close(self) -> None:
        """Remove the folder that the last adapter was published in; a second call does nothing."""
        self._adapters.close()
