"""Calls of a script's processes, and how a host answers those that come together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmgym.errors import HostError
from llmgym.host.host import Host
from llmgym.host.inputs import Candidates, PassOptions
from llmgym.host.serving import Shard
from llmgym.host.sharding import update_indices

__all__ = ["Call", "CloseCall", "GenerateCall", "PassCall", "UpdateCall", "answer_calls"]


@dataclass(frozen=True, slots=True)
class PassCall:
    """Module functions wanted; see `Caller.custom_module_fns`."""

    keys: tuple[str, ...]
    contexts: Sequence[Any]
    candidates: Candidates | None
    options: PassOptions
    llm: str | None
    with_gradients: bool


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """Texts wanted; see `Caller.generate`."""

    contexts: Sequence[Any]
    generation: Mapping[str, Any]
    adapter: str | None
    llm: str | None


@dataclass(frozen=True, slots=True)
class UpdateCall:
    """An update; see `Caller.update`."""

    contexts: Sequence[Any]
    candidates: Candidates | None
    data: Mapping[str, Any]
    llm: str | None


@dataclass(frozen=True, slots=True)
class CloseCall:
    """The end of one model, or of all."""

    llm: str | None


Call = PassCall | GenerateCall | UpdateCall | CloseCall


def answer_calls(host: Host, calls: Sequence[Call]) -> list[Any]:
    """Answer calls that came together, one of each process.

    Raises:
        HostError: they are not of one kind, or an update cannot be divided; or as the host raises.
    """
    first = calls[0]
    if any(type(call) is not type(first) or call.llm != first.llm for call in calls):
        kinds = ", ".join(f"{type(call).__name__.removesuffix('Call').lower()} of {call.llm}" for call in calls)
        raise HostError(f"Expected the same call from all {len(calls)} processes of the script, found: {kinds}.")
    if isinstance(first, CloseCall):
        host.close(first.llm)
        return [None] * len(calls)
    if isinstance(first, UpdateCall):
        updates = [call for call in calls if isinstance(call, UpdateCall)]
        return _update(host, updates)
    return [_answer(host, call, is_alone=len(calls) == 1) for call in calls]


def _answer(host: Host, call: Call, *, is_alone: bool) -> Any:
    """Answer a call that changes nothing."""
    if isinstance(call, GenerateCall):
        return host.generate(call.contexts, call.generation, model=call.llm, adapter=call.adapter)
    assert isinstance(call, PassCall), "updates and ends are answered elsewhere"
    # A graph cannot be sent to another process.
    with_gradients = call.with_gradients and is_alone
    return host.run_modules(
        call.keys, call.contexts, call.candidates, call.options, model=call.llm, with_gradients=with_gradients
    )


def _update(host: Host, calls: Sequence[UpdateCall]) -> list[list[Any]]:
    """Update on the contexts of several calls.

    Where the model has fewer processes than there are calls, each takes whole calls one after another; where it has
    more, each call is divided among as many of them.
    """
    num_processes, llm = host.num_processes(calls[0].llm), calls[0].llm
    if len(calls) == 1:
        return [host.update(calls[0].contexts, calls[0].candidates, calls[0].data, model=llm)]
    few, many = sorted((num_processes, len(calls)))
    if many % few:
        raise HostError(
            f"Expected processes of the model and of the script of which one number divides the other, found "
            f"{num_processes} and {len(calls)}. Change n_llm_processes or n_rl_processes."
        )
    if len(calls) >= num_processes:
        size = len(calls) // num_processes
        rounds = [
            host.update_shards([_shards(calls[first + turn], 1)[0] for first in range(0, len(calls), size)], model=llm)
            for turn in range(size)
        ]
        return [[rounds[index % size][index // size]] for index in range(len(calls))]
    size = num_processes // len(calls)
    answers = host.update_shards([shard for call in calls for shard in _shards(call, size)], model=llm)
    return [answers[index * size : (index + 1) * size] for index in range(len(calls))]


def _shards(call: UpdateCall, num_shards: int) -> list[Shard]:
    """Divide a call's contexts."""
    return [
        Shard(
            [call.contexts[index] for index in indices],
            None if call.candidates is None else [call.candidates[index] for index in indices],
            indices,
            call.data,
        )
        for indices in update_indices(len(call.contexts), num_shards)
    ]
