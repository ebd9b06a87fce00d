"""Settings: what is read, refused, overridden and written back."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from llmgym.errors import ConfigError
from llmgym.settings import apply_overrides, describe, from_dict, read_toml, to_dict, to_toml, type_text


@dataclass(frozen=True)
class Adapter:
    """An adapter.

    Attributes:
        rank: columns of a factor.
        targets: names of layers, of which there may
            be many.
    """

    rank: int = 16
    targets: tuple[str, ...] = ("q", "v")


@dataclass(frozen=True)
class Learning:
    """How to learn.

    Attributes:
        rate: larger is faster.
        clip: limit of a step.
        adapter: trained instead of all weights.
        schedule: shape over time.
    """

    rate: float = 1e-3
    clip: float | None = 0.5
    adapter: Adapter | None = None
    schedule: Literal["constant", "linear", 3] = "constant"


@dataclass(frozen=True)
class Recipe:
    """A recipe."""

    env: str
    verbose: bool = False
    seed: int = 0
    note: str | None = None
    learning: Learning = field(default_factory=lambda: Learning(rate=0.25))


def test_defaults_fill_what_a_recipe_leaves_out() -> None:
    assert from_dict(Recipe, {"env": "maze"}) == Recipe("maze", learning=Learning(rate=0.25))


def test_section_keeps_the_defaults_of_its_place() -> None:
    assert from_dict(Recipe, {"env": "maze", "learning": {"clip": 1.0}}).learning == Learning(rate=0.25, clip=1.0)


def test_optional_section_is_built_where_it_is_written() -> None:
    recipe = from_dict(Recipe, {"env": "maze", "learning": {"adapter": {"rank": 4}}})
    assert recipe.learning.adapter == Adapter(rank=4)


def test_integer_is_read_as_float_where_a_float_is_expected() -> None:
    rate = from_dict(Recipe, {"env": "maze", "learning": {"rate": 1}}).learning.rate
    assert (rate, type(rate)) == (1.0, float)


def test_list_is_read_as_tuple() -> None:
    assert from_dict(Adapter, {"targets": ["k"]}).targets == ("k",)


@pytest.mark.parametrize("key", ["clip", "adapter"])
def test_word_none_is_none_where_none_is_allowed(key: str) -> None:
    assert getattr(from_dict(Learning, {key: "none"}), key) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"env": 3}, "Expected env to be str, found 3 (int). Correct it in the recipe, or use --set env=..."),
        ({"env": "maze", "seed": True}, "Expected seed to be int, found True (bool)."),
        ({"env": "maze", "seed": 1.5}, "Expected seed to be int, found 1.5 (float)."),
        ({"env": "maze", "seed": "none"}, "Expected seed to be int, found 'none' (str)."),
        ({"env": "maze", "verbose": 1}, "Expected verbose to be bool, found 1 (int)."),
        (
            {"env": "maze", "learning": {"rate": "fast"}},
            "Expected learning.rate to be float, found 'fast' (str). Correct it in the recipe, or use "
            "--set learning.rate=... The default is learning.rate = 0.25.",
        ),
        ({"env": "maze", "learning": 3}, "Expected learning to be a section, found 3 (int)."),
        (
            {"env": "maze", "learning": {"adapter": True}},
            'Expected learning.adapter to be a section or "none", found True (bool).',
        ),
        (
            {"env": "maze", "learning": {"schedule": "linaer"}},
            'Expected learning.schedule to be "constant" or "linear" or 3, found \'linaer\' (str).',
        ),
        ({"env": "maze", "learning": {"schedule": "linaer"}}, "Did you mean 'linear'?"),
        (
            {"env": "maze", "learning": {"adapter": {"targets": ["q", 7]}}},
            "Expected learning.adapter.targets[1] to be str, found 7 (int).",
        ),
    ],
)
def test_mistyped_value_is_refused_with_its_key_type_and_value(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Recipe, data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"sede": 1},
            "Expected a known key at the top (env, verbose, seed, note, learning), found 'sede'. Did you mean 'seed'?",
        ),
        (
            {"learning": {"adapter": {"rnak": 1}}},
            "Expected a known key in [learning.adapter] (rank, targets), found 'learning.adapter.rnak'. "
            "Did you mean 'learning.adapter.rank'?",
        ),
        ({"rank": 1}, "found 'rank'. Did you mean 'learning.adapter.rank'?"),
        ({"learning": {"zzzzzz": 1}}, "found 'learning.zzzzzz'. Remove it."),
    ],
)
def test_unknown_key_is_named_in_full_with_the_nearest_known_one(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Recipe, {"env": "maze", **data})
    assert message in str(caught.value)


def test_path_of_the_table_is_part_of_every_key_in_a_message() -> None:
    with pytest.raises(ConfigError, match=r"found 'learning\.adapter\.rnak'\. Did you mean 'learning\.adapter\.rank'"):
        from_dict(Adapter, {"rnak": 1}, "learning.adapter")


def test_missing_value_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"Expected a value for env \(str\), found none\. .* --set env="):
        from_dict(Recipe, {})


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a.b=1", 1),
        ("a.b = 1e-3", 1e-3),
        ("a.b=true", True),
        ('a.b="1"', "1"),
        ("a.b=['x', 'y']", ["x", "y"]),
        ("a.b=llmgym/BabyAI-GoToLocal-v0", "llmgym/BabyAI-GoToLocal-v0"),
        ("a.b=../models/tiny", "../models/tiny"),
        ("a.b=x=y", "x=y"),
        ("a.b=2026-01-31", "2026-01-31"),
        ("a.b=two words", "two words"),
        ("a.b=1\nc = 2", "1\nc = 2"),
    ],
)
def test_override_is_read_as_toml_and_bare_words_as_text(override: str, value: object) -> None:
    assert apply_overrides({"a": {"c": 0}}, [override]) == {"a": {"c": 0, "b": value}}


def test_later_override_wins_and_the_table_given_stays_as_it_was() -> None:
    data = {"a": {"b": 0}}
    assert apply_overrides(data, ["a.b=1", "a.b=2"]) == {"a": {"b": 2}}
    assert data == {"a": {"b": 0}}


def test_override_writes_a_section_where_the_recipe_says_none() -> None:
    assert apply_overrides({"adapter": "none"}, ["adapter.rank=4"]) == {"adapter": {"rank": 4}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "Expected key=value, found 'seed'. Write it like learner.epochs=2."),
        ("seed=", "Expected key=value, found 'seed='."),
        ("=1", "Expected key=value, found '=1'."),
        ("a b=1", "Expected key=value, found 'a b=1'."),
        ("env='maze", "Expected env to be a TOML value, found 'maze: "),
        ("seed.x=1", "Expected 'seed' to be a section, to set seed.x in it, found 3. Correct the key."),
    ],
)
def test_override_of_another_form_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"seed": 3}, [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("maze"),
        Recipe('a "quoted" ünit\n', verbose=True, note="x"),
        Recipe("maze", learning=Learning(clip=None, adapter=Adapter(rank=4, targets=()), schedule=3)),
        Recipe("maze", learning=Learning(rate=1e-20, clip=float("inf"))),
    ],
)
@pytest.mark.parametrize("with_help", [False, True])
def test_settings_written_as_toml_read_back_equal(recipe: Recipe, with_help: bool) -> None:
    assert from_dict(Recipe, tomllib.loads(to_toml(recipe, with_help=with_help))) == recipe


def test_none_is_left_out_where_it_is_the_default_and_a_word_where_it_is_not() -> None:
    assert to_dict(Learning(clip=None)) == {"rate": 1e-3, "clip": "none", "schedule": "constant"}


def test_help_stands_above_its_key() -> None:
    text = to_toml(Recipe("maze", learning=Learning(adapter=Adapter())), with_help=True)
    assert "# larger is faster.\nrate = 0.001\n" in text
    assert '# names of layers, of which there may be many.\ntargets = ["q", "v"]\n' in text
    assert "\n\n# trained instead of all weights.\n[learning.adapter]\n" in text


def test_describe_lists_every_key_with_type_default_and_help() -> None:
    rows = {row.key: (row.type, row.default, row.help) for row in describe(Recipe)}
    assert rows["env"] == ("str", "required", "")
    assert rows["learning"] == ("a section", "", "")
    assert rows["learning.rate"] == ("float", "0.25", "larger is faster.")
    assert rows["learning.clip"] == ('float or "none"', "0.5", "limit of a step.")
    assert rows["learning.adapter"] == ('a section or "none"', '"none"', "trained instead of all weights.")
    assert rows["learning.adapter.targets"][1:] == ('["q", "v"]', "names of layers, of which there may be many.")
    assert list(rows)[-2:] == ["learning.adapter.targets", "learning.schedule"]


def test_literal_is_named_by_its_choices() -> None:
    assert type_text(Literal["a", 3]) == '"a" or 3'


def test_file_that_is_missing_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Expected a TOML file at .*absent\.toml, found none to read: No such file"):
        read_toml(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = \n")
    with pytest.raises(ConfigError, match=r"Expected .*broken\.toml to be TOML, found a mistake: .*line 1"):
        read_toml(broken)
