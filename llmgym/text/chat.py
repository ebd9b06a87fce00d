"""The chat prompt: an episode as a conversation between the environment, as its user, and the agent."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from llmgym.errors import PromptError
from llmgym.text.chat_template import ChatTemplate, Message
from llmgym.text.chat_wording import ChatWording, fill, letters_of
from llmgym.text.length import check_length
from llmgym.types import How, TokenIds, Tokenizer

__all__ = ["ChatPrompt"]


class ChatPrompt:
    """An instruction, then the last observations and answers in turn, as a model's chat template tells them.

    The window is as BALROG's (Paglieri et al. 2024, https://arxiv.org/abs/2411.13543): the last 2 x num_observations
    messages after the instruction. It ends with an observation, so once it is full it begins with an answer. An answer
    of which nothing is left to show makes no message. Answers enter as texts: all of the prompt is tokenized anew.

    >>> from llmgym.engine.scripted_engine import ByteTokenizer
    >>> prompt = ChatPrompt(ByteTokenizer(), max_tokens=1000, wording=ChatWording())
    >>> prompt.begin("go to the red ball", "You see a red ball 2 steps forward", ("go forward", "turn left"))
    >>> prompt.extend("go forward", (), "You see a red ball 1 step forward", ("go forward", "turn left"))
    >>> print(ByteTokenizer().decode(prompt.token_ids))
    User: You act in a text environment, one action at a time. Your goal: go to the red ball
    <BLANKLINE>
    User: You see a red ball 2 steps forward
    <BLANKLINE>
    Assistant: go forward
    <BLANKLINE>
    User: You see a red ball 1 step forward
    <BLANKLINE>
    Possible actions: go forward, turn left
    Answer with one of them and nothing else.
    <BLANKLINE>
    Assistant:
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        wording: ChatWording,
        num_observations: int = 16,
        how: How = "score",
    ) -> None:
        """Tell episodes in a wording.

        Args:
            tokenizer: of the model; its chat template is taken where it has one.
            max_tokens: the model's context; a longer prompt is a PromptError.
            wording: what the messages say.
            num_observations: observations in the window, the current one among them.
            how: actions are taken.

        Raises:
            PromptError: the window has no room for an observation.
        """
        if num_observations < 1:
            raise PromptError(
                f"Expected prompt.num_observations of at least 1, found {num_observations}. Set 1 or more."
            )
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._wording = wording
        self._max_tokens = max_tokens
        self._keeps_letters_only = wording.letters_only and how == "text"
        self._space = " " if how == "reason" else self._template.action_space
        self._num_turns = 0
        self._instruction = ""
        self._actions: tuple[str, ...] = ()
        self._window: deque[Message] = deque(maxlen=2 * num_observations)
        self._ids: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self._known: dict[str, TokenIds] = {}

    def begin(self, mission: str, text: str, actions: tuple[str, ...]) -> None:
        """Start an episode; see `Prompt.begin`."""
        self._num_turns = 0
        self._instruction = fill(self._wording.instruction, mission=mission, actions=actions)
        self._window.clear()
        self._observe(self._wording.observed(text), actions)

    def extend(
        self, said: str, said_ids: TokenIds, text: str, actions: tuple[str, ...], *, defaulted: str | None = None
    ) -> None:
        """Add a turn, and forget the oldest messages beyond the window; see `Prompt.extend`."""
        self._num_turns += 1
        answer = letters_of(said) if self._keeps_letters_only else said.strip()
        if answer:
            self._window.append(Message("assistant", answer))
        self._observe(self._wording.observed(text, defaulted), actions)

    def candidates(self, actions: tuple[str, ...]) -> tuple[TokenIds, ...]:
        """Return the token ids of actions, as they would begin the assistant's message (or follow a thought's cue)."""
        return tuple(self._candidate(action) for action in actions)

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        """The prompt now; see `Prompt.token_ids`."""
        return self._ids

    @property
    def context_ids(self) -> TokenIds:
        """The same as plain numbers; see `Prompt.context_ids`."""
        return tuple(self._ids.tolist())

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation now, the instruction first and the current observation last."""
        *past, current = self._window
        told = [
            Message("user", fill(self._wording.observation, text=one.content)) if one.role == "user" else one
            for one in past
        ]
        last = fill(self._wording.current, text=current.content, actions=self._actions)
        return Message("user", self._instruction), *told, Message("user", last)

    def _observe(self, observed: str, actions: tuple[str, ...]) -> None:
        """Add an observation to the window, which holds those as they were observed: their wording is `messages`'."""
        self._actions = actions
        self._window.append(Message("user", observed))
        self._ids = np.array(self._template.encode(self.messages), dtype=np.int32)
        check_length(len(self._ids), self._num_turns, self._max_tokens, "a smaller prompt.num_observations")

    def _candidate(self, action: str) -> TokenIds:
        if action not in self._known:
            ids = self._tokenizer.encode(f"{self._space}{action}", add_special_tokens=False)
            self._known[action] = tuple(ids)
        return self._known[action]
