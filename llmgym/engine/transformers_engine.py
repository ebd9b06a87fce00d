"""The transformers engine: the exact and slower reference, one row a candidate. Knows no cache and no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmgym.candidates import Trie, build_trie, close_prefixes
from llmgym.engine.answers import choose_candidates, score_candidates
from llmgym.engine.plan import plan_whole
from llmgym.engine.requests import ScoreRequest, encode_contexts, encode_score_requests
from llmgym.engine.settings import EngineSettings
from llmgym.errors import EngineError
from llmgym.types import (
    Acting,
    Choice,
    Context,
    FloatArray,
    Generation,
    How,
    NamedTensors,
    Normalize,
    Scores,
    TokenIds,
)

__all__ = ["TransformersEngine"]

ADAPTER_NAME = "policy"


class TransformersEngine:
    """An `Engine` that answers with a Hugging Face model in this process."""

    def __init__(self, model: str, settings: EngineSettings) -> None:
        """Load a decoder-only model and its tokenizer from a folder or hub id.

        Raises:
            EngineError: the model or its tokenizer cannot be loaded.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = "float32" if settings.dtype == "auto" and self._device.type == "cpu" else settings.dtype
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(self._device).eval()
        except (OSError, ValueError) as error:
            raise EngineError(f"transformers cannot load the model {model!r}: {error}") from error
        longest = getattr(self._model.config, "max_position_embeddings", None) or 2**31
        self.max_context_tokens: int = settings.max_context_tokens or longest
        self.version = 0
        self._seed = settings.seed
        self._max_rows = settings.max_batch_requests
        self._max_tokens = settings.max_batch_tokens

    def score(
        self, contexts: Sequence[Context], candidates: Sequence[Sequence[Context]], normalize: Normalize = "sum"
    ) -> Scores:
        """Return log P(candidate | context); see `Engine.score`."""
        requests = encode_score_requests(self.tokenizer, contexts, candidates, self.max_context_tokens)
        tries = [build_trie(request.candidate_ids) for request in requests]
        return score_candidates(tries, self._node_logprobs(requests, tries), normalize, self.version)

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
        requests = encode_score_requests(self.tokenizer, contexts, candidates, self.max_context_tokens)
        ids = [request.candidate_ids for request in requests]
        eos = self.tokenizer.eos_token_id
        tries = [build_trie(close_prefixes(one, eos) if how == "constrained" else one) for one in ids]
        logprobs = self._node_logprobs(requests, tries)
        return choose_candidates(ids, tries, logprobs, Acting(how, normalize, temperature), seed, self.version)

    @torch.inference_mode()
    def generate(
        self,
        contexts: Sequence[Context],
        max_new_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> list[list[Generation]]:
        """Sample n answers for every context, one context at a time; see `Engine.generate`."""
        prompts = encode_contexts(self.tokenizer, contexts, max_new_tokens, self.max_context_tokens)
        generator = torch.Generator().manual_seed(self._seed if seed is None else seed)
        return [
            [self._sample(prompt, max_new_tokens, temperature, stop, generator) for _ in range(n)] for prompt in prompts
        ]

    def load_adapter(self, path: str, version: int) -> None:
        """Serve the PEFT adapter of a folder from now on."""
        from peft import PeftModel

        if not (Path(path) / "adapter_config.json").is_file():
            raise EngineError(f"Expected a PEFT adapter in {path}, found no adapter_config.json there.")
        if isinstance(self._model, PeftModel):
            self._model = self._model.unload()
        self._model = PeftModel.from_pretrained(self._model, path, adapter_name=ADAPTER_NAME).eval()
        self.version = version

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Replace all weights; names are the Hugging Face model's own.

        Raises:
            EngineError: a name is unknown, or a weight that is not tied to another is missing.
        """
        self._model.load_state_dict({name: tensor.to(self._device) for name, tensor in named_tensors}, strict=False)
        self._model.tie_weights()
        self.version = version

    def close(self) -> None:
        """Drop the model."""
        self._model = None

    def __enter__(self) -> TransformersEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _node_logprobs(self, requests: Sequence[ScoreRequest], tries: Sequence[Trie]) -> list[FloatArray]:
        """Return float32 (num_nodes,) a context, from one row a distinct candidate."""
        results = [np.full(len(trie.tokens), np.nan, dtype=np.float32) for trie in tries]
        rows: list[tuple[int, tuple[int, ...], TokenIds]] = []
        for position, (request, trie) in enumerate(zip(requests, tries, strict=True)):
            for step in plan_whole(trie):
                ids = (*request.context_ids, *(trie.tokens[node] for node in step.path))
                rows.append((position, step.path, ids))
        rows.sort(key=lambda row: len(row[2]))
        while rows:
            longest = len(rows[-1][2])
            size = max(1, min(self._max_rows, self._max_tokens // longest, len(rows)))
            batch, rows = rows[-size:], rows[:-size]
            for (position, path, ids), logprobs in zip(batch, self._token_logprobs([r[2] for r in batch]), strict=True):
                results[position][list(path)] = logprobs[len(ids) - len(path) - 1 :]
        return results

    @torch.inference_mode()
    def _token_logprobs(self, rows: Sequence[TokenIds]) -> list[FloatArray]:
        """Return, for each row, float32 (num_tokens - 1,): the log-probability of every token but the first.

        Rows are padded on the right, so that positions need no correction and a row never sees its padding.
        """
        longest = max(map(len, rows))
        input_ids = torch.zeros(len(rows), longest, dtype=torch.long, device=self._device)
        mask = torch.zeros_like(input_ids)
        for index, ids in enumerate(rows):
            input_ids[index, : len(ids)] = torch.tensor(ids, device=self._device)
            mask[index, : len(ids)] = 1
        logits = self._model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        logprobs = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0].cpu().numpy()
        return [logprobs[index, : len(ids) - 1] for index, ids in enumerate(rows)]

    def _sample(
        self, prompt: TokenIds, max_new_tokens: int, temperature: float, stop: Sequence[str], generator: torch.Generator
    ) -> Generation:
        """Sample one answer token by token; temperature 0 takes the best token."""
        inputs, cache = torch.tensor([prompt], device=self._device), None
        token_ids: list[int] = []
        logprobs: list[float] = []
        for _ in range(max_new_tokens):
            output = self._model(input_ids=inputs, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            scores = output.logits[0, -1].float().cpu()
            distribution = (scores / temperature if temperature > 0 else scores).log_softmax(-1)
            if temperature > 0:
                token = int(torch.multinomial(distribution.exp(), 1, generator=generator))
            else:
                token = int(distribution.argmax())
            token_ids.append(token)
            logprobs.append(float(distribution[token]))
            if token == self.tokenizer.eos_token_id:
                return self._generation(token_ids[:-1], token_ids, logprobs, "")
            text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
            for end in stop:
                if end in text:
                    return self._generation(token_ids, token_ids, logprobs, end)
            inputs = torch.tensor([[token]], device=self._device)
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return Generation(text, tuple(token_ids), np.array(logprobs, dtype=np.float32), "length", self.version)

    def _generation(self, shown: list[int], sampled: list[int], logprobs: list[float], end: str) -> Generation:
        """Return an answer that ended by itself, its text cut where the stop string begins."""
        text = self.tokenizer.decode(shown, skip_special_tokens=True)
        text = text[: text.index(end)] if end else text
        return Generation(text, tuple(sampled), np.array(logprobs, dtype=np.float32), "stop", self.version)
