"""The protocols by name, and their tasks. Loads only the protocol that is asked for."""

from __future__ import annotations

import importlib

from llmgym.errors import ConfigError, did_you_mean
from llmgym.run.protocols.task import Protocol, ProtocolOptions, Task

__all__ = ["PROTOCOLS", "find_protocol", "tasks_of"]

PROTOCOLS = {
    "glam": ("glam", "PROTOCOL"),
    "balrog": ("balrog", "BALROG"),
    "balrog-scored": ("balrog", "BALROG_SCORED"),
    "llmgym": ("own", "PROTOCOL"),
}
"""What is said after --protocol, to the file and the name that it is found under there."""


def find_protocol(name: str) -> Protocol:
    """Return a protocol.

    Raises:
        ConfigError: there is none of that name; the message has the nearest.
    """
    if name not in PROTOCOLS:
        raise ConfigError(
            f"Expected a protocol ({', '.join(PROTOCOLS)}), found {name!r}.{did_you_mean(name, PROTOCOLS)}"
        )
    file, attribute = PROTOCOLS[name]
    found: Protocol = getattr(importlib.import_module(f"llmgym.run.protocols.{file}"), attribute)
    return found


def tasks_of(protocol: Protocol, options: ProtocolOptions) -> tuple[Task, ...]:
    """Return the tasks of a protocol under options, those that were asked for by name or all.

    Raises:
        ConfigError: the options do not fit the protocol, or it has no such task.
    """
    tasks = protocol.make_tasks(options)
    known = [task.name for task in tasks]
    for name in options.tasks:
        if name not in known:
            raise ConfigError(
                f"Expected a task of --protocol {protocol.name} ({', '.join(known)}), found {name!r}."
                f"{did_you_mean(name, known)}"
            )
    return tuple(task for task in tasks if not options.tasks or task.name in options.tasks)
