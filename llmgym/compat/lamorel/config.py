"""Configuration files as Lamorel's users write them: YAML, overrides, and nodes whose entries are attributes.

Knows no key in particular. Nodes of OmegaConf and plain dictionaries are taken as well; neither OmegaConf nor Hydra is
imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from llmgym.errors import ConfigError, did_you_mean

__all__ = ["ConfigNode", "load_config", "plain"]

MISSING = "???"
"""Stands in a file for a value that an override must give."""

_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?)")


class ConfigNode(MutableMapping[str, Any]):
    """A mapping whose entries are attributes too, all the way down.

    >>> node = ConfigNode({"llm_args": {"model_path": "t5-small"}})
    >>> node.llm_args.model_path, "seed" in node.llm_args
    ('t5-small', False)
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_entries", {str(key): _node(value) for key, value in entries.items()})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, key: str) -> Any:
        entries: dict[str, Any] = object.__getattribute__(self, "_entries")
        if key not in entries:
            # Both at once: a node is read as a mapping and as an object.
            raise _MissingKeyError(
                f"Expected a key among {', '.join(entries) or 'none'}, found {key!r}.{did_you_mean(key, entries)}"
            )
        if entries[key] == MISSING:
            raise ConfigError(f"Expected a value for {key}, found ???. Give it on the command line: {key}=...")
        return entries[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._entries[key] = _node(value)

    def __delitem__(self, key: str) -> None:
        del self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __repr__(self) -> str:
        return f"ConfigNode({self._entries!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigNode, (self._entries,)


class _MissingKeyError(ConfigError, KeyError, AttributeError):
    """A key that a node does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> ConfigNode:
    """Read a YAML file, and apply overrides as a launcher would.

    Args:
        path: of the file.
        overrides: ``a.b=value`` each, the value as YAML writes it; a leading ``+`` is allowed. `sys.argv[1:]` will do.

    Raises:
        ConfigError: there is no such file, it is not YAML, or an override is not of that form.
    """
    import yaml

    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_loader())
    except OSError as error:
        raise ConfigError(f"Expected a YAML file at {path}, found none to read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"Expected {path} to be YAML, found a mistake: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"Expected {path} to hold keys and values, found {type(data).__name__}.")
    for override in overrides:
        _override(data, override)
    return ConfigNode(data)


def plain(config: Any) -> Any:
    """Return a node of any kind as dictionaries, lists and values; what is marked missing stays as it is.

    >>> plain(ConfigNode({"a": {"b": [1, 2]}}))
    {'a': {'b': [1, 2]}}
    """
    if isinstance(config, ConfigNode):
        return {key: plain(value) for key, value in config._entries.items()}
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [plain(value) for value in config]
    return config


def _node(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value, ConfigNode):
        return ConfigNode(value)
    return [_node(item) for item in value] if isinstance(value, list) else value


def _override(data: dict[str, Any], override: str) -> None:
    """Set one key of nested dictionaries."""
    import yaml

    key, equals, text = override.lstrip("+").partition("=")
    if not equals or not key or key.startswith("-"):
        raise ConfigError(f"Expected an override like lamorel_args.llm_args.seed=1, found {override!r}.")
    *parents, name = key.split(".")
    table = data
    for parent in parents:
        if not isinstance(table.get(parent), dict):
            table[parent] = {}
        table = table[parent]
    table[name] = yaml.load(text, Loader=_loader())


def _loader() -> Any:
    """Return a YAML loader that reads 1e-6 as a number, as YAML 1.2 and OmegaConf do."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^{_FLOAT.pattern}$"), list("-+0123456789."))
    return Loader
