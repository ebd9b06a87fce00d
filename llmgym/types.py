"""The records that cross layers, and the Engine protocol. Knows numpy only: neither torch nor vllm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from llmgym.records import (
    NO_VERSION,
    Acting,
    Batch,
    Choice,
    FloatArray,
    Generation,
    How,
    Normalize,
    Scores,
    Steps,
    TokenIds,
    Trajectory,
    Turn,
)

__all__ = [
    "NO_VERSION",
    "Acting",
    "Batch",
    "Choice",
    "Context",
    "Decides",
    "Engine",
    "FloatArray",
    "Generation",
    "How",
    "NamedTensors",
    "Normalize",
    "Parser",
    "Scores",
    "Steps",
    "TokenIds",
    "Tokenization",
    "Tokenizer",
    "Trajectory",
    "Turn",
]

Context = str | Sequence[int] | npt.NDArray[np.int32]
"""A text, or its token ids."""
Parser = Callable[[str, Sequence[str]], int | None]
"""From (answer, actions) to the index of the action that the answer names, or None where it names none."""
Tokenization = Literal["separate", "joint"]
NamedTensors = Iterable[tuple[str, Any]]
"""Pairs of parameter name (as the Hugging Face model names it) and torch tensor."""


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that llmgym uses."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        ...


class Decides(Protocol):
    """The part of an engine that acts in an environment, which is all that collectors use."""

    tokenizer: Any
    max_context_tokens: int

    def act(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        acting: Acting,
        seed: int | Sequence[int] | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> list[Choice]:
        """Take one action for every context, in any of the ways of `Acting`.

        Args:
            parse: for "text", finds the action that an answer names; by default the answer that is one of the actions
                or begins with one, white space and case aside.
        """
        ...

    def start(
        self,
        context: Context,
        candidates: Sequence[Context],
        acting: Acting,
        seed: int | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> int:
        """Begin to take one action; return the ticket under which `advance` will hand out the choice."""
        ...

    def advance(self) -> list[tuple[int, Choice]]:
        """Compute for a while; return the choices that were started and are now made, each with its ticket."""
        ...


@runtime_checkable
class Engine(Decides, Protocol):
    """Who answers: scores candidates, chooses among them, generates text, and takes new weights while running.

    An engine is a context manager. Contexts are texts or token ids; candidates are texts, or token ids where they
    were tokenized before; contexts and candidates are tokenized apart, without special tokens.
    """

    version: int
    """Policy version: 0 at the start, then what the last swap said."""

    def score(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        normalize: Normalize = "sum",
        *,
        ends_candidates: bool = False,
        tokenization: Tokenization = "separate",
        adapter: str = "policy",
    ) -> Scores:
        """Return log P(candidate | context) of every candidate of every context.

        Args:
            normalize: "sum" or "mean" over a candidate's tokens, or "none" for the tokens' own.
            ends_candidates: count the end of the sequence behind a candidate as its last token.
            tokenization: "separate" tokenizes context and candidate apart; "joint" tokenizes their texts together,
                and scores whatever follows the tokens that the context shares with all of its joint texts.
            adapter: who answers: "policy" (what the learner published last), "base" (no adapter), or a name given to
                `load_adapter`.

        Raises:
            EngineError: a list is empty or the lengths differ, an adapter is unknown, or the engine is closed.
            PromptError: a context does not fit into the model.
        """
        ...

    def choose(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        how: How = "score",
        temperature: float = 1.0,
        seed: int | Sequence[int] | None = None,
        *,
        normalize: Normalize = "sum",
    ) -> list[Choice]:
        """Draw one candidate for every context: `act`, with what is mostly set.

        Args:
            seed: one seed for the call, or one a context (then a context's draw does not depend on its batch).
        """
        ...

    def generate(
        self,
        contexts: Sequence[Context],
        max_new_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> list[list[Generation]]:
        """Sample n answers for every context."""
        ...

    def load_adapter(self, path: str, version: int, name: str = "policy") -> None:
        """Serve the PEFT adapter of a folder under a name from now on, on top of the base weights.

        Only the name "policy" changes `version`: the version of any other adapter is its caller's affair.
        """
        ...

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Replace all weights from now on."""
        ...

    def sleep(self) -> None:
        """Leave a GPU that is shared with the learner to it; nothing is asked until `wake_up`.

        Does nothing where no GPU is shared.
        """
        ...

    def wake_up(self) -> None:
        """Serve again, before new weights are loaded; a second call does nothing."""
        ...

    def close(self) -> None:
        """Free what the engine holds; a second call does nothing."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc_info: object) -> None: ...
