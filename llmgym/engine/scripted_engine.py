"""The scripted engine: answers from a function of the texts. A double for tests and for drawing boards; no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from llmgym.candidates import build_trie, close_prefixes
from llmgym.engine.answers import choose_candidates, score_candidates
from llmgym.engine.requests import encode_contexts, encode_score_requests
from llmgym.engine.settings import EngineSettings
from llmgym.types import Acting, Choice, Context, FloatArray, Generation, How, NamedTensors, Normalize, Scores

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
        self._logprob = logprob or (lambda _context, _candidate: 0.0)
        self._answer = answer or (lambda _context, _seed: "")

    def score(
        self, contexts: Sequence[Context], candidates: Sequence[Sequence[Context]], normalize: Normalize = "sum"
    ) -> Scores:
        """Return what the function says; see `Engine.score`."""
        requests = encode_score_requests(self.tokenizer, contexts, candidates, self.max_context_tokens)
        ids = [request.candidate_ids for request in requests]
        # One trie a candidate: a scripted score belongs to a candidate, so shared tokens must stay apart.
        entries: list[Any] = []
        for request, options in zip(requests, ids, strict=True):
            tries = [build_trie((one,)) for one in options]
            logprobs = [self._spread(request.context_ids, one) for one in options]
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
        requests = encode_score_requests(self.tokenizer, contexts, candidates, self.max_context_tokens)
        ids = [request.candidate_ids for request in requests]
        if how == "constrained":
            ids = [close_prefixes(one, self.tokenizer.eos_token_id) for one in ids]
        scores = self.score(contexts, candidates, normalize)
        # A flat trie (one token a candidate) carries the scripted scores to the common drawing code.
        tries = [build_trie(tuple((index,) for index in range(len(one)))) for one in ids]
        logprobs = [np.concatenate([[np.nan], one]).astype(np.float32) for one in scores]
        acting = Acting("score", "sum", temperature)
        sent = [request.candidate_ids for request in requests]
        return choose_candidates(sent, tries, logprobs, acting, seed, self.version)

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

    def load_adapter(self, path: str, version: int) -> None:
        """Note the folder and the version."""
        self.loaded.append(path)
        self.version = version

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Note the version."""
        self.loaded.append("weights")
        self.version = version

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> ScriptedEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

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
