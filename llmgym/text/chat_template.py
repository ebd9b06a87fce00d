"""Conversations as token ids: a model's own chat template where it has one, plain text where it has none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from llmgym.errors import PromptError
from llmgym.types import TokenIds

__all__ = ["PLAIN_STOP", "ChatTemplate", "Message"]

PLAIN_STOP = "\n\nUser:"
"""Where a model without a chat template begins to write the user's next message: its answer is over."""

_HELD = ("\ue000", "\ue001")
"""Private-use characters around the number of a text that is tokenized by itself."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class ChatTemplate:
    """How a tokenizer's model reads a conversation.

    The template decides all that stands around the messages, such as a system message of its own. What looks like a
    special token inside a message stays text. Where a template wants roles to alternate, messages of one role in a row
    become one, a line each. Without a template, messages are told as "User: ..." and "Assistant: ...", an empty line
    between.

    Attributes:
        is_plain: whether there is no template.
        action_space: what stands between the prompt and an action: a space behind "Assistant:", nothing elsewhere.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.is_plain = not getattr(tokenizer, "chat_template", None)
        self.action_space = " " if self.is_plain else ""
        self._merges = not self.is_plain and not _allows_repeats(tokenizer)

    def encode(self, messages: Sequence[Message]) -> TokenIds:
        """Return the token ids of a conversation, up to where the assistant's next message begins."""
        if self.is_plain:
            told = [f"{message.role.capitalize()}: {message.content}" for message in messages]
            return tuple(self._tokenizer.encode("\n\n".join([*told, "Assistant:"]), add_special_tokens=False))
        held: list[str] = []

        def hold(found: re.Match[str]) -> str:
            held.append(found.group())
            return f"{_HELD[0]}{len(held) - 1}{_HELD[1]}"

        special = _special_tokens(self._tokenizer)
        messages = [Message(one.role, special.sub(hold, one.content)) for one in messages]
        rendered = _render(self._tokenizer, _merged(messages) if self._merges else messages)
        ids: list[int] = []
        for part in re.split(f"({_HELD[0]}[0-9]+{_HELD[1]})", rendered):
            is_held = part.startswith(_HELD[0])
            text = held[int(part[1:-1])] if is_held else part
            ids += self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=is_held)
        return tuple(ids)


def _render(tokenizer: Any, messages: Sequence[Message]) -> str:
    # Templates are jinja's: where transformers renders one, it is installed.
    from jinja2 import TemplateError

    conversation = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise PromptError(
            f"Expected a chat template that takes messages of user and assistant, found one that says: {error}. "
            "Set prompt.history=append, or take another model."
        ) from error


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Return messages of alternating roles."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, f"{merged[-1].content}\n{message.content}")
        else:
            merged.append(message)
    return merged


@lru_cache(maxsize=8)
def _allows_repeats(tokenizer: Any) -> bool:
    """Tell whether the template takes two messages of the user in a row."""
    try:
        _render(tokenizer, [Message("user", "a"), Message("user", "b")])
    except PromptError:
        return False
    return True


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return what finds a text that would become a special token, or one of the characters that hold its place."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    longest_first = sorted(special, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, [*longest_first, *_HELD])))
