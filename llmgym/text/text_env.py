"""Any Gymnasium environment as one that is spoken to in text. Knows neither models nor prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, Text
from gymnasium.utils import RecordConstructorArgs

from llmgym.errors import ActionParseError, EnvError, did_you_mean
from llmgym.text.space import UnicodeText

__all__ = ["TextEnv"]

Describe = Callable[[Any], str]
Actions = Sequence[str] | Callable[[Any], Mapping[str, Any] | Sequence[str]]


class TextEnv(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Turn an environment into a text environment: texts are observed, and every action has a text.

    The observation is ``{"mission": str, "text": str}``. ``info["actions"]`` holds the texts of the actions of the
    current state, a tuple of str, after every reset and step.

    >>> names = ("left", "down", "right", "up")
    >>> env = TextEnv(gymnasium.make("FrozenLake-v1"), describe=lambda cell: f"You are on tile {cell}.", actions=names)
    >>> observation, info = env.reset(seed=0)
    >>> observation["text"], info["actions"]
    ('You are on tile 0.', ('left', 'down', 'right', 'up'))
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        describe: Describe,
        actions: Actions,
        *,
        mission: str | Describe = "",
        max_length: int = 4096,
        phrases: Sequence[str] = (),
    ) -> None:
        """Wrap env.

        Args:
            env: any environment.
            describe: takes an observation of env, returns its text.
            actions: one text for each action of a Discrete action space: action i of the wrapper is the i-th action
                of env. Or a function from an observation of env to the actions that are legal in it: a mapping from
                text to action of env, or, where env itself takes texts, a sequence of them. The action space then is
                `Text`; a step takes one of the mapped texts, or any text where env itself takes texts.
            mission: what the agent is to do: a text, or a function from the first observation of an episode to it.
            max_length: characters that a text may have.
            phrases: fixed wordings of the texts; a tokenizer made for this environment has a token for each.

        Raises:
            EnvError: the actions do not fit the action space of env.
        """
        RecordConstructorArgs.__init__(
            self, describe=describe, actions=actions, mission=mission, max_length=max_length, phrases=phrases
        )
        gymnasium.Wrapper.__init__(self, env)
        self.phrases = tuple(phrases)
        self._describe = describe
        self._mission_of = mission
        self._mission = ""
        self._text_space = UnicodeText(max_length)
        self._takes_text = isinstance(env.action_space, Text)
        self._legal: Mapping[str, Any] = {}
        if callable(actions):
            self._actions_of: Callable[[Any], Mapping[str, Any] | Sequence[str]] | None = actions
            if not self._takes_text:
                self.action_space = UnicodeText(max_length)
        else:
            self._actions_of = None
            self._actions = tuple(actions)
            self._start = _first_action(env.action_space, self._actions)
            self.action_space = Discrete(len(self._actions))
        self.observation_space = Dict({"mission": self._text_space, "text": self._text_space})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Start an episode; the same seed gives the same episode, where env keeps to that.

        Raises:
            EnvError: a text is not one of the space, or there is no legal action.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        mission = self._mission_of(observation) if callable(self._mission_of) else self._mission_of
        self._mission = self._checked(mission, "mission")
        return self._texts(observation), {**info, "actions": self._candidates(observation, is_over=False)}

    def step(self, action: Any) -> tuple[dict[str, str], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action: its index, or its text where actions is a function.

        Raises:
            ActionParseError: there is no such action in the current state.
            EnvError: a text is not one of the space, or there is no legal action although the episode goes on.
        """
        observation, reward, terminated, truncated, info = self.env.step(self._base_action(action))
        actions = self._candidates(observation, is_over=terminated or truncated)
        return self._texts(observation), reward, terminated, truncated, {**info, "actions": actions}

    def _texts(self, observation: Any) -> dict[str, str]:
        return {"mission": self._mission, "text": self._checked(self._describe(observation), "describe")}

    def _checked(self, text: Any, source: str) -> str:
        if text in self._text_space:
            return str(text)
        if not isinstance(text, str):
            found = f"{type(text).__name__} ({text!r:.80})"
        elif "\0" in text:
            found = f"a text with a NUL character ({text!r:.80})"
        else:
            found = f"{len(text)} characters ({text!r:.80})"
        raise EnvError(
            f"Expected {source} of {self.env} to give a text of at most {self._text_space.max_length} characters, "
            f"got {found}. Shorten it, or raise max_length of TextEnv."
        )

    def _candidates(self, observation: Any, *, is_over: bool) -> tuple[str, ...]:
        if self._actions_of is None:
            return self._actions
        legal = self._actions_of(observation)
        if not isinstance(legal, Mapping):
            if not self._takes_text:
                raise EnvError(
                    f"Expected actions(observation) to map each text to an action of {self.env.action_space}, got "
                    f"{legal!r:.80}. Return a dict, for instance {{'turn left': 0}}."
                )
            legal = {text: text for text in legal}
        if not legal and not is_over:
            raise EnvError(
                f"Expected at least one legal action while the episode goes on, got none from actions(observation) of "
                f"{self.env}. End the episode where nothing can be done."
            )
        self._legal = {self._checked(text, "actions"): action for text, action in legal.items()}
        return tuple(self._legal)

    def _base_action(self, action: Any) -> Any:
        if self._actions_of is None:
            if not isinstance(action, int | np.integer) or not 0 <= action < len(self._actions):
                raise ActionParseError(
                    f"Expected an action from 0 to {len(self._actions) - 1}, got {action!r}. "
                    "Its text stands at that place in info['actions']."
                )
            return self._start + int(action)
        if action not in self._legal:
            if self._takes_text and isinstance(action, str):
                return action
            hint = did_you_mean(action, self._legal) if isinstance(action, str) else ""
            raise ActionParseError(
                f"Expected one of the {len(self._legal)} actions in info['actions'], got {action!r:.80}.{hint} "
                "Give its text exactly."
            )
        return self._legal[action]


def _first_action(space: gymnasium.Space[Any], actions: tuple[str, ...]) -> int:
    """Return the action of a Discrete space that the first text stands for."""
    if not isinstance(space, Discrete):
        raise EnvError(
            f"Expected a Discrete action space to name its actions, found {space}. "
            "Give actions as a function from an observation to a dict of text to action."
        )
    if len(actions) != space.n:
        raise EnvError(
            f"Expected {space.n} texts, one for each action of {space}, got {len(actions)}: {list(actions)}. "
            "Name every action."
        )
    if len(set(actions)) < len(actions) or not all(isinstance(text, str) and text for text in actions):
        raise EnvError(f"Expected distinct texts that are not empty, got {list(actions)}. Name each action once.")
    return int(space.start)
