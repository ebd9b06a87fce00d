"""Lamorel's YAML: read, completed by defaults, and refused in one line."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmgym.compat.lamorel import BaseUpdater, Caller, ConfigNode, load_config
from llmgym.compat.lamorel.settings import read_settings
from llmgym.errors import ConfigError, LLMGymError

YAML = """
lamorel_args:
  log_level: debug
  gloo_timeout: 60
  distributed_setup_args:
    n_rl_processes: 1
    n_llm_processes: 3
  llm_args:
    model_type: seq2seq
    model_path: t5-small
    pretrained: true
    minibatch_size: 192
    pre_encode_inputs: true
    parallelism:
      use_gpu: true
      model_parallelism_size: 2
rl_script_args:
  path: ???
  lr: 1e-6
  gradient_minibatch_size:
  action_space: [ "turn_left", "turn_right" ]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(YAML, encoding="utf-8")
    return tmp_path / "config.yaml"


def test_a_file_is_read_with_its_overrides(file: Path) -> None:
    config = load_config(
        file, ["rl_script_args.path=main.py", "lamorel_args.llm_args.minibatch_size=8", "+extra.a=1.5"]
    )
    assert config.rl_script_args.path == "main.py"
    assert config.rl_script_args.lr == 1e-6
    assert config.rl_script_args.gradient_minibatch_size is None
    assert config["rl_script_args"]["action_space"] == ["turn_left", "turn_right"]
    assert config.lamorel_args.llm_args.minibatch_size == 8
    assert config.extra.a == 1.5
    assert "seed" not in config.lamorel_args.llm_args
    assert pickle.loads(pickle.dumps(config)).extra == config.extra
    assert copy.deepcopy(config) == config


def test_settings_have_defaults_for_what_the_examples_leave_out(file: Path) -> None:
    settings = read_settings(load_config(file).lamorel_args)
    assert not settings.is_v03
    assert settings.timeout_seconds == 60
    assert settings.log_level == logging.DEBUG
    (llm,) = settings.llms.values()
    assert (llm.model_type, llm.model_path, llm.seed, llm.load_in_4bit) == ("seq2seq", "t5-small", 42, False)
    assert (llm.num_processes, llm.use_gpu, llm.gpus_per_process) == (3, True, 2)


def test_nodes_of_omegaconf_are_read_as_well(file: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed")
    config = omegaconf.OmegaConf.load(file)
    assert read_settings(config.lamorel_args).llms == read_settings(load_config(file).lamorel_args).llms


def test_a_missing_value_and_an_unknown_key_are_told(file: Path) -> None:
    config = load_config(file)
    with pytest.raises(ConfigError, match=r"Expected a value for path, found \?\?\?"):
        _ = config.rl_script_args.path
    with pytest.raises(ConfigError, match=r"found 'gama'"):
        _ = config.rl_script_args.gama
    with pytest.raises(KeyError):
        _ = config["nothing"]
    assert getattr(config, "nothing", 3) == 3
    assert config.get("nothing") is None


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("a: [", [], "to be YAML, found a mistake"),
        ("- a", [], "to hold keys and values, found list"),
        ("a: 1", ["b"], "Expected an override like"),
    ],
)
def test_files_and_overrides_that_cannot_be_read_are_told(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "bad.yaml", overrides)
    with pytest.raises(ConfigError, match="found none to read"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llm_args.model_typ", "causal", r"found 'model_typ'. Did you mean 'model_type'\?"),
        ("llm_args.model_type", "gpt", "model_type to be causal or seq2seq, found 'gpt'"),
        ("llm_args.model_path", None, "model_path to be a folder or a hub id, found None"),
        ("llm_args.minibatch_size", 0, "minibatch_size to be a whole number of at least 1, found 0"),
        ("llm_args.pretrained", "yes", "pretrained to be true or false, found 'yes'"),
        ("llm_args.parallelism.use_gpus", True, r"Did you mean 'use_gpu'\?"),
        ("distributed_setup_args.n_llm_processes", 0, "n_llm_processes to be a whole number of at least 1"),
        ("log_level", "loud", "log_level among debug, info"),
        ("sede", 1, "Expected keys of lamorel_args among"),
    ],
)
def test_main_configurations_that_cannot_be_are_told(
    main_config: Callable[..., dict[str, Any]], key: str, value: Any, message: str
) -> None:
    config = main_config()
    *parents, name = key.split(".")
    table = config
    for parent in parents:
        table = table[parent]
    table[name] = value
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["llm_configs"]["main"].update(handler="unsloth"), "handler to be hf_llm, found 'unsloth'"),
        (lambda c: c["distributed_setup_args"].update(multinode=True), "Expected multinode: false"),
        (lambda c: c["distributed_setup_args"]["llm_processes"].update(other={}), "found 'other'"),
        (lambda c: process(c).update(n_processes=2), "with an entry for each of 2 processes, found 1"),
        (lambda c: process(c).update(devices_per_process=["gpu"]), "of 'cpu' or lists of GPU numbers, found 'gpu'"),
        (lambda c: process(c).update(ddp_kwargs={"static_graph": True}), "found 'static_graph'"),
        (lambda c: c["llm_configs"]["main"].update(pad_token_id="x"), "pad_token_id to be a token id, found 'x'"),
    ],
)
def test_v03_configurations_that_cannot_be_are_told(
    v03_config: Callable[..., dict[str, Any]], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    config = v03_config(main="llama")
    change(config)
    with pytest.raises(ConfigError, match=message):
        read_settings(config)


def process(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["distributed_setup_args"]["llm_processes"]["main"]
    return found


def test_the_whole_configuration_in_place_of_its_node_is_told(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"Pass config.lamorel_args"):
        Caller(load_config(file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"custom_updater": BaseUpdater()}, r"custom_updater by the name of a model \(actor, critic\)"),
        ({"custom_updater": {"actr": BaseUpdater()}}, r"found 'actr'. Did you mean 'actor'\?"),
        ({"custom_updater": {"actor": 3}}, "custom_updater to be a BaseUpdater, got int"),
        ({"custom_module_functions": {"value": 3}}, "custom_module_functions by the name of a model"),
        ({"custom_module_functions": {"actor": {"value": 3}}}, "'value' to be a BaseModuleFunction"),
    ],
)
def test_hooks_that_belong_to_no_model_are_told(
    v03_config: Callable[..., dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Caller(v03_config(actor="llama", critic="t5"), **options)


def test_a_gpu_that_is_not_there_is_told(v03_config: Callable[..., dict[str, Any]]) -> None:
    config = v03_config(main="llama")
    process(config)["devices_per_process"] = [[97]]
    with pytest.raises(LLMGymError, match="the number of this machine, found 97"):
        Caller(config)


def test_use_gpu_without_a_gpu_is_served_on_the_cpu(
    main_config: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = main_config()
    config["llm_args"]["parallelism"]["use_gpu"] = True
    with Caller(ConfigNode(config)) as caller:
        assert len(caller.score(["You"], [[" a"]])) == 1
    assert "this machine has no GPU" in caplog.text


def test_several_callers_without_a_launcher_are_told(main_config: Callable[..., dict[str, Any]]) -> None:
    config = main_config()
    config["distributed_setup_args"]["n_rl_processes"] = 2
    with pytest.raises(ConfigError, match="n_rl_processes"):
        Caller(config)
