"""Histories: what the agent of each environment has seen and said, kept in step with a vector environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.errors import EnvError
from llmgym.text.prompt import Prompt
from llmgym.types import Acting, Choice, TokenIds

__all__ = ["Histories", "History", "action_index", "actions_of"]

DEFAULT_ACTING = Acting()


class History:
    """One episode as its agent knows it.

    Attributes:
        prompt: all of it, as the model reads it.
        actions: the candidates of the current state, as texts.
        candidate_ids: the same, as token ids.
    """

    __slots__ = ("_acting", "actions", "candidate_ids", "prompt")

    def __init__(self, prompt: Prompt, acting: Acting = DEFAULT_ACTING) -> None:
        """Keep a history in a prompt, for actions that are taken in the way of acting."""
        self.prompt = prompt
        self.actions: tuple[str, ...] = ()
        self.candidate_ids: tuple[TokenIds, ...] = ()
        self._acting = acting

    @property
    def prompt_ids(self) -> npt.NDArray[np.int32]:
        """int32 (num_tokens,); the prompt now. The array is never changed afterwards."""
        return self.prompt.token_ids

    @property
    def context_ids(self) -> TokenIds:
        """The same as plain numbers, which an engine takes as they are."""
        return self.prompt.context_ids

    def begin(self, mission: str, text: str, actions: tuple[str, ...]) -> None:
        """Start an episode from its first observation."""
        self._set(actions)
        self.prompt.begin(mission, text, actions)

    def extend(self, taken: int | Choice, text: str, actions: tuple[str, ...]) -> None:
        """Add the action taken and the observation that followed.

        Args:
            taken: the engine's choice, of which all that was said enters, token by token as it was sampled (only the
                end of the sequence is left out); or the index of an action among the candidates.
            text: what was observed.
            actions: the candidates now.
        """
        said, said_ids = self._said(taken)
        defaulted = self.actions[taken.index] if isinstance(taken, Choice) and not taken.is_parsed else None
        self._set(actions)
        self.prompt.extend(said, said_ids, text, actions, defaulted=defaulted)

    def _said(self, taken: int | Choice) -> tuple[str, TokenIds]:
        """Return what the agent said, as text and as token ids."""
        if isinstance(taken, Choice) and self._acting.how == "text":
            return taken.text, taken.kept_ids
        index = taken.index if isinstance(taken, Choice) else taken
        action, action_ids = self.actions[index], self.candidate_ids[index]
        if isinstance(taken, Choice) and self._acting.how == "reason":
            return f"{taken.text}{self._acting.cue} {action}", (*taken.kept_ids, *taken.cue_ids, *action_ids)
        return action, action_ids

    def _set(self, actions: tuple[str, ...]) -> None:
        self.actions = actions
        self.candidate_ids = self.prompt.candidates(actions)


class Histories:
    """One history an environment of a vector."""

    def __init__(self, num_envs: int, make: Callable[[], Prompt], acting: Acting = DEFAULT_ACTING) -> None:
        """Keep num_envs histories, each in a prompt of its own."""
        self._histories = [History(make(), acting) for _ in range(num_envs)]

    def begin(self, env_index: int, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Start an episode from the observation of a reset."""
        mission, text = str(observations["mission"][env_index]), str(observations["text"][env_index])
        self[env_index].begin(mission, text, actions_of(infos, env_index))

    def extend(
        self, env_index: int, taken: int | Choice, observations: Mapping[str, Any], infos: Mapping[str, Any]
    ) -> None:
        """Add the action taken and the observation that followed; see `History.extend`."""
        self[env_index].extend(taken, str(observations["text"][env_index]), actions_of(infos, env_index))

    def __getitem__(self, env_index: int) -> History:
        return self._histories[env_index]

    def __iter__(self) -> Iterator[History]:
        return iter(self._histories)


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


def actions_of(infos: Mapping[str, Any], env_index: int | None = None) -> tuple[str, ...]:
    """Return the candidate actions that an info holds: a vector's, of one of its environments, or one environment's.

    Raises:
        EnvError: it holds none.
    """
    actions = infos.get("actions")
    if actions is not None and env_index is not None:
        actions = actions[env_index]
    if actions is None:
        whose = "" if env_index is None else f" of environment {env_index}"
        raise EnvError(
            f"Expected info['actions'] to hold the candidate actions{whose}, found nothing. "
            "Wrap the environment with llmgym.text.TextEnv."
        )
    return tuple(actions)
