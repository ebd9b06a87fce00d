"""The transformers backend: asks become rows behind contexts that are read once. Knows no server.

It is the exact reference of the other engines, and the one that serves encoder-decoders and weights of 4 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmgym.engine.asks import Answer, Ask, AskNext, AskPath, AskSample, Sampled
from llmgym.engine.settings import EngineSettings
from llmgym.engine.tokenizer import load_tokenizer
from llmgym.engine.transformers_adapters import Adapters
from llmgym.engine.transformers_check import check_sharing
from llmgym.engine.transformers_contexts import Contexts
from llmgym.engine.transformers_forward import Transformer
from llmgym.engine.transformers_loading import end_token_ids, load_transformer, longest_context
from llmgym.engine.transformers_memory import Memory, MemoryBatch
from llmgym.engine.transformers_sampling import Continuation, Continuations, Ends
from llmgym.engine.transformers_watch import first_non_finite
from llmgym.errors import EngineError
from llmgym.nf4 import is_nf4
from llmgym.types import FloatArray, NamedTensors, TokenIds

__all__ = ["TransformersBackend"]

NUM_BATCHES_IN_VIEW = 4
"""Open asks from which the next batch of rows of like length is put together, in batches of requests."""

AskRow = AskNext | AskPath


class TransformersBackend:
    """A `Backend` that computes with a Hugging Face model in this process."""

    can_ask_paths = True

    def __init__(self, model: str, settings: EngineSettings) -> None:
        """Load a decoder-only or encoder-decoder model and its tokenizer from a folder or hub id.

        Raises:
            EngineError: the model or its tokenizer cannot be loaded, or it cannot share what it reads.
        """
        loaded = load_transformer(model, settings)
        self.tokenizer: Any = load_tokenizer(model, reads_special_tokens=settings.reads_special_tokens)
        self.max_context_tokens: int = settings.max_context_tokens or longest_context(loaded.config)
        transformer = Transformer(loaded)
        check_sharing(transformer)
        contexts = Contexts(
            transformer,
            int(settings.kv_cache_gib * 2**30),
            max_rows=settings.max_batch_requests,
            max_tokens=settings.max_batch_tokens,
        )
        self._model: _Model | None = _Model(transformer, Adapters(loaded), contexts)
        self._ends = Ends(self.tokenizer, end_token_ids(loaded, self.tokenizer))
        self._rng = np.random.default_rng(settings.seed)
        self._max_rows = settings.max_batch_requests
        self._tickets = count()
        self._rows: dict[int, AskRow] = {}
        self._samples: dict[int, AskSample] = {}
        self._continuations: list[Continuations] = []

    def num_recomputed_tokens(self, num_context_tokens: int) -> int:
        """Return 0: a context is read once."""
        return 0

    def submit(self, ask: Ask) -> int:
        """Take an ask; see `Backend.submit`."""
        ticket = next(self._tickets)
        if isinstance(ask, AskSample):
            self._samples[ticket] = ask
        else:
            self._rows[ticket] = ask
        return ticket

    @torch.inference_mode()
    def advance(self) -> list[tuple[int, Answer]]:
        """Answer a batch of rows, and sample one token of every continuation under way."""
        return [*self._answer_rows(), *self._sample()]

    def cancel(self, tickets: Sequence[int]) -> None:
        """Forget asks; see `Backend.cancel`."""
        for ticket in tickets:
            self._rows.pop(ticket, None)
            self._samples.pop(ticket, None)
        for continuations in self._continuations:
            continuations.cancel(tickets)
        self._continuations = [one for one in self._continuations if len(one)]

    def load_adapter(self, path: str, name: str) -> None:
        """Serve the PEFT adapter of a folder under a name.

        Raises:
            EngineError: there is none, or it does not fit the model.
        """
        self._open.contexts.forget()
        self._open.adapters.load(path, name)

    def drop_adapter(self, name: str) -> None:
        """Forget the adapter of a name; see `Backend.drop_adapter`."""
        self._open.contexts.forget()
        self._open.adapters.drop(name)

    def load_weights(self, named_tensors: NamedTensors) -> None:
        """Replace all base weights; names are the Hugging Face model's own.

        Raises:
            EngineError: the model has weights of 4 bits, or a name or shape is not one of its own.
        """
        model = self._open.transformer.model
        if is_nf4(model):
            raise EngineError(
                "Expected a model with plain weights to replace, but this one was loaded with load_in_4bit. Publish an "
                "adapter, or load the model without."
            )
        self._open.contexts.forget()
        # The tensors of a state dict are the model's own, tied ones under each of their names.
        own = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
        for name, tensor in named_tensors:
            if name not in own or own[name].shape != tensor.shape:
                shape = f"the shape {tuple(own[name].shape)}" if name in own else "no such weight"
                raise EngineError(
                    f"Expected weights of the model that the engine was loaded with, found {name} of shape "
                    f"{tuple(tensor.shape)}, where it has {shape}. Publish the same model."
                )
            own[name].copy_(tensor)

    def sleep(self) -> None:
        """Do nothing: what the model and its memory take is small beside what a learner needs."""

    def wake_up(self) -> None:
        """Do nothing."""

    @torch.inference_mode()
    def find_non_finite(self, ask: Ask) -> str:
        """Compute an ask again while watching the model; see `Backend.find_non_finite`."""
        transformer = self._open.transformer
        self._open.adapters.use(ask.adapter)

        def compute() -> None:
            (memory,) = transformer.read([ask.context_ids])
            if not isinstance(ask, AskSample) and (row_ids := _row_ids(ask)):
                transformer.run(MemoryBatch.stack([memory]), [row_ids], [1])

        return first_non_finite(transformer.model, compute)

    def close(self) -> None:
        """Drop the model and all that it has read."""
        self._continuations.clear()
        self._model = None

    @property
    def _open(self) -> _Model:
        assert self._model is not None, "the engine refuses calls once it is closed"
        return self._model

    def _answer_rows(self) -> list[tuple[int, Answer]]:
        """Read a batch of contexts that are not kept; answer what needs nothing more, and a batch of rows behind."""
        if not self._rows:
            return []
        adapter = self._open.adapters.answering(next(iter(self._rows.values())).adapter)
        # The oldest ones only: with thousands open, looking at all of them in every pass would cost more than the pass.
        oldest = islice(self._rows.items(), NUM_BATCHES_IN_VIEW * self._max_rows)
        asks = [(t, ask) for t, ask in oldest if self._open.adapters.answering(ask.adapter) == adapter]
        self._open.adapters.use(adapter)
        memories = self._open.contexts.remember(adapter, (ask.context_ids for _, ask in asks))
        ready = [_Ready(t, ask, memories[ask.context_ids]) for t, ask in asks if ask.context_ids in memories]
        answers: list[tuple[int, Answer]] = [(one.ticket, _told(one, None)) for one in ready if not one.row_ids]
        behind = [one for one in ready if one.row_ids]
        if behind:
            answers += self._run_behind(behind)
        for ticket, _ in answers:
            del self._rows[ticket]
        return answers

    def _run_behind(self, ready: list[_Ready]) -> list[tuple[int, Answer]]:
        """Answer one batch of asks by the rows behind their contexts."""
        # Long ones go together, so that little of a batch is padding.
        ready.sort(key=lambda one: (len(one.ask.context_ids), len(one.row_ids)), reverse=True)
        longest = len(ready[0].ask.context_ids) + max(len(one.row_ids) for one in ready)
        batch = ready[: self._open.contexts.num_fitting(longest)]
        rows = [one.row_ids for one in batch]
        num_told = [1 if isinstance(one.ask, AskNext) else len(one.row_ids) for one in batch]
        logprobs, _ = self._open.transformer.run(MemoryBatch.stack([one.memory for one in batch]), rows, num_told)
        return [(one.ticket, _told(one, own)) for one, own in zip(batch, logprobs, strict=True)]

    def _sample(self) -> list[tuple[int, Sampled]]:
        """Begin continuations while there is room, and sample one token of each under way."""
        room = self._max_rows - sum(map(len, self._continuations))
        if self._samples and room > 0:
            self._begin(room)
        whole = []
        for continuations in self._continuations:
            self._open.adapters.use(continuations.adapter)
            whole += continuations.step(self._open.transformer, self._ends)
        self._continuations = [one for one in self._continuations if len(one)]
        return whole

    def _begin(self, room: int) -> None:
        """Begin at most so many continuations, of one adapter, whose contexts are read or can be in one batch."""
        adapter = self._open.adapters.answering(next(iter(self._samples.values())).adapter)
        asks = [one for one in self._samples.items() if self._open.adapters.answering(one[1].adapter) == adapter][:room]
        self._open.adapters.use(adapter)
        memories = self._open.contexts.remember(adapter, (ask.context_ids for _, ask in asks))
        begun = []
        for ticket, ask in asks:
            if (memory := memories.get(ask.context_ids)) is not None:
                seed = int(self._rng.integers(2**63)) if ask.seed is None else ask.seed
                begun.append((Continuation(ticket, ask, np.random.default_rng(seed)), memory))
                del self._samples[ticket]
        self._open_continuations(adapter).begin(begun)

    def _open_continuations(self, adapter: str) -> Continuations:
        """Return the batch that new continuations of an adapter go into.

        A decoder behind an encoder may count its positions from the start of the batch, padding included: there, only
        continuations that begin together go together.
        """
        if not self._open.transformer.is_encoder_decoder:
            for continuations in self._continuations:
                if continuations.adapter == adapter:
                    return continuations
        self._continuations.append(Continuations(adapter))
        return self._continuations[-1]


@dataclass(frozen=True, slots=True)
class _Model:
    """What is served."""

    transformer: Transformer
    adapters: Adapters
    contexts: Contexts


@dataclass(frozen=True, slots=True)
class _Ready:
    """An ask whose context has been read."""

    ticket: int
    ask: AskRow
    memory: Memory

    @property
    def row_ids(self) -> TokenIds:
        """Tokens that run behind the context: the last token of a path is told by those before it."""
        return _row_ids(self.ask)


def _row_ids(ask: AskRow) -> TokenIds:
    return ask.prefix_ids if isinstance(ask, AskNext) else ask.path_ids[:-1]


def _told(ready: _Ready, behind: Tensor | None) -> FloatArray:
    """Return the answer to an ask.

    Args:
        ready: the ask, and the memory of its context.
        behind: float32 (num_told, V); after the tokens of the row behind the context, None if there is no row.
    """
    rows = ready.memory.logprobs[None] if behind is None else behind
    if isinstance(ready.ask, AskNext):
        told = rows[-1, list(ready.ask.token_ids)]
    else:
        rows = rows if behind is None else torch.cat([ready.memory.logprobs[None], behind])
        told = rows.gather(1, torch.tensor(ready.ask.path_ids, device=rows.device)[:, None])[:, 0]
    result: FloatArray = told.cpu().numpy()
    return result
