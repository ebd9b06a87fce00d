"""The node `lamorel_args`, of Lamorel's main branch or of its branch v0.3, as settings. Knows neither torch nor models.

Keys that Lamorel demands but its own examples leave out have defaults. Keys that set up its launcher are taken and not
used: there is no launcher.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmgym.compat.lamorel.config import plain
from llmgym.errors import ConfigError, did_you_mean

__all__ = ["CallerSettings", "LlmSettings", "read_settings"]

MAIN_LLM = "main_llm"
"""Name of the one model of a configuration of the main branch."""
DEFAULT_TIMEOUT_SECONDS = 1800.0

_MAIN_KEYS = frozenset(
    {"log_level", "gloo_timeout", "allow_subgraph_use_whith_gradient", "distributed_setup_args", "accelerate_args"}
    | {"llm_args"}
)
_V03_KEYS = frozenset({"log_level", "distributed_setup_args", "llm_configs", "allow_subgraph_use_whith_gradient"})
_LLM_KEYS = frozenset(
    {"model_type", "model_path", "pretrained", "minibatch_size", "pre_encode_inputs", "load_in_4bit", "seed"}
    | {"pad_token_id", "constructor_kwargs", "synchronize_gpus_after_scoring", "empty_cuda_cache_after_scoring"}
)
_PARALLELISM_KEYS = frozenset(
    {"use_gpu", "model_parallelism_size", "synchronize_gpus_after_scoring", "empty_cuda_cache_after_scoring"}
)
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """One model.

    Attributes:
        model_type: "causal" or "seq2seq".
        model_path: a folder or a hub id.
        pretrained: whether to load weights.
        minibatch_size: rows of one forward pass.
        pre_encode_inputs: whether contexts are encoded once.
        load_in_4bit: NF4 by bitsandbytes.
        seed: of random weights, heads and samples.
        pad_token_id: fills rows up; None for the tokenizer's padding, or end of sequence.
        constructor_kwargs: further options of `from_pretrained`.
        num_processes: that serve the model.
        use_gpu: whether each process takes GPUs; those of `devices` where given, else the next free ones.
        gpus_per_process: over which a copy's layers are spread.
        devices: for each process "cpu" or numbers of GPUs; empty where they are not given.
        find_unused_parameters: of an update over several processes.
        node: the model's part of the configuration, as it was written.
    """

    model_type: Literal["causal", "seq2seq"]
    model_path: str
    pretrained: bool = True
    minibatch_size: int = 192
    pre_encode_inputs: bool = True
    load_in_4bit: bool = False
    seed: int = 42
    pad_token_id: int | None = None
    constructor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_processes: int = 1
    use_gpu: bool = False
    gpus_per_process: int = 1
    devices: tuple[tuple[int, ...] | Literal["cpu"], ...] = ()
    find_unused_parameters: bool = False
    node: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallerSettings:
    """All of `lamorel_args`.

    Attributes:
        is_v03: whether it is written for v0.3, whose hooks are handed a little more.
        llms: name to model.
        num_rl_processes: how many copies of the script call the models together.
        timeout_seconds: longest that a call may take.
        log_level: of the logger "llmgym.compat.lamorel".
    """

    is_v03: bool
    llms: Mapping[str, LlmSettings]
    num_rl_processes: int = 1
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    log_level: int = logging.INFO


def read_settings(config: Any) -> CallerSettings:
    """Read the node `lamorel_args`.

    Args:
        config: a `ConfigNode`, a node of OmegaConf, or a dictionary.

    Raises:
        ConfigError: a key is unknown or missing, or a value cannot be.
    """
    table = plain(config)
    if not isinstance(table, dict):
        raise ConfigError(f"Expected lamorel_args to be a section, found {type(config).__name__}.")
    if "llm_args" not in table and "llm_configs" not in table:
        hint = " Pass config.lamorel_args." if "lamorel_args" in table else ""
        raise ConfigError(f"Expected lamorel_args with llm_args or llm_configs, found {', '.join(table)}.{hint}")
    is_v03 = "llm_configs" in table
    _check_keys(table, _V03_KEYS if is_v03 else _MAIN_KEYS, "lamorel_args")
    level = str(table.get("log_level") or "info").lower()
    if level not in _LOG_LEVELS:
        raise ConfigError(f"Expected log_level among {', '.join(_LOG_LEVELS)}, found {level!r}.")
    setup = table.get("distributed_setup_args") or {}
    timeout = setup.get("timeout") if is_v03 else table.get("gloo_timeout")
    return CallerSettings(
        is_v03=is_v03,
        llms=_v03_llms(table, setup) if is_v03 else {MAIN_LLM: _main_llm(table, setup)},
        num_rl_processes=_count(setup, "n_rl_processes", "distributed_setup_args"),
        timeout_seconds=float(timeout or DEFAULT_TIMEOUT_SECONDS),
        log_level=getattr(logging, level.upper()),
    )


def _main_llm(table: Mapping[str, Any], setup: Mapping[str, Any]) -> LlmSettings:
    """Read the model of the main branch."""
    _check_keys(setup, {"n_rl_processes", "n_llm_processes"}, "distributed_setup_args")
    node = table["llm_args"] or {}
    parallelism = node.get("parallelism") or {}
    _check_keys(parallelism, _PARALLELISM_KEYS, "llm_args.parallelism")
    return _llm(
        {key: value for key, value in node.items() if key != "parallelism"},
        "llm_args",
        node=node,
        num_processes=_count(setup, "n_llm_processes", "distributed_setup_args"),
        use_gpu=_flag(parallelism, "use_gpu", "llm_args.parallelism", default=False),
        gpus_per_process=_count(parallelism, "model_parallelism_size", "llm_args.parallelism"),
        find_unused_parameters=bool(table.get("allow_subgraph_use_whith_gradient")),
    )


def _v03_llms(table: Mapping[str, Any], setup: Mapping[str, Any]) -> dict[str, LlmSettings]:
    """Read the models of v0.3."""
    known = {"backend", "init_timeout", "timeout", "multinode", "multinode_args", "n_rl_processes", "llm_processes"}
    _check_keys(setup, known, "distributed_setup_args")
    if setup.get("multinode"):
        raise ConfigError("Expected multinode: false, found true. A Caller serves its models on one machine.")
    nodes, processes = table["llm_configs"] or {}, setup.get("llm_processes") or {}
    _check_keys(processes, set(nodes), "distributed_setup_args.llm_processes")
    if not nodes:
        raise ConfigError("Expected at least one model in llm_configs, found none. Name one, such as main_llm.")
    return {name: _v03_llm(name, node or {}, processes.get(name) or {}) for name, node in nodes.items()}


def _v03_llm(name: str, node: Mapping[str, Any], process: Mapping[str, Any]) -> LlmSettings:
    """Read one model of v0.3."""
    where = f"llm_processes.{name}"
    _check_keys(process, {"n_processes", "devices_per_process", "ddp_kwargs"}, where)
    handler = node.get("handler", "hf_llm")
    if handler != "hf_llm":
        raise ConfigError(
            f"Expected llm_configs.{name}.handler to be hf_llm, found {handler!r}. Other handlers are not served."
        )
    ddp = process.get("ddp_kwargs") or {}
    _check_keys(ddp, {"find_unused_parameters"}, f"{where}.ddp_kwargs")
    num_processes = _count(process, "n_processes", where)
    listed = process.get("devices_per_process") or []
    if listed and len(listed) != num_processes:
        raise ConfigError(
            f"Expected {where}.devices_per_process with an entry for each of {num_processes} processes, found "
            f"{len(listed)}."
        )
    devices: list[tuple[int, ...] | Literal["cpu"]] = []
    for entry in listed:
        if entry != "cpu" and not (isinstance(entry, list) and entry and all(type(gpu) is int for gpu in entry)):
            raise ConfigError(
                f"Expected {where}.devices_per_process of 'cpu' or lists of GPU numbers, found {entry!r}."
            )
        devices.append("cpu" if entry == "cpu" else tuple(entry))
    unused = _flag(ddp, "find_unused_parameters", f"{where}.ddp_kwargs", default=False)
    return _llm(
        {key: value for key, value in node.items() if key not in ("handler", "allow_subgraph_use_whith_gradient")},
        f"llm_configs.{name}",
        node=node,
        num_processes=num_processes,
        use_gpu=any(entry != "cpu" for entry in devices),
        devices=tuple(devices),
        find_unused_parameters=unused or bool(node.get("allow_subgraph_use_whith_gradient")),
    )


def _llm(given: Mapping[str, Any], where: str, **placed: Any) -> LlmSettings:
    """Read what both branches call the same."""
    _check_keys(given, _LLM_KEYS, where)
    model_type, model_path = given.get("model_type"), given.get("model_path")
    if model_type not in ("causal", "seq2seq"):
        raise ConfigError(f"Expected {where}.model_type to be causal or seq2seq, found {model_type!r}.")
    if not isinstance(model_path, str) or not model_path:
        raise ConfigError(f"Expected {where}.model_path to be a folder or a hub id, found {model_path!r}.")
    pad = given.get("pad_token_id")
    if pad is not None and type(pad) is not int:
        raise ConfigError(f"Expected {where}.pad_token_id to be a token id, found {pad!r}.")
    return LlmSettings(
        model_type=model_type,
        model_path=model_path,
        pretrained=_flag(given, "pretrained", where, default=True),
        minibatch_size=_count(given, "minibatch_size", where, default=192),
        pre_encode_inputs=_flag(given, "pre_encode_inputs", where, default=True),
        load_in_4bit=_flag(given, "load_in_4bit", where, default=False),
        seed=int(given.get("seed") or 42),
        pad_token_id=pad,
        constructor_kwargs=given.get("constructor_kwargs") or {},
        **placed,
    )


def _check_keys(table: Any, known: set[str] | frozenset[str], where: str) -> None:
    if not isinstance(table, Mapping):
        raise ConfigError(f"Expected {where} to be a section, found {table!r}.")
    for key in table:
        if key not in known:
            raise ConfigError(
                f"Expected keys of {where} among {', '.join(sorted(known)) or 'none'}, found {key!r}."
                f"{did_you_mean(str(key), known)}"
            )


def _count(table: Mapping[str, Any], key: str, where: str, default: int = 1) -> int:
    value = default if table.get(key) is None else table[key]
    if type(value) is not int or value < 1:
        raise ConfigError(f"Expected {where}.{key} to be a whole number of at least 1, found {value!r}.")
    return value


def _flag(table: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = default if table.get(key) is None else table[key]
    if not isinstance(value, bool):
        raise ConfigError(f"Expected {where}.{key} to be true or false, found {value!r}.")
    return value
