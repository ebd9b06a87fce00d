"""Prompts: what the model reads before it acts, as token ids. Knows neither engine nor environment.

A prompt is built from pieces that are tokenized once, each by itself; what was sampled enters as the ids that were
sampled, and nothing is ever tokenized again. Where a thought comes before the action, the prompt asks for a thought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmgym.errors import PromptError
from llmgym.text.chat import ChatPrompt
from llmgym.text.chat_wording import WORDINGS, ChatWording
from llmgym.text.encoding import text_encoder
from llmgym.text.length import check_length
from llmgym.types import How, TokenIds, Tokenizer

__all__ = [
    "AppendedPrompt",
    "Prompt",
    "PromptSettings",
    "WindowPrompt",
    "appended_phrases",
    "check_prompt",
    "make_prompt",
]


Language = Literal["english", "french"]

_APPENDED_HEADS: Mapping[Language, tuple[str, str]] = {
    "english": ("Possible actions", "Goal"),
    "french": ("Actions possibles", "But"),
}
_APPENDED_CUES: Mapping[Language, str] = {"english": "Action to", "french": "Action pour"}
"""What stands between an observation and the goal, where that is told again."""
_WINDOW_HEADS: Mapping[Language, tuple[str, str]] = {
    "english": ("Possible action of the agent", "Goal of the agent"),
    "french": ("Actions possibles pour l'agent", "But de l'agent"),
}
"""What actions and goal are called in the first lines of a prompt; observations and actions are in both languages."""


@dataclass(frozen=True)
class PromptSettings:
    """How the history of an episode is told.

    Attributes:
        history: "append" keeps the whole episode in a prompt that only grows, which the engine's prefix cache serves;
            "window" shows the last observations in the words of GLAM (https://arxiv.org/abs/2302.02662); "chat" is a
            conversation in the model's own chat template, with a window of the last observations and answers.
        num_observations: observations in a window; ignored by "append".
        language: of the lines that tell actions and goal; what stands in them is the environment's own.
        restates_goal: whether "append" tells the goal behind every observation again, as the last words before the
            action: "Action to go to the red ball: turn left". A model that starts from nothing finds its goal among
            what it sees much sooner so. For "score" and "constrained".
        chat: what the messages of "chat" say: "plain" for any environment, "balrog" for BabyAI-Text in the words of
            BALROG (https://arxiv.org/abs/2411.13543), or texts of your own.
    """

    history: Literal["append", "window", "chat"] = "append"
    num_observations: int = 3
    language: Language = "english"
    restates_goal: bool = False
    chat: Literal["plain", "balrog"] | ChatWording = "plain"


class Prompt(Protocol):
    """The prompt of one episode."""

    def begin(self, mission: str, text: str, actions: tuple[str, ...]) -> None:
        """Start an episode with its mission, first observation and the actions open now."""
        ...

    def extend(
        self, said: str, said_ids: TokenIds, text: str, actions: tuple[str, ...], *, defaulted: str | None = None
    ) -> None:
        """Add what the agent said (an action, an answer, or a thought and an action) and what it observed then.

        Args:
            defaulted: the action that was taken because an answer named none; None where what was said was done.
        """
        ...

    def candidates(self, actions: tuple[str, ...]) -> tuple[TokenIds, ...]:
        """Return the token ids of actions, as they would follow the prompt (or the cue behind a thought)."""
        ...

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """int32 (num_tokens,); the prompt now. The array is never changed afterwards."""
        ...

    @property
    def context_ids(self) -> TokenIds:
        """The same as plain numbers, which an engine takes as they are."""
        ...


def make_prompt(settings: PromptSettings, tokenizer: Tokenizer, max_tokens: int, how: How = "score") -> Prompt:
    """Make the prompt of one episode.

    Args:
        max_tokens: the model's context; a longer prompt is a PromptError.
        how: actions are taken; "reason" asks for a thought where the others ask for an action.

    Raises:
        PromptError: the settings do not go together.
    """
    check_prompt(settings, how)
    if settings.history == "append":
        return AppendedPrompt(tokenizer, max_tokens, how, settings.language, restates_goal=settings.restates_goal)
    if settings.history == "chat":
        wording = WORDINGS[settings.chat] if isinstance(settings.chat, str) else settings.chat
        return ChatPrompt(tokenizer, max_tokens, wording, settings.num_observations, how)
    return WindowPrompt(tokenizer, max_tokens, settings.num_observations, how, settings.language)


def check_prompt(settings: PromptSettings, how: How) -> None:
    """Refuse settings that do not go together.

    Raises:
        PromptError: a goal is to be told again where nothing would tell it, or where an answer is written freely.
    """
    if settings.restates_goal and (settings.history != "append" or how not in ("score", "constrained")):
        raise PromptError(
            "Expected prompt.history=append and acting.how=score or constrained with prompt.restates_goal, found "
            f"history={settings.history} and how={how}. Set prompt.restates_goal=false, or these."
        )


def appended_phrases(settings: PromptSettings) -> tuple[str, str]:
    """Return the wordings that every turn of "append" has: before the observation, and before the action."""
    return "\nObservation:", f"\n{_APPENDED_CUES[settings.language] if settings.restates_goal else 'Action:'}"


class AppendedPrompt:
    """A prompt that only grows: goal, then observation and action in turn.

    >>> from llmgym.engine.scripted_engine import ByteTokenizer
    >>> prompt = AppendedPrompt(ByteTokenizer(), max_tokens=1000)
    >>> prompt.begin("go to the red ball", "You see a red ball 1 step forward", ("go forward", "turn left"))
    >>> prompt.extend("go forward", prompt.candidates(("go forward",))[0], "You see a wall 1 step left", ())
    >>> print(ByteTokenizer().decode(prompt.token_ids))
    Possible actions: go forward, turn left
    Goal: go to the red ball
    Observation: You see a red ball 1 step forward
    Action: go forward
    Observation: You see a wall 1 step left
    Action:
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        how: How = "score",
        language: Language = "english",
        *,
        restates_goal: bool = False,
    ) -> None:
        self._encode_text = text_encoder(tokenizer)
        self._actions_word, self._goal_word = _APPENDED_HEADS[language]
        self._goal_cue = _APPENDED_CUES[language] if restates_goal else ""
        self._cue = "Thought:" if how == "reason" else "Action:"
        self._max_tokens = max_tokens
        self._ids: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        # Kept beside the array: to make numbers of it every turn would cost more than the rest of the prompt.
        self._context_ids: TokenIds = ()
        self._num_turns = 0
        self._known: dict[str, TokenIds] = {}

    def begin(self, mission: str, text: str, actions: tuple[str, ...]) -> None:
        """Start an episode; see `Prompt.begin`."""
        asked = f"{self._actions_word}: {', '.join(actions)}\n{self._goal_word}: {mission}"
        if self._goal_cue:
            self._cue = f"{self._goal_cue} {mission}"
        head = f"{asked}\nObservation: {text}\n{self._cue}"
        self._num_turns = 0
        self._context_ids = self._encode(head)
        self._ids = np.array(self._context_ids, dtype=np.int32)
        self._check()

    def extend(
        self, said: str, said_ids: TokenIds, text: str, actions: tuple[str, ...], *, defaulted: str | None = None
    ) -> None:
        """Add a turn; see `Prompt.extend`."""
        self._num_turns += 1
        turn = (*said_ids, *self._encode(f"\nObservation: {text}\n{self._cue}"))
        self._ids = np.concatenate([self._ids, np.array(turn, dtype=np.int32)])
        self._context_ids += turn
        self._check()

    def candidates(self, actions: tuple[str, ...]) -> tuple[TokenIds, ...]:
        """Return the token ids of actions, each with the space before it, and the colon where that is to come."""
        return tuple(self._candidate(action) for action in actions)

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """The prompt now; see `Prompt.token_ids`."""
        return self._ids

    @property
    def context_ids(self) -> TokenIds:
        """The same as plain numbers; see `Prompt.context_ids`."""
        return self._context_ids

    def _candidate(self, action: str) -> TokenIds:
        if action not in self._known:
            self._known[action] = self._encode(f": {action}" if self._goal_cue else f" {action}")
        return self._known[action]

    def _encode(self, text: str) -> TokenIds:
        return tuple(map(_shared, self._encode_text(text)))

    def _check(self) -> None:
        check_length(len(self._ids), self._num_turns, self._max_tokens, "prompt.history=window")


class WindowPrompt:
    """GLAM's prompt: the last observations and what the agent said between them, as texts, numbered from 0.

    Carta et al. 2023, https://arxiv.org/abs/2302.02662, appendix on prompts; spacing as in the authors' code.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        num_observations: int = 3,
        how: How = "score",
        language: Language = "english",
    ) -> None:
        self._encode_text = text_encoder(tokenizer)
        self._actions_word, self._goal_word = _WINDOW_HEADS[language]
        self._thinks = how == "reason"
        self._max_tokens = max_tokens
        self._num_turns = 0
        self._head = ""
        self._texts: deque[str] = deque(maxlen=num_observations)
        self._said: deque[str] = deque(maxlen=max(num_observations - 1, 0))
        self._ids: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)

    def begin(self, mission: str, text: str, actions: tuple[str, ...]) -> None:
        """Start an episode; see `Prompt.begin`."""
        self._head = f"{self._actions_word}: {', '.join(actions)} \n {self._goal_word}: {mission}"
        self._num_turns = 0
        self._texts.clear()
        self._said.clear()
        self._texts.append(text)
        self._render()

    def extend(
        self, said: str, said_ids: TokenIds, text: str, actions: tuple[str, ...], *, defaulted: str | None = None
    ) -> None:
        """Add a turn, and forget the oldest beyond the window; see `Prompt.extend`."""
        self._num_turns += 1
        self._said.append(said)
        self._texts.append(text)
        self._render()

    def candidates(self, actions: tuple[str, ...]) -> tuple[TokenIds, ...]:
        """Return the token ids of actions; the prompt itself ends with the space before them, a cue does not."""
        space = " " if self._thinks else ""
        return tuple(tuple(self._encode_text(f"{space}{action}")) for action in actions)

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """The prompt now; see `Prompt.token_ids`."""
        return self._ids

    @property
    def context_ids(self) -> TokenIds:
        """The same as plain numbers; see `Prompt.context_ids`."""
        return tuple(self._ids.tolist())

    def _render(self) -> None:
        parts = [self._head]
        for position, text in enumerate(self._texts):
            described = f"{text}, " if text else ""
            said = self._said[position] if position < len(self._said) else ""
            asks_for = "Thought" if self._thinks else "Action"
            parts.append(f" \n Observation {position}: {described}\n {asks_for} {position}: {said}")
        ids = self._encode_text("".join(parts))
        self._ids = np.array(ids, dtype=np.int32)
        check_length(len(ids), self._num_turns, self._max_tokens, "a smaller prompt.num_observations")


@cache
def _shared(token_id: int) -> int:
    """Return the one object of a token id: what goes through long prompts again and again then stays in fast memory."""
    return token_id
