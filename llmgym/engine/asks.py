"""Asks: the three questions that an engine puts to a backend, and what a backend is. Knows no policy and no text.

An engine turns scoring, choosing and generating into asks, once for all backends; a backend turns asks into forward
passes, many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llmgym.types import FloatArray, NamedTensors, TokenIds

__all__ = ["BASE", "POLICY", "Answer", "Ask", "AskNext", "AskPath", "AskSample", "Backend", "Sampled"]

POLICY = "policy"
"""Name of the adapter that the learner publishes; without one, the base weights answer to this name."""
BASE = "base"
"""Name under which the weights answer without any adapter."""


@dataclass(frozen=True, slots=True)
class AskNext:
    """Ask how likely each of some tokens is to come next. The answer is float32 (len(token_ids),).

    Attributes:
        context_ids: what the candidates follow (what an encoder reads, if the model has one).
        prefix_ids: the part of a candidate that is there already.
        token_ids: the tokens in question; any number of distinct ones.
        adapter: who answers.
    """

    context_ids: TokenIds
    prefix_ids: TokenIds
    token_ids: TokenIds
    adapter: str = POLICY


@dataclass(frozen=True, slots=True)
class AskPath:
    """Ask how likely each token of a path is, given the context and the path before it.

    The answer is float32 (len(path_ids),), NaN at tokens that the backend cannot tell without computing more: who
    asks then asks for those with `AskNext`. The first token may always be one of them.
    """

    context_ids: TokenIds
    path_ids: TokenIds
    adapter: str = POLICY


@dataclass(frozen=True, slots=True)
class AskSample:
    """Ask for one sampled continuation. The answer is a `Sampled`.

    Attributes:
        context_ids: what is continued.
        max_new_tokens: longest answer.
        temperature: divides the logits; 0 takes the best token.
        stop: texts that end the answer.
        seed: of the draw; None for one that cannot be repeated.
        allowed: sample one of these sequences, token by token, renormalised at every token among those that
            continue one of them; None for anything. None of them is a proper prefix of another.
        adapter: who answers.
    """

    context_ids: TokenIds
    max_new_tokens: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    allowed: tuple[TokenIds, ...] | None = None
    adapter: str = POLICY


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled continuation.

    Attributes:
        text: without the stop text or end of sequence that ended it.
        token_ids: what was sampled, all of it.
        logprobs: float32 (num_tokens,); of each token, after temperature and mask.
        finish_reason: "stop" (end of sequence, stop text, or an allowed sequence is whole) or "length".
    """

    text: str
    token_ids: TokenIds
    logprobs: FloatArray
    finish_reason: Literal["stop", "length"]


Ask = AskNext | AskPath | AskSample
Answer = FloatArray | Sampled


class Backend(Protocol):
    """Who computes: takes asks at any time, and hands out answers as they are done.

    Attributes:
        tokenizer: of the model.
        max_context_tokens: longest context plus answer, in tokens.
        can_ask_paths: whether `AskPath` is answered; who asks uses `AskNext` otherwise.
    """

    tokenizer: Any
    max_context_tokens: int
    can_ask_paths: bool

    def submit(self, ask: Ask) -> int:
        """Take an ask; return the ticket that its answer will carry."""
        ...

    def advance(self) -> list[tuple[int, Answer]]:
        """Compute for a while; return the answers that are done, each with its ticket.

        Returns an empty list if nothing was submitted; never blocks forever.
        """
        ...

    def cancel(self, tickets: Sequence[int]) -> None:
        """Forget asks whose answers nobody waits for any more; unknown tickets are ignored."""
        ...

    def num_recomputed_tokens(self, num_context_tokens: int) -> int:
        """Return how many tokens of a context every ask computes anew, though another ask went through it before."""
        ...

    def load_adapter(self, path: str, name: str) -> None:
        """Serve the PEFT adapter of a folder under a name; one of that name is replaced."""
        ...

    def drop_adapter(self, name: str) -> None:
        """Forget the adapter of a name; an unknown name is ignored."""
        ...

    def load_weights(self, named_tensors: NamedTensors) -> None:
        """Replace all base weights, and forget what was cached with the old ones."""
        ...

    def sleep(self) -> None:
        """Free the memory of a device that is shared with the learner, where there is one, until `wake_up`."""
        ...

    def wake_up(self) -> None:
        """Take the memory back; asks may come again. Does nothing if the backend is awake."""
        ...

    def find_non_finite(self, ask: Ask) -> str:
        """Compute an ask again while watching the model; return the name of the first module that yields NaN."""
        ...

    def close(self) -> None:
        """Free what the backend holds; a second call does nothing."""
        ...
