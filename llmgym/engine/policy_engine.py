"""The policy engine: scores candidates, takes actions and generates text by asking a backend."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from llmgym.candidates import build_trie
from llmgym.engine.acting_jobs import ActRequest, act
from llmgym.engine.answers import entropies_of, sampling_seed, score_candidates
from llmgym.engine.asks import BASE, POLICY, Ask, AskSample, Backend, Sampled
from llmgym.engine.checks import check_acting, check_generation, check_scoring
from llmgym.engine.jobs import Job, Jobs, NonFiniteError, node_logprobs
from llmgym.engine.requests import encode_contexts, encode_decisions, encode_joint_requests, encode_score_requests
from llmgym.errors import EngineError, did_you_mean
from llmgym.types import (
    Acting,
    Choice,
    Context,
    Generation,
    How,
    NamedTensors,
    Normalize,
    Parser,
    Scores,
    Tokenization,
)

__all__ = ["PolicyEngine"]


class PolicyEngine:
    """An `Engine` over any backend.

    Attributes:
        backend: who computes; closed along with the engine.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.tokenizer: Any = backend.tokenizer
        self.max_context_tokens = backend.max_context_tokens
        self.version = 0
        self._adapters = {POLICY, BASE}
        self._jobs = Jobs(backend)
        self._made: list[tuple[int, Any]] = []
        self._is_closed = False

    def score(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        normalize: Normalize = "sum",
        *,
        ends_candidates: bool = False,
        tokenization: Tokenization = "separate",
        adapter: str = POLICY,
    ) -> Scores:
        """Return log P(candidate | context); see `Engine.score`."""
        self._check(adapter)
        check_scoring(normalize, tokenization)
        encode = encode_joint_requests if tokenization == "joint" else encode_score_requests
        requests = encode(self.tokenizer, contexts, candidates, self.max_context_tokens, ends=ends_candidates)
        tries = [build_trie(request.candidate_ids) for request in requests]
        logprobs = self._run(
            [
                node_logprobs(request.context_ids, trie, adapter, self.backend)
                for request, trie in zip(requests, tries, strict=True)
            ]
        )
        return score_candidates(tries, logprobs, normalize, self.version)

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
        """Draw one candidate for every context; see `Engine.choose`."""
        return self.act(contexts, candidates, Acting(how, normalize, temperature), seed)

    def act(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        acting: Acting,
        seed: int | Sequence[int] | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = POLICY,
    ) -> list[Choice]:
        """Take one action for every context; see `Engine.act`."""
        self._check(adapter)
        check_acting(acting)
        decisions = encode_decisions(self.tokenizer, contexts, candidates, self.max_context_tokens, acting)
        entropies = entropies_of(seed, len(decisions))
        requests = [
            ActRequest(decision, acting, entropy, parse, adapter, self.version)
            for decision, entropy in zip(decisions, entropies, strict=True)
        ]
        return self._run([act(request, self.backend) for request in requests])

    def start(
        self,
        context: Context,
        candidates: Sequence[Context],
        acting: Acting,
        seed: int | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = POLICY,
    ) -> int:
        """Begin to take one action; see `Engine.start`."""
        self._check(adapter)
        check_acting(acting)
        (decision,) = encode_decisions(self.tokenizer, [context], [candidates], self.max_context_tokens, acting)
        (entropy,) = entropies_of(None if seed is None else [seed], 1)
        return self._jobs.start(act(ActRequest(decision, acting, entropy, parse, adapter, self.version), self.backend))

    def advance(self) -> list[tuple[int, Choice]]:
        """Compute for a while; see `Engine.advance`."""
        made = [*self._made, *self._advance()]
        self._made.clear()
        return made

    def generate(
        self,
        contexts: Sequence[Context],
        max_new_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        stop: Sequence[str] = (),
        seed: int | None = None,
        *,
        adapter: str = POLICY,
    ) -> list[list[Generation]]:
        """Sample n answers for every context; see `Engine.generate`."""
        self._check(adapter)
        check_generation(max_new_tokens, temperature, n)
        prompts = encode_contexts(self.tokenizer, contexts, max_new_tokens, self.max_context_tokens)
        jobs = []
        for position, ids in enumerate(prompts):
            for copy in range(n):
                one = sampling_seed(None if seed is None else [seed, position, copy])
                jobs.append(_sample(AskSample(ids, max_new_tokens, temperature, tuple(stop), one, adapter=adapter)))
        answers = self._run(jobs)
        generations = [
            Generation(one.text, one.token_ids, one.logprobs, one.finish_reason, self.version) for one in answers
        ]
        return [generations[first : first + n] for first in range(0, len(generations), n)]

    def load_adapter(self, path: str, version: int, name: str = POLICY) -> None:
        """Serve the PEFT adapter of a folder under a name; see `Engine.load_adapter`."""
        self._check_idle()
        if name == BASE:
            raise EngineError(f"Expected a name for the adapter in {path}, found {BASE!r}, which means no adapter.")
        self.backend.load_adapter(path, name)
        self._adapters.add(name)
        if name == POLICY:
            self.version = version

    def drop_adapter(self, name: str = POLICY) -> None:
        """Forget an adapter; without the one named "policy", the base weights answer to that name."""
        self._check_idle()
        self._check(name)
        self.backend.drop_adapter(name)
        if name != POLICY:
            self._adapters.discard(name)

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Replace all weights; see `Engine.load_weights`."""
        self._check_idle()
        self.backend.load_weights(named_tensors)
        self.version = version

    def sleep(self) -> None:
        """Leave a shared GPU to the learner; see `Engine.sleep`."""
        self._check_idle()
        self.backend.sleep()

    def wake_up(self) -> None:
        """Serve again; see `Engine.wake_up`."""
        self._check(POLICY)
        self.backend.wake_up()

    def close(self) -> None:
        """Free what the backend holds; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self.backend.close()

    def __enter__(self) -> PolicyEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self, jobs: Sequence[Job]) -> list[Any]:
        """Run jobs to their end; what `start` began goes on beside them."""
        places: dict[int, int] = {}
        results: list[Any] = [None] * len(jobs)
        try:
            for place, job in enumerate(jobs):
                places[self._jobs.start(job)] = place
        except BaseException:
            self._jobs.cancel()
            raise
        while places:
            for ticket, result in self._advance():
                if ticket in places:
                    results[places.pop(ticket)] = result
                else:
                    self._made.append((ticket, result))
        return results

    def _advance(self) -> list[tuple[int, Any]]:
        """Advance all jobs; an error or an interrupt forgets every one of them, so that none answers a later call."""
        self._check(POLICY)
        try:
            return self._jobs.advance()
        except NonFiniteError as error:
            self._jobs.cancel()
            where = self.backend.find_non_finite(error.ask)
            raise EngineError(
                f"Expected finite log-probabilities, but the model of policy version {self.version} answers NaN, first "
                f"in {where}. Go back to a checkpoint from before, and lower the learning rate."
            ) from error
        except BaseException:
            self._jobs.cancel()
            raise

    def _check(self, adapter: str) -> None:
        """Refuse calls after `close`, and adapters that were never loaded."""
        if self._is_closed:
            raise EngineError("Expected an open engine, but this one was closed. Load another: llmgym.load_engine.")
        if adapter not in self._adapters:
            known = sorted(self._adapters)
            raise EngineError(
                f"Expected an adapter among {', '.join(known)}, found {adapter!r}.{did_you_mean(adapter, known)} "
                f"Load it first: engine.load_adapter(folder, version, name={adapter!r})."
            )

    def _check_idle(self) -> None:
        """Refuse to change the policy under decisions that are being made: their version would be a lie."""
        self._check(POLICY)
        if self._jobs.num_running:
            raise EngineError(
                f"Expected no decision under way while weights are swapped, found {self._jobs.num_running}. "
                "Call advance() until all that was started is made."
            )


def _sample(ask: AskSample) -> Generator[Sequence[Ask], list[Any], Sampled]:
    """Return the job of one answer."""
    sampled: Sampled
    (sampled,) = yield [ask]
    if np.isnan(sampled.logprobs).any():
        raise NonFiniteError(ask)
    return sampled
