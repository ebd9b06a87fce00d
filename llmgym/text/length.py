"""The length of a prompt: what does not fit into the model is refused."""

from __future__ import annotations

from llmgym.errors import PromptError

__all__ = ["check_length"]


def check_length(num_tokens: int, num_turns: int, max_tokens: int, remedy: str) -> None:
    """Refuse a prompt that is longer than the model's context.

    Args:
        num_turns: how many turns the episode has taken.
        remedy: what may be set to make it shorter.

    Raises:
        PromptError: says how long it is, and what to do.
    """
    if num_tokens > max_tokens:
        raise PromptError(
            f"Expected a prompt of at most {max_tokens} tokens, the model's context, but at turn {num_turns} of the "
            f"episode it has {num_tokens}. Set {remedy}, take fewer steps an episode, or a model with a longer context."
        )
