"""Jobs: what answers one request, step by step, as generators that yield asks and receive their answers.

Many jobs run at once over one backend, each going on as soon as its own answers are there. Knows no backend.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from llmgym.candidates import Trie
from llmgym.engine.asks import Answer, Ask, AskNext, AskPath, Backend
from llmgym.engine.plan import plan_paths, plan_prefixes
from llmgym.errors import EngineError
from llmgym.types import FloatArray, TokenIds

__all__ = ["Job", "Jobs", "NonFiniteError", "node_logprobs"]

Job = Generator[Sequence[Ask], list[Any], Any]


class NonFiniteError(EngineError):
    """The model answered NaN."""

    def __init__(self, ask: Ask) -> None:
        super().__init__("The model answered NaN.")
        self.ask = ask


def node_logprobs(
    context_ids: TokenIds, trie: Trie, adapter: str, backend: Backend
) -> Generator[Sequence[Ask], list[Any], FloatArray]:
    """Return float32 (num_nodes,): the log-probability of each trie node's token, NaN for node 0.

    The context goes first, with the tokens that may follow it: everything behind it can then share what the backend
    keeps of it. Deeper nodes are asked for by prefix or by whole path, whichever computes fewer tokens.
    """
    result = np.empty(len(trie.tokens), dtype=np.float32)
    result.fill(np.nan)
    ask = AskNext(context_ids, (), trie.first_ids, adapter)
    (answer,) = yield [ask]
    if math.isnan(sum(answer.tolist())):
        raise NonFiniteError(ask)
    if len(trie.inner_nodes) == 1:
        # All nodes are children of the context, in their order.
        result[1:] = answer
        return result
    result[list(trie.children[0])] = answer
    recomputed = backend.num_recomputed_tokens(len(context_ids)) if backend.can_ask_paths else None
    paths = plan_paths(trie, recomputed)
    if paths:
        answers = yield [AskPath(context_ids, tuple(trie.tokens[node] for node in path), adapter) for path in paths]
        for path, logprobs in zip(paths, answers, strict=True):
            # Where a path's first tokens came out of a cache they are NaN; another answer may have told them.
            known = ~np.isnan(logprobs)
            result[np.array(path)[known]] = logprobs[known]
    open_nodes = plan_prefixes(trie, result)
    if open_nodes:
        asks = [
            AskNext(context_ids, trie.prefix(node), tuple(trie.tokens[child] for child in children), adapter)
            for node, children in open_nodes
        ]
        for (_, children), ask, answer in zip(open_nodes, asks, (yield asks), strict=True):
            if np.isnan(answer).any():
                raise NonFiniteError(ask)
            result[list(children)] = answer
    return result


class Jobs:
    """Run jobs over a backend: submit what they ask, and hand them what is answered."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._num_jobs = 0
        self._running: dict[int, _Running] = {}
        self._askers: dict[int, tuple[int, int]] = {}

    @property
    def num_running(self) -> int:
        """Number of jobs that have begun and not ended."""
        return len(self._running)

    def start(self, job: Job) -> int:
        """Begin a job; return its ticket. Every job asks at least once."""
        ticket = self._num_jobs
        self._num_jobs += 1
        self._running[ticket] = _Running(job)
        self._submit(ticket, next(job))
        return ticket

    def advance(self) -> list[tuple[int, Any]]:
        """Let the backend compute for a while; return the jobs that ended, each with its ticket."""
        ended = []
        for ask_ticket, answer in self._backend.advance():
            asker = self._askers.pop(ask_ticket, None)
            if asker is None:
                continue
            ticket, position = asker
            running = self._running[ticket]
            running.answers[position] = answer
            running.num_open -= 1
            if running.num_open == 0:
                try:
                    self._submit(ticket, running.job.send(running.answers))
                except StopIteration as stop:
                    del self._running[ticket]
                    ended.append((ticket, stop.value))
        return ended

    def cancel(self) -> None:
        """Forget all jobs, so that none of their answers is taken for one of a later job."""
        self._backend.cancel(list(self._askers))
        self._askers.clear()
        self._running.clear()

    def _submit(self, ticket: int, asks: Sequence[Ask]) -> None:
        running = self._running[ticket]
        running.answers = [None] * len(asks)
        running.num_open = len(asks)
        for position, ask in enumerate(asks):
            self._askers[self._backend.submit(ask)] = (ticket, position)


class _Running:
    """A job, and the answers it still waits for."""

    __slots__ = ("answers", "job", "num_open")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.answers: list[Answer | None] = []
        self.num_open = 0
