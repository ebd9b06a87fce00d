"""The guided engine: acts as a policy that its heads guide, such as ILQL's. The learner computes it; engines have none.

Scoring and writing freely are the policy's own affair, and left to its engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmgym.algorithms.algorithm import Guides
from llmgym.candidates import build_trie
from llmgym.engine.answers import Entropy, choose_candidate, entropies_of
from llmgym.engine.checks import check_acting
from llmgym.engine.requests import Decision, encode_decisions
from llmgym.errors import ConfigError, EngineError
from llmgym.run.learning import RunLearner
from llmgym.types import (
    Acting,
    Choice,
    Context,
    Engine,
    Generation,
    How,
    NamedTensors,
    Normalize,
    Parser,
    Scores,
    Tokenization,
    Turn,
)

__all__ = ["GuidedEngine", "guided"]

POLICY = "policy"


def guided(engine: Engine, learner: RunLearner, beta: float | None = None) -> Engine:
    """Return who acts as a learner does: the engine itself, unless heads guide the policy.

    Args:
        engine: serves the learner's policy.
        learner: whose heads they are; its algorithm says how much they count.
        beta: how much they count instead, at least 0; at 0 the policy acts alone.

    Raises:
        ConfigError: a beta is given, and the learner's algorithm guides nobody.
    """
    algorithm = learner.algorithm
    if not isinstance(algorithm, Guides):
        if beta is not None:
            raise ConfigError(
                f"Expected a policy whose heads guide it for beta={beta}, such as one of ilql, found one of "
                f"{type(algorithm).__name__}. Leave beta out."
            )
        return engine
    chosen = algorithm.beta if beta is None else beta
    if chosen < 0:
        raise ConfigError(f"Expected beta of at least 0, found {chosen}. Set 0 for the policy alone.")
    return GuidedEngine(engine, learner, chosen) if chosen else engine


class GuidedEngine:
    """An `Engine` that draws actions from pi(a | s) * exp(beta * guidance(a)), with the learner's temperature in pi.

    Another temperature sharpens or flattens these probabilities as a whole; 0 takes the best action.
    """

    def __init__(self, engine: Engine, learner: RunLearner, beta: float) -> None:
        """Let the heads of a learner guide its policy.

        Args:
            engine: serves the learner's policy; its caller closes it.
            learner: acts as it is now.
            beta: how much its heads count, above 0.
        """
        self.tokenizer: Any = engine.tokenizer
        self.version = engine.version
        self.max_context_tokens = engine.max_context_tokens
        self._engine, self._learner, self._beta = engine, learner, beta
        self._started: list[tuple[int, Decision, Acting, Entropy]] = []
        self._num_started = 0

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
        """Return log P(candidate | context) of the policy alone; see `Engine.score`."""
        return self._engine.score(
            contexts, candidates, normalize, ends_candidates=ends_candidates, tokenization=tokenization, adapter=adapter
        )

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
        if adapter != POLICY:
            return self._engine.act(contexts, candidates, acting, seed, parse=parse, adapter=adapter)
        decisions = self._decisions(contexts, candidates, acting)
        entropies = entropies_of(seed, len(decisions))
        return self._draw([(one, acting, entropy) for one, entropy in zip(decisions, entropies, strict=True)])

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
        (decision,) = self._decisions([context], [candidates], acting)
        (entropy,) = entropies_of(None if seed is None else [seed], 1)
        self._num_started += 1
        self._started.append((self._num_started, decision, acting, entropy))
        return self._num_started

    def advance(self) -> list[tuple[int, Choice]]:
        """Take all actions that were started since the last call, together; see `Engine.advance`."""
        started, self._started = self._started, []
        choices = self._draw([each[1:] for each in started])
        return [(each[0], choice) for each, choice in zip(started, choices, strict=True)]

    def generate(
        self,
        contexts: Sequence[Context],
        max_new_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> list[list[Generation]]:
        """Sample answers of the policy alone; see `Engine.generate`."""
        return self._engine.generate(contexts, max_new_tokens, temperature, n, stop, seed)

    def load_adapter(self, path: str, version: int, name: str = POLICY) -> None:
        """Serve an adapter; see `Engine.load_adapter`."""
        self._engine.load_adapter(path, version, name)
        self.version = self._engine.version

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Replace all weights; see `Engine.load_weights`."""
        self._engine.load_weights(named_tensors, version)
        self.version = self._engine.version

    def sleep(self) -> None:
        """Leave a GPU that is shared to the learner; see `Engine.sleep`."""
        self._engine.sleep()

    def wake_up(self) -> None:
        """Serve again; see `Engine.wake_up`."""
        self._engine.wake_up()

    def close(self) -> None:
        """Do nothing: the engine behind it has its own owner."""

    def __enter__(self) -> GuidedEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _decisions(
        self, contexts: Sequence[Context], candidates: Sequence[Sequence[Context]], acting: Acting
    ) -> list[Decision]:
        """Encode states to act in, unless the learner would act in another way."""
        check_acting(acting)
        own = self._learner.acting
        if (acting.how, acting.normalize) != (own.how, own.normalize) or acting.how in ("text", "reason"):
            raise EngineError(
                f"Expected how='score' or 'constrained', as the policy has learned ({own.how!r}, {own.normalize!r}), "
                f"found {acting.how!r}, {acting.normalize!r}: heads guide draws among candidates. Act as it learned, "
                "or take beta=0."
            )
        return encode_decisions(self.tokenizer, contexts, candidates, self.max_context_tokens, acting)

    def _draw(self, asked: Sequence[tuple[Decision, Acting, Entropy]]) -> list[Choice]:
        """Ask the learner, and draw."""
        turns = [
            Turn(np.array(one.context_ids, np.int32), one.candidate_ids, 0, 0.0, 0.0, False, False, self.version)
            for one, _, _ in asked
        ]
        choices = []
        logprobs = self._learner.action_logprobs(turns, beta=self._beta) if turns else []
        for (decision, acting, entropy), known in zip(asked, logprobs, strict=True):
            # A flat trie (one token a candidate) carries the log-probabilities to the common drawing code.
            flat = build_trie(tuple((index,) for index in range(len(known))))
            sharper = acting.temperature / self._learner.acting.temperature
            nodes = np.concatenate([np.full(1, np.nan, np.float32), known])
            index, drawn = choose_candidate(flat, nodes, Acting(temperature=sharper), entropy)
            choices.append(Choice(index, float(drawn[index]), drawn, decision.candidate_ids, self.version))
        return choices
