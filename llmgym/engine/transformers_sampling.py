"""Sampling: continuations of many contexts side by side, one token of each a step.

What one of them draws depends on its own seed and probabilities only: the others in the batch come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from llmgym.candidates import Trie, build_trie
from llmgym.engine.asks import AskSample, Sampled
from llmgym.engine.transformers_forward import Transformer
from llmgym.engine.transformers_memory import Memory, MemoryBatch
from llmgym.types import TokenIds

__all__ = ["Continuation", "Continuations", "Ends"]


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends an answer.

    Attributes:
        tokenizer: writes answers as texts.
        token_ids: tokens that end the sequence.
    """

    tokenizer: Any
    token_ids: frozenset[int]


@dataclass(slots=True, eq=False)
class Continuation:
    """One continuation under way.

    Attributes:
        ticket: its answer will carry it.
        ask: what to sample.
        rng: draws the tokens.
        token_ids: sampled so far.
        logprobs: of these tokens, after temperature and mask.
        node: where they lead in the trie of what is allowed.
    """

    ticket: int
    ask: AskSample
    rng: np.random.Generator
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    node: int = 0

    @property
    def trie(self) -> Trie | None:
        """Of what is allowed; None where everything is."""
        return None if self.ask.allowed is None else build_trie(self.ask.allowed)


class Continuations:
    """Continuations by one adapter that run in one batch."""

    def __init__(self, adapter: str) -> None:
        """Begin without any."""
        self.adapter = adapter
        self._rows: list[Continuation] = []
        self._memory: MemoryBatch | None = None
        self._logprobs: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self, begun: Sequence[tuple[Continuation, Memory]]) -> None:
        """Begin continuations, each behind the memory of its context."""
        self._rows += [row for row, _ in begun]
        batch = MemoryBatch.stack([memory for _, memory in begun])
        logprobs = torch.stack([memory.logprobs for _, memory in begun])
        self._memory = batch if self._memory is None else self._memory.join(batch)
        self._logprobs = logprobs if self._logprobs is None else torch.cat([self._logprobs, logprobs])

    def cancel(self, tickets: Sequence[int]) -> None:
        """Forget continuations; unknown tickets are ignored."""
        self._keep([place for place, row in enumerate(self._rows) if row.ticket not in tickets])

    def step(self, transformer: Transformer, ends: Ends) -> list[tuple[int, Sampled]]:
        """Sample one token of every continuation; return those that are whole, and run the rest."""
        assert self._logprobs is not None, "there is a continuation to go on with"
        whole, open_places = [], []
        drawn = _draw(self._rows, self._logprobs)
        for place, (row, (token, logprob)) in enumerate(zip(self._rows, drawn, strict=True)):
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            sampled = _ended(row, ends)
            if sampled is None:
                open_places.append(place)
            else:
                whole.append((row.ticket, sampled))
        self._keep(open_places)
        if self._rows:
            tokens = [(row.token_ids[-1],) for row in self._rows]
            logprobs, self._memory = transformer.run(self._memory, tokens, [1] * len(tokens))
            self._logprobs = torch.cat(logprobs)
        return whole

    def _keep(self, places: Sequence[int]) -> None:
        """Go on with some of the rows only."""
        if len(places) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in places]
        if not self._rows:
            self._memory = self._logprobs = None
        else:
            assert self._memory is not None, "every row has a memory"
            assert self._logprobs is not None, "every row has probabilities"
            self._memory = self._memory.select(places)
            self._logprobs = self._logprobs[list(places)]


def _draw(rows: Sequence[Continuation], logprobs: Tensor) -> list[tuple[int, float]]:
    """Draw the next token of every row: (token, its log-probability after temperature and mask).

    At temperature 0 it is the best token, with its log-probability at temperature 1. A row of NaN draws token 0.

    Args:
        logprobs: float32 (num_rows, V); of the token that comes next.
    """
    scores = logprobs
    if any(row.trie is not None for row in rows):
        scores = torch.full_like(logprobs, -torch.inf)
        for place, row in enumerate(rows):
            allowed = slice(None) if row.trie is None else _allowed(row.trie, row.node)
            scores[place, allowed] = logprobs[place, allowed]
    temperatures = torch.tensor([row.ask.temperature or 1.0 for row in rows], device=scores.device)
    distribution = (scores / temperatures[:, None]).log_softmax(-1)
    # In float64, so that the sum of a large vocabulary's probabilities is 1 to the last digit that is drawn.
    cumulative = distribution.double().exp().cumsum(-1)
    uniform = torch.tensor([[row.rng.random()] for row in rows], dtype=torch.float64, device=scores.device)
    sampled = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    is_greedy = torch.tensor([row.ask.temperature == 0 for row in rows], device=scores.device)
    tokens = torch.where(is_greedy, distribution.argmax(-1), sampled)
    tokens = torch.where(cumulative[:, -1].isnan(), torch.zeros_like(tokens), tokens)
    values = distribution.gather(1, tokens[:, None])[:, 0]
    return list(zip(tokens.tolist(), values.tolist(), strict=True))


def _allowed(trie: Trie, node: int) -> list[int]:
    """Return the tokens that may come next."""
    return [trie.tokens[child] for child in trie.children[node]]


def _ended(row: Continuation, ends: Ends) -> Sampled | None:
    """Return the answer if its last token ends it, and walk down the trie if not."""
    token = row.token_ids[-1]
    if np.isnan(row.logprobs[-1]):
        # Who asked looks for the layer: what is sampled only has to make sense.
        token_ids = row.token_ids if row.ask.allowed is None else list(row.ask.allowed[0])
        return Sampled("", tuple(token_ids), np.full(len(token_ids), np.nan, dtype=np.float32), "stop")
    if row.trie is not None:
        row.node = next(child for child in row.trie.children[row.node] if row.trie.tokens[child] == token)
        return None if row.trie.children[row.node] else _answer(row, "stop", _text(row.token_ids, ends))
    if token in ends.token_ids:
        return _answer(row, "stop", _text(row.token_ids[:-1], ends))
    if row.ask.stop:
        text = _text(row.token_ids, ends)
        found = [text.index(stop) for stop in row.ask.stop if stop in text]
        if found:
            return _answer(row, "stop", text[: min(found)])
    if len(row.token_ids) == row.ask.max_new_tokens:
        return _answer(row, "length", _text(row.token_ids, ends))
    return None


def _text(token_ids: Sequence[int], ends: Ends) -> str:
    text: str = ends.tokenizer.decode(list(token_ids), skip_special_tokens=True)
    return text


def _answer(row: Continuation, reason: Literal["stop", "length"], text: str) -> Sampled:
    token_ids: TokenIds = tuple(row.token_ids)
    return Sampled(text, token_ids, np.array(row.logprobs, dtype=np.float32), reason)
