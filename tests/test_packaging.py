"""What is packaged: every folder with code, every recipe, and the same version of the truth in each place."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SKIPPED = {"cli", "envs"}
"""Links inside llmgym/: the folders they lead to are listed under their own path."""


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_below(folder: Path, name: str) -> set[str]:
    """Names of the packages that the folders with an __init__.py are, links left out."""
    found = {name}
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink() and (child / "__init__.py").is_file():
            found |= packages_below(child, f"{name}.{child.name}")
    return found


def test_listed_packages_are_the_folders_with_an_init_file(pyproject: dict[str, Any]) -> None:
    setuptools = pyproject["tool"]["setuptools"]
    found = set().union(*(packages_below(ROOT / folder, name) for name, folder in setuptools["package-dir"].items()))
    assert set(setuptools["packages"]) == found
    assert len(setuptools["packages"]) == len(found)


def test_links_inside_the_package_lead_to_the_mapped_folders(pyproject: dict[str, Any]) -> None:
    for name, folder in pyproject["tool"]["setuptools"]["package-dir"].items():
        assert (ROOT / name.replace(".", "/")).resolve() == (ROOT / folder).resolve()
    links = {path.name for path in (ROOT / "llmgym").iterdir() if path.is_symlink()}
    assert links == SKIPPED


def test_wheel_holds_every_module_recipe_and_type_marker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    # A copy, because setuptools leaves a build folder beside the sources, and takes stale files from it.
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in tracked:
        original, target = ROOT / name, source / name
        if original.is_file() and not name.startswith("tests/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(original.read_bytes())
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT) for path in (ROOT / "llmgym").rglob("*.py")}
    modules |= {Path("llmgym") / path.relative_to(ROOT) for part in SKIPPED for path in (ROOT / part).rglob("*.py")}
    recipes = {path.relative_to(ROOT) for path in (ROOT / "llmgym/run/recipes").glob("*.toml")}
    expected = {str(path) for path in modules | recipes | {Path("llmgym/py.typed")}}
    assert len(recipes) > 0
    assert expected <= names
    assert not any(name.startswith(("cli/", "envs/", "tests/")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_version_is_the_same_everywhere(pyproject: dict[str, Any]) -> None:
    version = pyproject["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_license_is_the_apache_license_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")
    assert len(text.splitlines()) == 202
