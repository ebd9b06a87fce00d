"""How fast candidates are scored, beside vLLM as documented and two ways of transformers, on the same token ids.

Four workloads, each on a real model of 135 M parameters and on the tiny one:

- one: 42 candidates of about eight tokens on one context of 250 tokens;
- fresh: 16 contexts of 200 tokens with six actions each, never seen before;
- next: the next step of the same 16 episodes, 40 tokens later;
- history: four episodes turn by turn, up to 64 turns of 40 tokens: what a late turn costs over an early one. What
  grows is attention: its multiplications over all others are reported beside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from llmgym.bench.models import measure_models
from llmgym.bench.report import Report, make_report
from llmgym.bench.rivals import kv_repeat, row_per_candidate, vllm_as_documented
from llmgym.engine import load_engine
from llmgym.engine.vllm_backend import VLLMBackend
from llmgym.learner.threads import default_num_threads, torch_threads
from llmgym.types import Engine, FloatArray, TokenIds

__all__ = ["Workload", "run"]

_ACTIONS = (" turn left", " turn right", " go forward", " pick up", " drop", " toggle")
_OBJECTS = ("red block", "green block", "blue block", "yellow block", "apple", "sponge", "water bottle")
_PLACES = ("red bowl", "green bowl", "blue bowl", "top left corner", "middle", "bottom right corner")

Ask = tuple[Sequence[TokenIds], Sequence[Sequence[TokenIds]]]
Way = Callable[[Sequence[TokenIds], Sequence[Sequence[TokenIds]]], Sequence[FloatArray]]


@dataclass(frozen=True, slots=True)
class Workload:
    """How much is measured.

    Attributes:
        models: names of the models.
        one_tokens: tokens of the context with 42 candidates.
        num_contexts: contexts with six actions.
        context_tokens: tokens of each.
        turn_tokens: tokens that a turn adds.
        num_turns: turns of the longest history.
        repeats: how often each time is taken, on fresh contexts; the least counts.
    """

    models: tuple[str, ...] = ("smollm2", "tiny")
    one_tokens: int = 250
    num_contexts: int = 16
    context_tokens: int = 200
    turn_tokens: int = 40
    num_turns: int = 64
    repeats: int = 2


def run(workload: Workload | None = None) -> Report:
    """Measure, and return seconds, ratios, and the largest difference between ways, in nats.

    Args:
        workload: how much; the default takes about twelve minutes on two cores.
    """
    work = workload or Workload()
    return make_report(measure_models(work.models, lambda model: _measure_model(model, work)))


def _measure_model(model: str, work: Workload) -> dict[str, float]:
    """Measure one model: one engine, and one model of transformers, take turns."""
    import torch
    from transformers import AutoModelForCausalLM

    with load_engine(model, max_context_tokens=3072, max_batch_tokens=4096, kv_cache_gib=2.0) as engine:
        backend = _vllm(engine)
        rival = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        ways: dict[str, Way] = {
            "ours": engine.score,
            "vllm_documented": lambda contexts, candidates: vllm_as_documented(backend.llm, contexts, candidates),
            "row_per_candidate": _with_all_threads(lambda *ask: row_per_candidate(rival, *ask)),
            "kv_repeat": _with_all_threads(lambda *ask: kv_repeat(rival, *ask)),
        }
        texts = _Texts(engine.tokenizer, rival.config.vocab_size)
        figures = _compare("one", ways, [(None, texts.one(work)) for _ in range(work.repeats + 1)])
        pairs = [texts.fresh_and_next(work) for _ in range(work.repeats + 1)]
        figures |= _compare("fresh", ways, [(None, fresh) for fresh, _ in pairs])
        figures |= _compare("next", ways, pairs)
        return figures | _history(engine, ways["kv_repeat"], texts, work, rival.config)


def _compare(name: str, ways: dict[str, Way], asks: Sequence[tuple[Ask | None, Ask]]) -> dict[str, float]:
    """Time all ways on the same asks; the first ask of all does not count, and what came before an ask is not timed."""
    seconds = dict.fromkeys(ways, float("inf"))
    difference = 0.0
    for number, (before, ask) in enumerate(asks):
        answers: dict[str, Sequence[FloatArray]] = {}
        for way, score in ways.items():
            if before is not None and way == "ours":
                score(*before)
            started = perf_counter()
            answers[way] = score(*ask)
            if number > 0:
                seconds[way] = min(seconds[way], perf_counter() - started)
        for other in answers.values():
            gaps = [np.abs(one - two).max() for one, two in zip(answers["ours"], other, strict=True)]
            difference = max(difference, float(max(gaps)))
    figures = {f"{name}_{way}_seconds": value for way, value in seconds.items()}
    rivals = [way for way in ways if way != "ours"]
    ratios = {f"{name}_{way}_over_ours": seconds[way] / seconds["ours"] for way in rivals}
    return figures | ratios | {f"{name}_largest_difference_nats": difference}


def _history(engine: Engine, rival: Way, texts: _Texts, work: Workload, config: Any) -> dict[str, float]:
    """Time every turn of four growing episodes; the first turn's context is new in any engine."""
    contexts = [texts.ids(work.turn_tokens) for _ in range(4)]
    candidates = [texts.actions] * 4
    seconds = []
    for _ in range(work.num_turns):
        started = perf_counter()
        engine.score(contexts, candidates)
        seconds.append(perf_counter() - started)
        contexts = [(*context, *texts.ids(work.turn_tokens)) for context in contexts]
    early, late = float(np.median(seconds[1:9])), float(np.median(seconds[-8:]))
    started = perf_counter()
    rival([context[: -work.turn_tokens] for context in contexts], candidates)
    rival_late = perf_counter() - started
    turns = (5, work.num_turns - 3.5)
    early_work, late_work = (_multiplications(config, turn * work.turn_tokens) for turn in turns)
    return {
        "history_early_turn_seconds": early,
        "history_late_turn_seconds": late,
        "history_late_over_early": late / early,
        "history_late_over_early_multiplications": late_work / early_work,
        "history_late_kv_repeat_over_ours": rival_late / late,
    }


