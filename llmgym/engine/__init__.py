"""Who answers: engines that score candidates, choose among them and generate text. Knows no environment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from llmgym.engine.checks import check_engine
from llmgym.engine.policy_engine import PolicyEngine
from llmgym.engine.settings import Backend, EngineSettings
from llmgym.errors import EngineError, did_you_mean
from llmgym.types import Engine

__all__ = ["Backend", "EngineSettings", "check_engine", "load_engine"]


def load_engine(model: str, backend: Backend = "vllm", **settings: Any) -> Engine:
    """Start an engine on a model.

    Args:
        model: a folder with weights and tokenizer, or a hub id; not used by the scripted engine.
        backend: "vllm" (fast), "transformers" (the exact reference) or "scripted" (a double for tests).
        settings: fields of `EngineSettings`.

    Raises:
        EngineError: the backend or a setting is unknown, or the engine does not start.

    >>> with load_engine("", backend="scripted") as engine:
    ...     engine.choose(["Go"], [[" left", " right"]], temperature=0.0)[0].index
    0
    """
    known = [field.name for field in fields(EngineSettings)]
    for name in settings:
        if name not in known:
            raise EngineError(
                f"Expected a setting of an engine, found {name!r}.{did_you_mean(name, known)} "
                f"The settings are: {', '.join(known)}."
            )
    chosen = EngineSettings(**settings)
    check_engine(model, backend, chosen)
    if chosen.replicas > 1:
        from llmgym.engine.replica_backend import ReplicaBackend

        return PolicyEngine(ReplicaBackend(model, chosen))
    if backend == "vllm":
        from llmgym.engine.vllm_backend import VLLMBackend

        return PolicyEngine(VLLMBackend(model, chosen))
    if backend == "transformers":
        from llmgym.engine.transformers_backend import TransformersBackend

        return PolicyEngine(TransformersBackend(model, chosen))
    from llmgym.engine.scripted_engine import ScriptedEngine

    return ScriptedEngine(settings=chosen)
