"""What a pass is asked for, as token ids: contexts, their candidates, and how rows are made of them. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmgym.errors import HostError, PromptError
from llmgym.types import Context, TokenIds

if TYPE_CHECKING:
    import torch

__all__ = [
    "Candidates",
    "EncodedPass",
    "InputSettings",
    "PassOptions",
    "PassRequest",
    "check_lists",
    "encode_contexts",
    "encode_pass",
]

Candidates = Sequence[Sequence[Context]]


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How one pass through a model is made.

    Attributes:
        minibatch_size: rows (a context with one candidate) of one forward pass, at least 1; more takes more memory.
            None takes the model's own.
        adapter: name of the PEFT adapter that answers; None leaves the one that is active, "base" takes the model
            without an adapter.
        add_eos: whether every candidate ends with the end-of-sequence token.
        pad_contexts: whether the contexts of a decoder-only model are padded on the left to one length, so that all
            candidates begin at one position. Taken to be True where contexts are encoded once.
        context_length: tokens that contexts are padded to; None takes the longest.
        sequence_length: tokens that a context and its candidate are padded to, in decoder-only models; None takes the
            longest.
        allow_empty: whether a candidate may have no token at all; its log-probability is 0.
        named: what module functions are handed besides the rows, by name.
    """

    minibatch_size: int | None = None
    adapter: str | None = None
    add_eos: bool = False
    pad_contexts: bool = True
    context_length: int | None = None
    sequence_length: int | None = None
    allow_empty: bool = False
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassRequest:
    """One pass through a model.

    Attributes:
        keys: of the module functions that read the model's output.
        contexts: texts or token ids.
        candidates: for each context its candidates; None for one empty candidate each.
        options: how the pass is made.
        with_gradients: whether the answer can be differentiated.
    """

    keys: tuple[str, ...]
    contexts: Sequence[Any]
    candidates: Candidates | None
    options: PassOptions
    with_gradients: bool = False


@dataclass(frozen=True, slots=True)
class InputSettings:
    """How texts are fed to a model.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        device: where inputs are put.
        is_encoder_decoder: whether the context goes to an encoder.
        pad_token_id: fills rows up; masks tell it from a real token of the same id.
        start_token_id: first input of the decoder of an encoder-decoder model.
        max_tokens: longest context with its candidate (of an encoder-decoder model: the longest of either).
        minibatch_size: rows of one forward pass.
        pre_encode_inputs: whether a context is encoded once and shared among its candidates.
        interpret_special_tokens: whether a special token's name inside a text stands for that token.
    """

    tokenizer: Any
    device: torch.device
    is_encoder_decoder: bool
    pad_token_id: int
    start_token_id: int
    max_tokens: int
    minibatch_size: int
    pre_encode_inputs: bool
    interpret_special_tokens: bool


@dataclass(frozen=True, slots=True)
class EncodedPass:
    """A pass in token ids.

    Attributes:
        contexts: each of at least one token.
        candidates: for each context any number of candidates; a candidate may have no token.
    """

    contexts: tuple[TokenIds, ...]
    candidates: tuple[tuple[TokenIds, ...], ...]

    def rows(self) -> list[tuple[int, TokenIds]]:
        """Return one row a candidate: the index of its context, and its token ids."""
        return [(index, ids) for index, options in enumerate(self.candidates) for ids in options]


def encode_pass(inputs: InputSettings, request: PassRequest) -> EncodedPass:
    """Tokenize contexts and candidates, apart from each other and without special tokens, and check that they fit.

    Raises:
        HostError: the lengths differ, or a context or candidate has no token.
        PromptError: a context with a candidate is longer than the model's context.
    """
    candidates = request.candidates
    check_lists(request.contexts, candidates)
    context_ids = encode_contexts(inputs, request.contexts)
    if candidates is None:
        return EncodedPass(context_ids, (((),),) * len(context_ids))
    ending = _ending(inputs, request.options)
    candidate_ids = tuple(tuple((*encode(inputs, candidate), *ending) for candidate in listed) for listed in candidates)
    encoded = EncodedPass(context_ids, candidate_ids)
    _check_rows(encoded, inputs, candidates, allow_empty=request.options.allow_empty)
    return encoded


def encode_contexts(
    inputs: InputSettings, contexts: Sequence[Context], num_new_tokens: int = 0
) -> tuple[TokenIds, ...]:
    """Tokenize contexts.

    Args:
        num_new_tokens: room that each must leave in the model's context.

    Raises:
        HostError: they are one text and no list, or one has no token.
        PromptError: one does not fit.
    """
    check_lists(contexts, None)
    encoded = tuple(encode(inputs, context) for context in contexts)
    for index, ids in enumerate(encoded):
        if not ids:
            raise HostError(
                f"Expected every context to have a token, but context {index} ({contexts[index]!r}) has none. "
                "Begin it with a first word or token."
            )
        taken = len(ids) if inputs.is_encoder_decoder else len(ids) + num_new_tokens
        if taken > inputs.max_tokens:
            raise PromptError(
                f"Expected at most {inputs.max_tokens} tokens in a context with its answer, but context {index} needs "
                f"{taken}. Shorten it, or take a model with a longer context."
            )
    return encoded


def check_lists(contexts: Sequence[Any], candidates: Candidates | None) -> None:
    """Refuse lists that do not belong together, or a text in place of a list.

    Raises:
        HostError: says which.
    """
    if isinstance(contexts, str):
        raise HostError("Expected a list of contexts, found one text. Put it into a list: [context].")
    if candidates is None:
        return
    if len(candidates) != len(contexts):
        raise HostError(
            f"Expected one list of candidates a context, found {len(contexts)} contexts and {len(candidates)} lists."
        )
    for index, listed in enumerate(candidates):
        if isinstance(listed, str):
            raise HostError(
                f"Expected a list of candidates for context {index}, found the text {listed!r}. Put it into a list."
            )


def encode(inputs: InputSettings, text: Context) -> TokenIds:
    """Return the token ids of a text, without special tokens around it; token ids pass through as they are."""
    if isinstance(text, str):
        split = not inputs.interpret_special_tokens
        return tuple(inputs.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=split))
    return tuple(text.tolist()) if isinstance(text, np.ndarray) else tuple(int(token) for token in text)


def _ending(inputs: InputSettings, options: PassOptions) -> TokenIds:
    """Return what is put behind every candidate."""
    if not options.add_eos:
        return ()
    eos = inputs.tokenizer.eos_token_id
    if eos is None:
        raise HostError(
            "Expected a tokenizer with an end-of-sequence token to end candidates with, found none. "
            "Set tokenizer.eos_token, or leave the option out."
        )
    return (int(eos),)


def _check_rows(encoded: EncodedPass, inputs: InputSettings, candidates: Candidates, *, allow_empty: bool) -> None:
    for index, (context, options) in enumerate(zip(encoded.contexts, encoded.candidates, strict=True)):
        for position, ids in enumerate(options):
            if not ids and not allow_empty:
                raise HostError(
                    f"Expected every candidate to have a token, but {candidates[index][position]!r} of context "
                    f"{index} has none. Remove it, or set add_eos to score the end of the sequence."
                )
            taken = len(ids) + 1 if inputs.is_encoder_decoder else len(context) + len(ids)
            if taken > inputs.max_tokens:
                raise PromptError(
                    f"Expected at most {inputs.max_tokens} tokens in a context with its candidate, but candidate "
                    f"{position} of context {index} needs {taken}. Shorten the context, or take a model with a "
                    "longer one."
                )
