"""The vLLM backend: asks become requests of vLLM, which share the prefix cache and the kept tails of contexts."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmgym.engine.adapter_fit import check_adapter, model_layer_sizes
from llmgym.engine.asks import BASE, POLICY, Answer, Ask, AskNext, AskPath
from llmgym.engine.settings import EngineSettings
from llmgym.engine.tokenizer import load_tokenizer
from llmgym.engine.vllm_answers import read_next, read_path, read_sampled
from llmgym.engine.vllm_requests import Parameters
from llmgym.engine.vllm_setup import check_vllm_version, start_vllm
from llmgym.errors import EngineError
from llmgym.sync.transport import pick_transport, send_weights
from llmgym.types import NamedTensors, Tokenizer

__all__ = ["VLLMBackend"]


_OPEN: weakref.WeakSet[VLLMBackend] = weakref.WeakSet()
"""The engines of this process that are open; vLLM's own state is the process's, too."""


@dataclass(slots=True)
class _Open:
    """An ask that vLLM works on, in one request or several, and what they have answered."""

    ask: Ask
    num_requests: int
    outputs: dict[int, Any] = field(default_factory=dict)


class VLLMBackend:
    """A `Backend` that computes with vLLM: in this process on one device, by worker processes on several."""

    can_ask_paths = True

    def __init__(self, model: str, settings: EngineSettings) -> None:
        """Start vLLM on a model folder or hub id.

        Raises:
            EngineError: vLLM is not installed, or does not start with this model and these settings.
        """
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import torch

        try:
            import vllm
        except ImportError as error:
            raise EngineError(
                "Expected vLLM to be installed, but it cannot be imported "
                f"({error}). Install it: pip install 'llmgym[cpu]' on a machine without a GPU, "
                "pip install 'llmgym[gpu]' on one with."
            ) from error
        check_vllm_version(vllm.__version__)
        from llmgym.engine.vllm_tails import OwnConnector

        self._connector = OwnConnector()
        with self._connector.active():
            self.llm: Any = start_vllm(vllm, model, settings)
        self._model = model
        self.tokenizer: Any = load_tokenizer(model, reads_special_tokens=settings.reads_special_tokens)
        self.max_context_tokens: int = self.llm.llm_engine.model_config.max_model_len
        _OPEN.add(self)
        self._parameters = Parameters(vllm)
        on_gpu = torch.cuda.is_available()
        self._transport = pick_transport(settings.tensor_parallel_size, on_gpu=on_gpu)
        self._sleeps = settings.shares_gpu and on_gpu
        self._is_asleep = False
        self._has_adapters = settings.max_lora_rank > 0
        self._adapters: dict[str, Any] = {}
        self._num_adapters = 0
        self._num_tickets = 0
        self._open: dict[int, _Open] = {}
        self.llm.collective_rpc("spare_generators")
        if self._has_adapters:
            self._bypass_head_adapters()

    def num_recomputed_tokens(self, num_context_tokens: int) -> int:
        """Return 0: whole blocks are cached, and the tail behind them is kept."""
        return 0

    def submit(self, ask: Ask) -> int:
        """Hand an ask to vLLM's scheduler; see `Backend.submit`."""
        ticket = self._num_tickets
        self._num_tickets += 1
        requests = self._parameters.requests(ask)
        self._open[ticket] = _Open(ask, len(requests))
        adapter = self._adapters.get(ask.adapter)
        if adapter is None and ask.adapter not in (POLICY, BASE):
            raise EngineError(f"Expected an adapter that was loaded, found {ask.adapter!r}.")
        for part, (prompt_ids, parameters) in enumerate(requests):
            prompt = {"type": "token", "prompt_token_ids": prompt_ids}
            self.llm.llm_engine.add_request(f"{ticket}-{part}", prompt, parameters, lora_request=adapter)
        return ticket

    def advance(self) -> list[tuple[int, Answer]]:
        """Take one step of vLLM: one forward pass over what its scheduler put together."""
        engine = self.llm.llm_engine
        if not engine.has_unfinished_requests():
            return []
        with self._connector.active():
            outputs = engine.step()
        done = []
        for output in outputs:
            if not output.finished:
                continue
            ticket, part = map(int, output.request_id.split("-"))
            waiting = self._open.get(ticket)
            if waiting is None:
                continue
            waiting.outputs[part] = output
            if len(waiting.outputs) == waiting.num_requests:
                del self._open[ticket]
                answers = [waiting.outputs[index] for index in range(waiting.num_requests)]
                done.append((ticket, _read(waiting.ask, answers, self.tokenizer)))
        return done

    def cancel(self, tickets: Sequence[int]) -> None:
        """Take asks out of vLLM's scheduler; see `Backend.cancel`."""
        known = [ticket for ticket in tickets if ticket in self._open]
        names = [f"{ticket}-{part}" for ticket in known for part in range(self._open[ticket].num_requests)]
        for ticket in known:
            del self._open[ticket]
        if names:
            self.llm.llm_engine.abort_request(names)

    def load_adapter(self, path: str, name: str) -> None:
        """Serve a PEFT adapter under a name.

        It gets an id of its own, so that no cached block of an earlier one is ever read.

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
        request = LoRARequest(f"{name}-{self._num_adapters}", self._num_adapters, path)
        try:
            _refuse_head_adapter(path)
            check_adapter(path, model_layer_sizes(self._model), self._model)
            self.llm.llm_engine.add_lora(request)
        except (ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM refuses the adapter in {path}: {error}") from error
        self.drop_adapter(name)
        self._adapters[name] = request

    def drop_adapter(self, name: str) -> None:
        """Forget the adapter of a name; see `Backend.drop_adapter`."""
        request = self._adapters.pop(name, None)
        if request is not None:
            self.llm.llm_engine.remove_lora(request.lora_int_id)

    def load_weights(self, named_tensors: NamedTensors) -> None:
        """Replace all weights in every worker, and forget every cached block and kept tail."""
        send_weights(self.llm, named_tensors, self._transport)
        self._forget()

    def load_weights_file(self, file: str) -> None:
        """Replace all weights by those of a safetensors file; see `load_weights`."""
        self.llm.collective_rpc("load_policy_weights", args=(file,))
        self._forget()

    def sleep(self) -> None:
        """Move the weights out of a GPU that is shared with the learner, and free its cache; see `Backend.sleep`."""
        if self._sleeps and not self._is_asleep:
            self._is_asleep = True
            self.llm.sleep(level=1)

    def wake_up(self) -> None:
        """Take the memory back; see `Backend.wake_up`. Nothing that was cached is left."""
        if self._is_asleep:
            import torch

            # What the learner has freed is torch's until now.
            torch.cuda.empty_cache()
            self.llm.wake_up()
            self._is_asleep = False
            self._forget()

    def find_non_finite(self, ask: Ask) -> str:
        """Compute an ask again while every worker watches its modules; see `Backend.find_non_finite`."""
        self._forget()
        self.llm.collective_rpc("watch_modules")
        try:
            self.submit(AskNext(ask.context_ids, (), (0,), ask.adapter))
            while self._open:
                self.advance()
        finally:
            found = self.llm.collective_rpc("unwatch_modules")
        return next((name for name in found if name), "a module that could not be found")

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        if self.llm is not None:
            _OPEN.discard(self)
            with self._connector.active(), _shared_groups(len(_OPEN) > 0):
                self.llm.llm_engine.engine_core.shutdown()
            self.llm = None

    def _forget(self) -> None:
        """Forget every cached block and kept tail."""
        self.llm.reset_prefix_cache()
        self._parameters.generation += 1

    def _bypass_head_adapters(self) -> None:
        """Compute logits without the adapter's part, which no adapter that we take has."""
        self.llm.collective_rpc("bypass_head_adapters")


@contextmanager
def _shared_groups(are_used: bool) -> Iterator[None]:
    """Let an engine shut down without the process groups, which vLLM has once a process, while others use them."""
    from vllm.v1.engine import core

    clean_up = core.cleanup_dist_env_and_memory
    if are_used:
        core.cleanup_dist_env_and_memory = lambda: None
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory = clean_up


def _read(ask: Ask, outputs: list[Any], tokenizer: Tokenizer) -> Answer:
    """Translate vLLM's answers to the requests of one ask."""
    if isinstance(ask, AskNext):
        return read_next(ask, outputs)
    if isinstance(ask, AskPath):
        return read_path(ask, outputs[0])
    return read_sampled(ask, outputs[0], tokenizer)


def _refuse_head_adapter(path: str) -> None:
    """Refuse an adapter of the output head: see `PolicyWorker.bypass_head_adapters`.

    Raises:
        OSError: there is no adapter.
        ValueError: it changes the output head.
    """
    targets = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8")).get("target_modules") or []
    heads = [name for name in ([targets] if isinstance(targets, str) else targets) if "lm_head" in name]
    if heads:
        raise ValueError(
            f"expected an adapter that leaves the output head alone, found the target module {heads[0]!r}. Train it "
            "without, or all weights"
        )
