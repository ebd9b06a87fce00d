"""The scripted engine: answers from a function of the texts. A double for tests and for drawing boards; no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from llmgym.candidates import build_trie, close_prefixes
from llmgym.engine.answers import Entropy, choose_candidate, entropies_of, sampling_seed, score_candidates
from llmgym.engine.checks import check_acting, check_scoring
from llmgym.engine.parser import find_action, load_parser
from llmgym.engine.requests import Decision, encode_contexts, encode_decisions, encode_score_requests
from llmgym.engine.settings import EngineSettings
from llmgym.types import (
    Acting,
    Choice,
    Context,
    FloatArray,
    Generation,
    How,
    NamedTensors,
    Normalize,
    Parser,
    Scores,
    Tokenization,
)

__all__ = ["ByteTokenizer", "ScriptedEngine"]


class ByteTokenizer:
    """Tokens are the bytes of a text; 256 ends a sequence."""

    eos_token_id: int | None = 256

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the text's UTF-8 bytes."""
        return list(text.encode("utf-8"))

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        """Return the text of bytes; the end of a sequence shows as nothing."""
        return bytes(token for token in token_ids if token < 256).decode("utf-8", errors="replace")


class ScriptedEngine:
    """An `Engine` whose scores are what a function says.

    The function gets (context text, candidate text) and returns the candidate's log-probability, which is spread
    evenly over its tokens; without one, all candidates are equally likely: the random policy. Answers of `generate`
    come from a second function of (context text, seed).
    """

    def __init__(
        self,
        logprob: Callable[[str, str], float] | None = None,
        answer: Callable[[str, int], str] | None = None,
        settings: EngineSettings | None = None,
    ) -> None:
        self.tokenizer: Any = ByteTokenizer()
        self.max_context_tokens = (settings.max_context_tokens if settings else 0) or 2**31
        self.version = 0
        self.loaded: list[str] = []
        """What was swapped in: adapter folders, or "weights"."""
        self._num_started = 0
        self._made: list[tuple[int, Choice]] = []
        self._logprob = logprob or (lambda _context, _candidate: 0.0)
        self._answer = answer or (lambda _context, _seed: "")

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
        """Return what the function says; see `Engine.score`. Bytes are the same tokens, apart or together."""
        check_scoring(normalize, tokenization)
        requests = encode_score_requests(
            self.tokenizer, contexts, candidates, self.max_context_tokens, ends=ends_candidates
        )
        # One trie a candidate: a scripted score belongs to a candidate, so shared tokens must stay apart.
        entries: list[Any] = []
        for request in requests:
            tries = [build_trie((one,)) for one in request.candidate_ids]
            logprobs = [self._spread(request.context_ids, one) for one in request.candidate_ids]
            scores = score_candidates(tries, logprobs, normalize, self.version)
            entries.append([one[0] for one in scores] if normalize == "none" else np.concatenate(list(scores)))
        return Scores(entries, self.version)

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
        """Draw one candidate for every context by the scripted scores; see `Engine.choose`."""
        return self.act(contexts, candidates, Acting(how, normalize, temperature), seed)

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
        """Take one action for every context by the scripted scores and answers; see `Engine.act`.

        A scripted answer or thought has a log-probability of 0.
        """
        check_acting(acting)
        decisions = encode_decisions(self.tokenizer, contexts, candidates, self.max_context_tokens, acting)
        entropies = entropies_of(seed, len(decisions))
        parser = parse or (load_parser(acting.parser) if acting.parser else find_action)
        return [
            self._act(decision, acting, entropy, parser) for decision, entropy in zip(decisions, entropies, strict=True)
        ]

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
        """Take one action, to be handed out by `advance`; see `Engine.start`."""
        seeds = None if seed is None else [seed]
        (choice,) = self.act([context], [candidates], acting, seeds, parse=parse, adapter=adapter)
        self._num_started += 1
        self._made.append((self._num_started, choice))
        return self._num_started

    def advance(self) -> list[tuple[int, Choice]]:
        """Hand out what was started since the last call."""
        made, self._made = self._made, []
        return made

    def generate(
        self,
        contexts: Sequence[Context],
        max_new_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> list[list[Generation]]:
        """Answer what the function says, cut at a stop string or at max_new_tokens; see `Engine.generate`."""
        prompts = encode_contexts(self.tokenizer, contexts, max_new_tokens, self.max_context_tokens)
        return [
            [
                self._generation(self.tokenizer.decode(ids), (seed or 0) + copy, max_new_tokens, stop)
                for copy in range(n)
            ]
            for ids in prompts
        ]

    def load_adapter(self, path: str, version: int, name: str = "policy") -> None:
        """Note the folder, and the version of the policy."""
        self.loaded.append(path)
        if name == "policy":
            self.version = version

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Note the version."""
        self.loaded.append("weights")
        self.version = version

    def sleep(self) -> None:
        """Do nothing: it has no memory to free."""

    def wake_up(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> ScriptedEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _act(self, decision: Decision, acting: Acting, entropy: Entropy, parse: Parser) -> Choice:
        """Take one action."""
        ids, actions = decision.candidate_ids, decision.actions
        sampled_ids: tuple[int, ...] = ()
        text, is_ended = "", False
        if acting.how in ("text", "reason"):
            seed = sampling_seed(entropy) or 0
            said = self._generation(
                self.tokenizer.decode(decision.context_ids), seed, acting.max_new_tokens, acting.stop
            )
            sampled_ids, text = said.token_ids, said.text
            is_ended = sampled_ids[-1] == self.tokenizer.eos_token_id
        if acting.how == "text":
            unknown: FloatArray = np.full(len(ids), np.nan, dtype=np.float32)
            found = parse(text, actions)
            fallback = actions.index(acting.fallback) if acting.fallback in actions else 0
            index = fallback if found is None else found
            parsed = found is not None
            certain = (0.0,) * len(sampled_ids)
            return Choice(index, 0.0, unknown, ids, self.version, sampled_ids, (), text, parsed, is_ended, certain)
        if acting.how == "constrained":
            close_prefixes(ids, self.tokenizer.eos_token_id)
        kept_ids = sampled_ids[:-1] if is_ended else sampled_ids
        context = (*decision.context_ids, *kept_ids, *decision.cue_ids)
        # A flat trie (one token a candidate) carries the scripted scores to the common drawing code.
        trie = build_trie(tuple((index,) for index in range(len(ids))))
        scores = [self._spread(context, one)[1:].sum() for one in ids]
        logprobs = np.array([np.nan, *scores], dtype=np.float32)
        index, distribution = choose_candidate(trie, logprobs, Acting("score", "sum", acting.temperature), entropy)
        logprob = float(distribution[index])
        cue_ids = decision.cue_ids
        draws = (*([0.0] * len(sampled_ids)), logprob) if sampled_ids else ()
        return Choice(
            index, logprob, distribution, ids, self.version, sampled_ids, cue_ids, text, True, is_ended, draws
        )

    def _spread(self, context_ids: tuple[int, ...], candidate_ids: tuple[int, ...]) -> FloatArray:
        total = self._logprob(self.tokenizer.decode(context_ids), self.tokenizer.decode(candidate_ids))
        token_logprob = total / len(candidate_ids)
        return np.array([np.nan, *[token_logprob] * len(candidate_ids)], dtype=np.float32)

    def _generation(self, context: str, seed: int, max_new_tokens: int, stop: Sequence[str]) -> Generation:
        text = self._answer(context, seed)
        for end in stop:
            text = text.split(end)[0]
        token_ids = self.tokenizer.encode(text)
        is_whole = len(token_ids) < max_new_tokens
        kept = (*token_ids, 256) if is_whole else tuple(token_ids[:max_new_tokens])
        logprobs = np.zeros(len(kept), dtype=np.float32)
        reason: Literal["stop", "length"] = "stop" if is_whole else "length"
        return Generation(self.tokenizer.decode(kept), kept, logprobs, reason, self.version)
