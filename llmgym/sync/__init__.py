"""From the learner to the engine: an adapter or full weights, and the check that both hold the same policy then."""

from llmgym.sync.adapter import AdapterPublisher
from llmgym.sync.canary import Canary, check_canary, random_canary
from llmgym.sync.publisher import Published, Publisher
from llmgym.sync.weights import publish_weights

__all__ = [
    "AdapterPublisher",
    "Canary",
    "Published",
    "Publisher",
    "check_canary",
    "publish_weights",
    "random_canary",
]
