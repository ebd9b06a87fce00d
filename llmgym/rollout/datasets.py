"""Episodes as Minari datasets, the format of the Gymnasium family: written whole or not at all, and read back.

Knows names and folders; `llmgym.rollout.minari_format` knows what is in them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Text

from llmgym.errors import DatasetError, did_you_mean
from llmgym.rollout.minari_format import DatasetFacts, restore_episode, store_episodes
from llmgym.rollout.recording import Episode

__all__ = ["check_free", "dataset_spec", "read_dataset", "write_dataset"]


def write_dataset(
    episodes: Sequence[Episode],
    env: gym.Env[Any, Any],
    facts: DatasetFacts,
    *,
    root: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write episodes as a dataset, and return its folder.

    It is written beside its place, and moved there when it is complete.

    Args:
        episodes: at least one.
        env: the text environment they were played in.
        facts: what else the dataset tells.
        root: the folder of datasets; Minari's own if None.
        overwrite: replace a dataset of that name.

    Raises:
        DatasetError: the name is none, it is taken, its folder cannot be written, or the environment cannot be noted.
    """
    folder = check_free(facts.name, root=root, overwrite=overwrite)
    _check_spec(facts)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _describe_namespaces(folder, facts.name)
        # Minari passes over folders whose names begin with a dot.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
            new, old = Path(unfinished) / "new", Path(unfinished) / "old"
            new.mkdir(mode=0o755)
            store_episodes(episodes, env, facts, new / "data")
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
    except OSError as error:
        raise DatasetError(
            f"Expected to be able to write the dataset {folder}, but {error.strerror or error}. Name another folder."
        ) from error
    return folder


def check_free(name: str, *, root: Path | None = None, overwrite: bool = False) -> Path:
    """Return the folder that a new dataset would have.

    Raises:
        DatasetError: the name is none, or it is taken.
    """
    _check_name(name)
    folder = (_minari_root() if root is None else root) / name
    if not folder.exists():
        return folder
    if not _is_dataset(folder):
        raise DatasetError(f"Expected a new folder for the dataset {name}, but {folder} is something else. Move it.")
    if not overwrite:
        raise DatasetError(
            f"Expected the name of a new dataset, but {name} exists already in {folder}. Name another, or overwrite it."
        )
    return folder


def read_dataset(name: str, max_episodes: int | None = None) -> Iterator[Episode]:
    """Yield the episodes of a dataset that was written by `write_dataset`, in the order they were written.

    Rewards, terminations and truncations stay apart, and candidate actions, behaviour log-probabilities and what else
    was written of every step is there: what learning offline needs.

    Args:
        name: id of a dataset in Minari's folder, or the path of one elsewhere.
        max_episodes: no more than so many; all of them if None.

    Raises:
        DatasetError: there is no such dataset, or its episodes are not texts with their candidate actions.
    """
    dataset = _load(name)
    spaces = getattr(dataset.observation_space, "spaces", {})
    if not all(isinstance(spaces.get(key), Text) for key in ("mission", "text")):
        raise DatasetError(
            f"Expected a dataset of text observations, a mission and a text, found {dataset.observation_space} in "
            f"{name}. `llmgym demos` writes such datasets."
        )
    indices = dataset.episode_indices[:max_episodes]
    seeds = [facts.get("seed") for facts in dataset.storage.get_episode_metadata(indices)]
    for stored, seed in zip(dataset.iterate_episodes(indices), seeds, strict=True):
        yield restore_episode(name, stored, seed)


def dataset_spec(name: str) -> EnvSpec:
    """Return what makes the environment of a dataset.

    Args:
        name: id of a dataset in Minari's folder, or the path of one elsewhere.

    Raises:
        DatasetError: there is no such dataset, or nobody noted its environment.
    """
    spec: EnvSpec | None = _load(name).env_spec
    if spec is None:
        raise DatasetError(f"Expected a dataset that knows its environment, found none in {name}. Take another.")
    return spec


def _load(name: str) -> Any:
    """Return a dataset by its id, or by its path: its own folder, or "data" in it."""
    from minari import MinariDataset

    folder = Path(name)
    if not _is_dataset(folder):
        folder = folder.parent if folder.name == "data" and _is_dataset(folder.parent) else _minari_root() / name
    if not _is_dataset(folder):
        known = _known_names()
        listed = f" There {'is' if len(known) == 1 else 'are'}: {', '.join(known[:10])}." if known else ""
        raise DatasetError(
            f"Expected a dataset named {name!r} in {_minari_root()}, or the folder of one, found none."
            f"{did_you_mean(name, known) or listed} `llmgym demos` writes one."
        )
    try:
        return MinariDataset(folder / "data")
    except (ValueError, KeyError, AssertionError, OSError) as error:
        raise DatasetError(f"Expected a dataset that Minari reads in {folder}, but it says: {error}") from error


def _known_names() -> list[str]:
    root = _minari_root()
    found = (path.parent.parent for path in root.rglob("data/metadata.json"))
    return sorted(folder.relative_to(root).as_posix() for folder in found if not folder.name.startswith("."))


def _minari_root() -> Path:
    """Return the folder where Minari keeps datasets: $MINARI_DATASETS_PATH, or one in the home folder."""
    from minari.storage import get_dataset_path

    root: Path = get_dataset_path()
    return root


def _is_dataset(folder: Path) -> bool:
    return (folder / "data" / "metadata.json").is_file()


def _check_name(name: str) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(name)
    # A name without a version is a TypeError (Minari 0.5).
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"Expected the name of a dataset like namespace/name-v0, of letters, digits, - and _, found {name!r}. "
            "Name it so."
        ) from error


def _check_spec(facts: DatasetFacts) -> None:
    try:
        facts.spec.to_json()
    except (ValueError, TypeError) as error:
        raise DatasetError(
            f"Expected an environment that a file can name, found {facts.spec.id}: {error} Register it with the text "
            "'module:function' as its entry point, and settings that JSON knows."
        ) from error


def _describe_namespaces(folder: Path, name: str) -> None:
    """Give every folder above a dataset the file by which Minari knows a namespace."""
    from minari.namespace import NAMESPACE_METADATA_FILENAME

    for parent, _ in zip(folder.parents, Path(name).parts[:-1], strict=False):
        file = parent / NAMESPACE_METADATA_FILENAME
        if not file.exists():
            file.write_text("{}", encoding="utf-8")
