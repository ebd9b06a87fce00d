"""Histories: the prompts of all episodes of a vector environment, kept in step with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmgym.errors import EnvError
from llmgym.text.prompt import Prompt
from llmgym.types import TokenIds

__all__ = ["Histories", "action_index", "as_vector"]


class Histories:
    """One prompt an environment of a vector, with the actions that are open in it now.

    Attributes:
        prompts: one an environment.
        actions: the candidates of each environment's current state, as texts.
        candidate_ids: the same, as token ids.
    """

    def __init__(self, num_envs: int, make: Callable[[], Prompt]) -> None:
        self.prompts = [make() for _ in range(num_envs)]
        self.actions: list[tuple[str, ...]] = [()] * num_envs
        self.candidate_ids: list[tuple[TokenIds, ...]] = [()] * num_envs

    def begin(self, env_index: int, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Start an episode from the observation of a reset."""
        actions = _actions(infos, env_index)
        mission, text = str(observations["mission"][env_index]), str(observations["text"][env_index])
        self.prompts[env_index].begin(mission, text, actions)
        self._set(env_index, actions)

    def extend(self, env_index: int, action: int, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Add the action taken (its index among the candidates) and the observation that followed."""
        taken, taken_ids = self.actions[env_index][action], self.candidate_ids[env_index][action]
        actions = _actions(infos, env_index)
        self.prompts[env_index].extend(taken, taken_ids, str(observations["text"][env_index]), actions)
        self._set(env_index, actions)

    def _set(self, env_index: int, actions: tuple[str, ...]) -> None:
        self.actions[env_index] = actions
        self.candidate_ids[env_index] = self.prompts[env_index].candidates(actions)


def action_index(action: Any, actions: Sequence[str]) -> int:
    """Return the index among the candidates of what was given to an environment: a number or a text.

    Raises:
        EnvError: the text is none of the candidates, or the number is beyond them.
    """
    if isinstance(action, str):
        if action not in actions:
            raise EnvError(f"Expected an action among {list(actions)}, found {action!r}. Take one of info['actions'].")
        return list(actions).index(action)
    index = int(action)
    if not 0 <= index < len(actions):
        raise EnvError(f"Expected an action from 0 to {len(actions) - 1}, found {index}.")
    return index


def as_vector(observation: Mapping[str, Any], info: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Show one environment's observation and info as those of a vector of one."""
    return {key: [value] for key, value in observation.items()}, {"actions": [info["actions"]]}


def _actions(infos: Mapping[str, Any], env_index: int) -> tuple[str, ...]:
    if "actions" not in infos or infos["actions"][env_index] is None:
        raise EnvError(
            f"Expected info['actions'] to hold the candidate actions of environment {env_index}, found nothing. "
            "Wrap the environment with llmgym.text.TextEnv."
        )
    return tuple(infos["actions"][env_index])
