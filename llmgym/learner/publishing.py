"""Publishing: what of a policy is sent to an engine, its adapter or all of its weights. Knows no transport."""

from __future__ import annotations

from llmgym.learner.policy import Policy
from llmgym.sync import AdapterPublisher, publish_weights
from llmgym.types import Engine

__all__ = ["publish_policy"]


def publish_policy(policy: Policy, engine: Engine, publisher: AdapterPublisher, version: int) -> None:
    """Have an engine serve a policy: its adapter, or all weights where there is none or engines do not know its kind.

    Args:
        publisher: keeps the folder of the adapter that is served.
        version: of the policy.

    Raises:
        SyncError: the engine refuses it.
    """
    if policy.lora is None or policy.lora.dora:
        publish_weights(engine, policy.named_weights(), version)
    else:
        publisher.publish(engine, policy.write_adapter, version)
