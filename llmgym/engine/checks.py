"""Checks of what a caller sets, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from llmgym.engine.parallel import check_context, check_devices
from llmgym.engine.settings import Backend, EngineSettings
from llmgym.errors import EngineError, did_you_mean
from llmgym.types import Acting, How, Normalize, Tokenization

__all__ = ["check_acting", "check_engine", "check_generation", "check_scoring"]


def check_engine(model: str, backend: Backend, settings: EngineSettings) -> None:
    """Refuse an engine that cannot be, before anything is started.

    Args:
        model: what it is to serve; only its configuration is read.

    Raises:
        EngineError: there is no such backend, or it cannot do what is set with this model on this machine.
    """
    _check_name("a backend", backend, get_args(Backend))
    if backend == "vllm":
        if settings.load_in_4bit:
            raise EngineError(
                "Expected plain weights for vLLM, found load_in_4bit=True. Use backend='transformers', or leave it out "
                "and let the learner alone be of 4 bits: learner.load_in_4bit=true serves the plain weights it stands "
                "for."
            )
        _check_count("replicas", settings.replicas)
        check_devices(model, settings)
        check_context(model, settings.max_context_tokens)
        return
    for name in ("tensor_parallel_size", "replicas"):
        if getattr(settings, name) != 1:
            raise EngineError(
                f"Expected {name} of 1 with the backend {backend!r}, found {getattr(settings, name)}. Leave it out, or "
                "use backend='vllm'."
            )


def check_acting(acting: Acting) -> None:
    """Refuse a way to act that means nothing.

    Raises:
        EngineError: names the field.
    """
    _check_name("acting.how", acting.how, get_args(How))
    _check_name("acting.normalize", acting.normalize, ("sum", "mean"))
    _check_temperature("acting.temperature", acting.temperature)
    _check_count("acting.max_new_tokens", acting.max_new_tokens)


def check_scoring(normalize: Normalize, tokenization: Tokenization) -> None:
    """Refuse unknown names.

    Raises:
        EngineError: names the argument.
    """
    _check_name("normalize", normalize, get_args(Normalize))
    _check_name("tokenization", tokenization, get_args(Tokenization))


def check_generation(max_new_tokens: int, temperature: float, n: int) -> None:
    """Refuse an answer that cannot be.

    Raises:
        EngineError: names the argument.
    """
    _check_count("max_new_tokens", max_new_tokens)
    _check_count("n", n)
    _check_temperature("a temperature", temperature)


def _check_name(what: str, found: str, known: Sequence[str]) -> None:
    if found not in known:
        raise EngineError(f"Expected {what} among {', '.join(known)}, found {found!r}.{did_you_mean(found, known)}")


def _check_count(what: str, found: int) -> None:
    if found < 1:
        raise EngineError(f"Expected {what} of 1 or more, found {found}.")


def _check_temperature(what: str, found: float) -> None:
    if not 0 <= found < float("inf"):
        raise EngineError(f"Expected {what} of 0 or more, found {found}.")