def _multiplications(config: Any, num_tokens: float) -> float:
    """Return the multiplications of one more token behind num_tokens others, those of the output head left out."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, kv_heads = config.num_attention_heads * head_size, config.num_key_value_heads * head_size
    weights = config.hidden_size * (2 * heads + 2 * kv_heads + 3 * config.intermediate_size)
    return float(config.num_hidden_layers * (weights + 2 * num_tokens * heads))


class _Texts:
    """Contexts of random tokens, and candidates with the shape of real ones, as ids of any vocabulary."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self._rng = np.random.default_rng(0)
        self._vocab_size = vocab_size
        self.actions = tuple(tuple(tokenizer.encode(action, add_special_tokens=False)) for action in _ACTIONS)
        self._places = tuple(
            tuple(tokenizer.encode(f" put the {thing} on the {place}", add_special_tokens=False))
            for thing in _OBJECTS
            for place in _PLACES
        )

    def ids(self, length: int) -> TokenIds:
        """Return random token ids."""
        return tuple(self._rng.integers(3, self._vocab_size, length).tolist())

    def one(self, work: Workload) -> Ask:
        """Return one context with 42 candidates."""
        return [self.ids(work.one_tokens)], [self._places]

    def fresh_and_next(self, work: Workload) -> tuple[Ask, Ask]:
        """Return contexts with six actions, and the same a turn later."""
        contexts = [self.ids(work.context_tokens) for _ in range(work.num_contexts)]
        later = [(*context, *self.ids(work.turn_tokens)) for context in contexts]
        candidates = [self.actions] * work.num_contexts
        return (contexts, candidates), (later, candidates)


def _with_all_threads(way: Way) -> Way:
    """Give torch all its threads, which an engine in the same process may have taken from it."""

    def run_way(contexts: Sequence[TokenIds], candidates: Sequence[Sequence[TokenIds]]) -> Sequence[FloatArray]:
        with torch_threads(default_num_threads()):
            return way(contexts, candidates)

    return run_way


def _vllm(engine: Engine) -> VLLMBackend:
    backend = getattr(engine, "backend", None)
    assert isinstance(backend, VLLMBackend), "the engine was loaded with vLLM"
    return backend
