"""How an episode lies in a Minari dataset. Knows neither names nor folders of datasets.

An observation is ``{"mission": str, "text": str}``. An action is an index where the environment's set of actions is
fixed, and a text where it is open. The candidates of every observation are in ``infos["actions"]``, each a JSON list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Dict, Discrete, Text

from llmgym.errors import DatasetError, EnvError
from llmgym.rollout.recording import Column, Episode
from llmgym.text.histories import action_index

__all__ = ["DatasetFacts", "restore_episode", "store_episodes"]

ACTIONS = "actions"
"""Name of the info that holds the candidates."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What a dataset tells of itself beside its episodes.

    Attributes:
        name: its id, "namespace/name-v0".
        spec: makes the environment again.
        algorithm: who played.
        author: who is to be named.
        description: one line.
        requirements: packages that the environment needs, as pip takes them.
    """

    name: str
    spec: EnvSpec
    algorithm: str
    author: str
    description: str
    requirements: tuple[str, ...]


def store_episodes(episodes: Sequence[Episode], env: gym.Env[Any, Any], facts: DatasetFacts, folder: Path) -> None:
    """Write the data of a dataset.

    Args:
        episodes: at least one.
        env: the text environment they were played in.
        facts: what else the dataset tells.
        folder: a new one.
    """
    from minari import __version__ as minari_version
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    action_texts = (text for episode in episodes for texts in episode.candidates for text in texts)
    has_numbers = isinstance(env.action_space, Discrete)
    storage = MinariStorage.new(
        folder,
        observation_space=_observation_space(env, episodes),
        action_space=env.action_space if has_numbers else _text_space(env.action_space, action_texts),
        env_spec=facts.spec,
    )
    storage.update_metadata(
        {
            "dataset_id": facts.name,
            "minari_version": minari_version,
            "algorithm_name": facts.algorithm,
            "author": {facts.author},
            "description": facts.description,
            "requirements": list(facts.requirements),
        }
    )
    storage.update_episodes(
        EpisodeBuffer(
            seed=episode.seed,
            observations={"mission": [episode.mission] * len(episode.texts), "text": list(episode.texts)},
            actions=list(episode.actions) if has_numbers else _said(episode),
            rewards=episode.rewards.tolist(),
            terminations=episode.terminations.tolist(),
            truncations=episode.truncations.tolist(),
            infos={ACTIONS: [json.dumps(texts, ensure_ascii=False) for texts in episode.candidates], **_plain(episode)},
        )
        for episode in episodes
    )


def _said(episode: Episode) -> list[str]:
    """Return the texts of the actions that were taken."""
    return [texts[action] for texts, action in zip(episode.candidates, episode.actions, strict=False)]


def _plain(episode: Episode) -> dict[str, Any]:
    """Return the infos as Minari takes them: texts in a list."""
    return {name: list(column) if isinstance(column, tuple) else column for name, column in episode.infos.items()}


def _observation_space(env: gym.Env[Any, Any], episodes: Sequence[Episode]) -> Dict:
    spaces = getattr(env.observation_space, "spaces", {})
    texts = (text for episode in episodes for text in episode.texts)
    missions = (episode.mission for episode in episodes)
    return Dict({"mission": _text_space(spaces["mission"], missions), "text": _text_space(spaces["text"], texts)})


def _text_space(space: Any, texts: Iterable[str]) -> Text:
    """Return a plain space that holds the texts: Minari keeps its characters, but knows no space of all of them."""
    characters = set(space.characters).union(*texts)
    return Text(space.max_length, min_length=0, charset="".join(sorted(characters)))


def restore_episode(name: str, stored: Any, seed: int | None) -> Episode:
    """Return an episode that Minari hands out in our own words.

    Args:
        name: of the dataset.
        stored: Minari's EpisodeData.
        seed: what the episode was reset with.

    Raises:
        DatasetError: its candidate actions are not there, or an action is none of them.
    """
    infos: Mapping[str, Any] = stored.infos or {}
    if ACTIONS not in infos:
        raise DatasetError(
            f"Expected infos['{ACTIONS}'] to hold the candidate actions of every observation, found only "
            f"{sorted(infos) or 'nothing'} in {name}. `llmgym demos` writes such datasets."
        )
    columns = {key: _column(values) for key, values in infos.items()}
    candidates = tuple(tuple(json.loads(texts)) for texts in columns.pop(ACTIONS))
    try:
        actions = tuple(action_index(action, texts) for action, texts in zip(stored.actions, candidates, strict=False))
    except EnvError as error:
        raise DatasetError(f"Expected every action of {name} to be one of its candidates: {error}") from error
    return Episode(
        seed=seed,
        mission=str(stored.observations["mission"][0]),
        texts=tuple(stored.observations["text"]),
        candidates=candidates,
        actions=actions,
        rewards=np.asarray(stored.rewards, dtype=np.float64),
        terminations=np.asarray(stored.terminations, dtype=np.bool_),
        truncations=np.asarray(stored.truncations, dtype=np.bool_),
        infos=columns,
    )


def _column(values: Any) -> Column:
    """Return an info as texts or as an array; HDF5 hands out texts as bytes."""
    array = np.asarray(values)
    if array.dtype.kind in "OSU":
        return tuple(text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in array)
    return array
