"""Recipes by name and path, and `llmgym config`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmgym.cli.main import app
from llmgym.cli.recipe import find_recipe, recipe_names
from llmgym.config import RunConfig, load_config
from llmgym.errors import ConfigError
from llmgym.settings import from_dict

RUNNER = CliRunner()


def test_quickstart_is_among_the_recipes() -> None:
    assert "quickstart" in recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_configuration_and_prints_as_one(name: str) -> None:
    result = RUNNER.invoke(app, ["config", name])
    assert result.exit_code == 0
    assert from_dict(RunConfig, tomllib.loads(result.output)) == load_config(find_recipe(name))


def test_config_applies_overrides_and_explains_settings() -> None:
    output = RUNNER.invoke(app, ["config", "quickstart", "--set", "seed=7", "--set", "algorithm.clip=0.3"]).output
    assert tomllib.loads(output)["seed"] == 7
    assert tomllib.loads(output)["algorithm"]["clip"] == 0.3
    assert "# id of a text environment.\nenv = " in output


def test_recipe_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('env = "llmgym/BabyAI-GoToLocal-v0"\n')
    assert find_recipe(str(file)) == file


def test_unknown_recipe_lists_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"Expected a recipe \(.*quickstart.*\) or a \.toml file, found 'quikstart'"):
        find_recipe("quikstart")
    with pytest.raises(ConfigError, match="Did you mean 'quickstart'"):
        find_recipe("quikstart")


def test_missing_file_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"Expected a recipe at absent/x\.toml, found no such file\. Check the path\."
    ):
        find_recipe("absent/x.toml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.clipp=1", "found 'algorithm.clipp'. Did you mean 'algorithm.clip'?"),
        ("algorithm.name=pppo", "got 'pppo'. Did you mean 'ppo'? It is algorithm.name in the recipe."),
        ("algorithm.clip=wide", "Expected algorithm.clip to be float, found 'wide' (str)."),
        ("ppo", "Expected key=value, found 'ppo'."),
    ],
)
@pytest.mark.parametrize("command", ["train", "config"])
def test_override_that_fits_nothing_is_refused_before_anything_is_done(
    command: str, override: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(app, [command, "quickstart", "--set", override])
    assert result.exit_code == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_learns_from_datasets_by_ilql_with_a_critic_of_its_own() -> None:
    changes = ["algorithm.name=ilql", 'collect.datasets=["lake/random-v0", "lake/bot-v0"]', "learner.critic=separate"]
    output = RUNNER.invoke(app, ["config", "frozenlake", *(part for one in changes for part in ("--set", one))]).output
    table = tomllib.loads(output)
    assert table["algorithm"]["tau"] == 0.7, "what the recipe sets for PPO is left out"
    assert table["collect"]["datasets"] == ["lake/random-v0", "lake/bot-v0"]
    assert table["learner"]["critic"] == "separate"
    assert "# expectile of V, above 0 to below 1" in output


def test_another_algorithm_does_not_inherit_the_settings_of_the_recipes() -> None:
    named = ["config", "frozenlake", "--set", "algorithm.name=rejection"]
    table = tomllib.loads(RUNNER.invoke(app, [*named, "--set", "algorithm.kept_share=0.5"]).output)["algorithm"]
    assert table == {"name": "rejection", "kept_share": 0.5, "least_return": 0.0, "epochs": 1, "minibatch_turns": 256}
    same = tomllib.loads(RUNNER.invoke(app, ["config", "frozenlake", "--set", "algorithm.name=ppo"]).output)
    assert same["algorithm"]["epochs"] == 2, "as the recipe says"
