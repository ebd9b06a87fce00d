"""The vLLM engine: batched generation and exact scoring of candidates that share their context's prefix cache.

The only file beside the worker side of sync that imports vllm.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmgym.candidates import Trie, build_trie, close_prefixes
from llmgym.engine.answers import choose_candidates, score_candidates
from llmgym.engine.plan import NextTokens, WholePath, is_whole_cheaper, plan_prefixes, plan_whole
from llmgym.engine.requests import ScoreRequest, encode_contexts, encode_score_requests
from llmgym.engine.settings import EngineSettings
from llmgym.engine.vllm_setup import BLOCK_SIZE, check_vllm_version, llm_arguments
from llmgym.errors import EngineError
from llmgym.sync.folders import memory_folder
from llmgym.types import Acting, Choice, Context, FloatArray, Generation, How, NamedTensors, Normalize, Scores

__all__ = ["VLLMEngine"]


class VLLMEngine:
    """An `Engine` that answers with vLLM: in this process on one device, by worker processes on several."""

    def __init__(self, model: str, settings: EngineSettings) -> None:
        """Start vLLM on a model folder or hub id.

        Raises:
            EngineError: vLLM is not installed, or does not start with this model.
        """
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            import vllm
        except ImportError as error:
            raise EngineError(
                "Expected vLLM to be installed, but it cannot be imported "
                f"({error}). Install it: pip install 'llmgym[cpu]' on a machine without a GPU, "
                "pip install 'llmgym[gpu]' on one with."
            ) from error
        check_vllm_version(vllm.__version__)
        self._vllm = vllm
        try:
            self._llm: Any = vllm.LLM(**llm_arguments(model, settings))
        except (ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM does not start with the model {model!r}: {error}") from error
        self.tokenizer: Any = self._llm.get_tokenizer()
        self.max_context_tokens: int = self._llm.llm_engine.model_config.max_model_len
        self.version = 0
        self._seed = settings.seed
        self._has_adapters = settings.max_lora_rank > 0
        self._adapter: Any = None
        self._num_adapters = 0
        self._num_requests = 0

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
        acting = Acting(how, normalize, temperature)
        requests = encode_score_requests(self.tokenizer, contexts, candidates, self.max_context_tokens)
        if how == "constrained":
            eos = self.tokenizer.eos_token_id
            tries = [build_trie(close_prefixes(request.candidate_ids, eos)) for request in requests]
        else:
            tries = [build_trie(request.candidate_ids) for request in requests]
        logprobs = self._node_logprobs(requests, tries)
        ids = [request.candidate_ids for request in requests]
        return choose_candidates(ids, tries, logprobs, acting, seed, self.version)

    def generate(
        self,
        contexts: Sequence[Context],
        max_new_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> list[list[Generation]]:
        """Sample n answers for every context; see `Engine.generate`."""
        prompts = encode_contexts(self.tokenizer, contexts, max_new_tokens, self.max_context_tokens)
        first_seed = self._seed if seed is None else seed
        parameters = [
            self._vllm.SamplingParams(
                max_tokens=max_new_tokens,
                temperature=temperature,
                n=n,
                stop=list(stop),
                seed=None if seed is None else _mix(first_seed, position),
                logprobs=0,
                output_kind=self._final_only,
            )
            for position in range(len(prompts))
        ]
        outputs = self._run([list(prompt) for prompt in prompts], parameters)
        return [[_generation(answer, self.version) for answer in output.outputs] for output in outputs]

    def load_adapter(self, path: str, version: int) -> None:
        """Serve the PEFT adapter of a folder from now on.

        The adapter gets an id of its own, so that no cached block of an earlier one is ever read.

        Raises:
            EngineError: the engine was started without room for adapters, or vLLM refuses this one.
        """
        from vllm.lora.request import LoRARequest

        if not self._has_adapters:
            raise EngineError(
                "Expected an engine with room for adapters, but max_lora_rank is 0. "
                "Start it with max_lora_rank=16 or more."
            )
        self._num_adapters += 1
        request = LoRARequest(f"policy-{self._num_adapters}", self._num_adapters, path)
        try:
            self._llm.llm_engine.add_lora(request)
        except (ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM refuses the adapter in {path}: {error}") from error
        self.drop_adapter()
        self._adapter = request
        self.version = version

    def drop_adapter(self) -> None:
        """Serve the base weights again."""
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        """Replace all weights in every worker, and forget every cached block.

        The tensors travel through a memory-backed file, so that one worker or several read them alike.
        """
        from safetensors.torch import save_file

        folder = memory_folder()
        try:
            file = Path(folder) / "weights.safetensors"
            save_file({name: tensor.detach().contiguous() for name, tensor in named_tensors}, file)
            self._llm.collective_rpc("load_policy_weights", args=(str(file),))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._llm.reset_prefix_cache()
        self.version = version

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None

    def __enter__(self) -> VLLMEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _node_logprobs(self, requests: Sequence[ScoreRequest], tries: Sequence[Trie]) -> list[FloatArray]:
        """Return float32 (num_nodes,) a context: the log-probability of each node's token, NaN for node 0."""
        results = [np.full(len(trie.tokens), np.nan, dtype=np.float32) for trie in tries]
        planned: list[tuple[int, NextTokens | WholePath]] = []
        for position, (request, trie) in enumerate(zip(requests, tries, strict=True)):
            # The prompt log-probabilities of vLLM 0.32 fail on a CPU with room for adapters: ask for prefixes there.
            whole = not self._has_adapters and is_whole_cheaper(trie, len(request.context_ids), BLOCK_SIZE)
            steps: Sequence[NextTokens | WholePath] = plan_whole(trie) if whole else plan_prefixes(trie)
            planned += [(position, step) for step in steps]
        self._answer(planned, requests, tries, results)
        # A position that came out of the cache has no prompt log-probability: ask for those nodes by their prefix.
        missing: list[tuple[int, NextTokens | WholePath]] = []
        for position, (trie, result) in enumerate(zip(tries, results, strict=True)):
            nodes = frozenset((np.flatnonzero(np.isnan(result[1:])) + 1).tolist())
            if nodes:
                missing += [(position, step) for step in plan_prefixes(trie, nodes) if step.children]
        if missing:
            self._answer(missing, requests, tries, results)
        return results

    def _answer(
        self,
        planned: Sequence[tuple[int, NextTokens | WholePath]],
        requests: Sequence[ScoreRequest],
        tries: Sequence[Trie],
        results: Sequence[FloatArray],
    ) -> None:
        """Run planned requests, and write what they say into the results."""
        prompts, parameters = [], []
        for position, step in planned:
            context, trie = requests[position].context_ids, tries[position]
            if isinstance(step, NextTokens):
                prompts.append([*context, *trie.prefix(step.node)])
                parameters.append(self._next_tokens([trie.tokens[child] for child in step.children]))
            else:
                prompts.append([*context, *(trie.tokens[node] for node in step.path)])
                parameters.append(self._prompt_tokens())
        for (position, step), output in zip(planned, self._run(prompts, parameters), strict=True):
            result, trie = results[position], tries[position]
            if isinstance(step, NextTokens):
                logprobs = output.outputs[0].logprobs[0]
                for child in step.children:
                    result[child] = logprobs[trie.tokens[child]].logprob
                continue
            num_context_tokens = len(requests[position].context_ids)
            num_cached_tokens = output.num_cached_tokens or 0
            for offset, node in enumerate(step.path):
                # The token at index i is predicted at index i - 1, which must have been computed, not read.
                index = num_context_tokens + offset
                if index - 1 >= num_cached_tokens:
                    result[node] = output.prompt_logprobs[index][trie.tokens[node]].logprob

    def _next_tokens(self, token_ids: list[int]) -> Any:
        return self._vllm.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=token_ids,
            detokenize=False,
            output_kind=self._final_only,
        )

    def _prompt_tokens(self) -> Any:
        return self._vllm.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            skip_reading_prefix_cache=False,
            detokenize=False,
            output_kind=self._final_only,
        )

    @property
    def _final_only(self) -> Any:
        return self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY

    def _run(self, prompts: Sequence[list[int]], parameters: Sequence[Any]) -> list[Any]:
        """Run requests through the engine's own loop; the answers come in the order of the prompts."""
        engine = self._llm.llm_engine
        first = self._num_requests
        self._num_requests += len(prompts)
        for offset, (prompt, params) in enumerate(zip(prompts, parameters, strict=True)):
            tokens = {"type": "token", "prompt_token_ids": prompt}
            engine.add_request(str(first + offset), tokens, params, lora_request=self._adapter)
        answers: dict[str, Any] = {}
        while engine.has_unfinished_requests():
            answers.update((output.request_id, output) for output in engine.step() if output.finished)
        return [answers[str(first + offset)] for offset in range(len(prompts))]


def _generation(answer: Any, version: int) -> Generation:
    """Translate vLLM's answer; its log-probabilities are those after temperature."""
    logprobs = [position[token].logprob for position, token in zip(answer.logprobs, answer.token_ids, strict=True)]
    reason: Literal["stop", "length"] = "stop" if answer.finish_reason == "stop" else "length"
    return Generation(answer.text, tuple(answer.token_ids), np.array(logprobs, dtype=np.float32), reason, version)


def _mix(seed: int, position: int) -> int:
    """Return a seed of its own for each context of a call."""
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
