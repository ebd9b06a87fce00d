"""Asks as requests of vLLM. Takes the vllm module, and does not import it."""

from __future__ import annotations

from typing import Any

from llmgym.candidates import build_trie
from llmgym.engine.asks import Ask, AskNext, AskPath, AskSample
from llmgym.errors import EngineError
from llmgym.types import TokenIds

__all__ = ["Parameters"]

MAX_TEMPERATURE = 2
"""vLLM samples at no higher one."""

MAX_KNOWN = 1024
"""Sampling parameters that are remembered."""

MAX_TOKENS_A_REQUEST = 128
"""vLLM's limit on `SamplingParams.logprob_token_ids`."""


class Parameters:
    """Prompts and sampling parameters for asks.

    Attributes:
        generation: of the weights; tails of another generation are never read.
    """

    def __init__(self, vllm: Any) -> None:
        """Make requests for a vLLM module."""
        from llmgym.engine.vllm_constraint import ALLOWED_KEY
        from llmgym.engine.vllm_tails import TAIL_KEY

        self.generation = 0
        self._vllm = vllm
        # The same few tokens are asked for again and again; vLLM takes a copy of its own.
        self._known: dict[tuple[TokenIds, bool, int], Any] = {}
        self._final_only = vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        self._allowed_key, self._tail_key = ALLOWED_KEY, TAIL_KEY

    def requests(self, ask: Ask) -> list[tuple[list[int], Any]]:
        """Return the prompt and sampling parameters of each request that an ask takes."""
        if isinstance(ask, AskNext):
            prompt_ids = [*ask.context_ids, *ask.prefix_ids]
            if len(ask.token_ids) <= MAX_TOKENS_A_REQUEST:
                return [(prompt_ids, self._next(ask.token_ids, keeps_tail=not ask.prefix_ids))]
            parts = range(0, len(ask.token_ids), MAX_TOKENS_A_REQUEST)
            chunks = [ask.token_ids[start : start + MAX_TOKENS_A_REQUEST] for start in parts]
            return [(prompt_ids, self._next(chunk, keeps_tail=not ask.prefix_ids)) for chunk in chunks]
        if isinstance(ask, AskPath):
            # The last token is told by the row of logits before it, and need not be computed itself.
            return [([*ask.context_ids, *ask.path_ids[:-1]], self._path(ask))]
        return [(list(ask.context_ids), self._sample(ask))]

    def _next(self, token_ids: TokenIds, *, keeps_tail: bool) -> Any:
        key = (token_ids, keeps_tail, self.generation)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = self._vllm.SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprob_token_ids=list(token_ids),
                detokenize=False,
                output_kind=self._final_only,
                extra_args=self._tail(keeps_tail),
                skip_clone=True,
            )
        return self._known[key]

    def _path(self, ask: AskPath) -> Any:
        return self._vllm.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            logprob_token_ids=[ask.path_ids[-1]],
            skip_reading_prefix_cache=False,
            detokenize=False,
            output_kind=self._final_only,
            extra_args=self._tail(False),
            # An entry a position of the whole context is made, whether it was computed or not: make cheap ones.
            flat_logprobs=True,
            skip_clone=True,
        )

    def _sample(self, ask: AskSample) -> Any:
        if not 0 <= ask.temperature <= MAX_TEMPERATURE:
            raise EngineError(
                f"Expected a temperature from 0 to {MAX_TEMPERATURE} to sample tokens with vLLM, found "
                f"{ask.temperature}. Take a lower one, or act by 'score', which takes any."
            )
        extra_args = self._tail(True)
        stop_token_ids = None
        if ask.allowed is not None:
            extra_args[self._allowed_key] = ask.allowed
            stop_token_ids = _closing_tokens(ask.allowed)
        return self._vllm.SamplingParams(
            max_tokens=ask.max_new_tokens,
            temperature=ask.temperature,
            stop=list(ask.stop),
            stop_token_ids=stop_token_ids,
            ignore_eos=ask.allowed is not None,
            seed=ask.seed,
            logprobs=0,
            # Token by token only where a stop text must be found; elsewhere the whole answer is decoded at once.
            detokenize=bool(ask.stop) and ask.allowed is None,
            output_kind=self._final_only,
            extra_args=extra_args,
            skip_clone=True,
        )

    def _tail(self, keeps: bool) -> dict[str, Any]:
        return {self._tail_key: (self.generation, keeps)}


def _closing_tokens(allowed: tuple[TokenIds, ...]) -> list[int]:
    """Return the tokens that only ever end a sequence: once sampled, nothing is left to sample."""
    trie = build_trie(allowed)
    leaves = {trie.tokens[node] for node in range(1, len(trie.tokens)) if not trie.children[node]}
    return sorted(leaves - {trie.tokens[node] for node in trie.inner_nodes})
