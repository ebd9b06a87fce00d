"""What every engine does over its backend: jobs that go on by themselves, errors, and weights that change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmgym.candidates import build_trie
from llmgym.engine.asks import Answer, Ask, AskNext, AskPath, AskSample, Sampled
from llmgym.engine.plan import plan_paths
from llmgym.engine.policy_engine import PolicyEngine
from llmgym.engine.scripted_engine import ByteTokenizer
from llmgym.errors import EngineError
from llmgym.types import Acting, Engine


class SlowBackend:
    """A backend of our own that answers one ask an `advance`, the newest first: every token has probability 1/10."""

    can_ask_paths = True

    def __init__(self) -> None:
        self.tokenizer: Any = ByteTokenizer()
        self.max_context_tokens = 1000
        self.open: list[tuple[int, Ask]] = []
        self.asked: list[Ask] = []
        self.is_nan = False
        self.num_closed = 0

    def num_recomputed_tokens(self, num_context_tokens: int) -> int:
        return 0

    def submit(self, ask: Ask) -> int:
        self.asked.append(ask)
        self.open.append((len(self.asked), ask))
        return len(self.asked)

    def advance(self) -> list[tuple[int, Answer]]:
        if not self.open:
            return []
        ticket, ask = self.open.pop()
        value = math.nan if self.is_nan else math.log(0.1)
        if isinstance(ask, AskNext):
            return [(ticket, np.full(len(ask.token_ids), value, dtype=np.float32))]
        if isinstance(ask, AskPath):
            answer = np.full(len(ask.path_ids), value, dtype=np.float32)
            answer[0] = math.nan
            return [(ticket, answer)]
        token_ids = ask.allowed[0] if ask.allowed else (97,) * ask.max_new_tokens
        logprobs = np.full(len(token_ids), value, dtype=np.float32)
        return [(ticket, Sampled("a" * len(token_ids), token_ids, logprobs, "length"))]

    def cancel(self, tickets: Sequence[int]) -> None:
        self.open = [(ticket, ask) for ticket, ask in self.open if ticket not in tickets]

    def load_adapter(self, path: str, name: str) -> None:
        pass

    def drop_adapter(self, name: str) -> None:
        pass

    def load_weights(self, named_tensors: Any) -> None:
        pass

    def find_non_finite(self, ask: Ask) -> str:
        return "layers.1.mlp"

    def close(self) -> None:
        self.num_closed += 1


def test_a_decision_is_handed_out_as_soon_as_it_is_made() -> None:
    engine = PolicyEngine(SlowBackend())
    slow = engine.start("a", [" xyz", " xw", " v"], Acting())
    quick = engine.start("b", ["x", "y"], Acting())
    order = []
    while len(order) < 2:
        order += [ticket for ticket, _ in engine.advance()]
    assert order == [quick, slow], "one ask, against one and then two"
    assert engine.advance() == []


def test_calls_that_wait_leave_decisions_under_way_to_advance() -> None:
    engine = PolicyEngine(SlowBackend())
    ticket = engine.start("a", ["x", "y"], Acting(), seed=1)
    (scores,) = engine.score(["b"], [["xy", "z"]])
    np.testing.assert_allclose(scores, np.log([0.01, 0.1]), rtol=1e-5)
    made = dict(engine.advance()) or dict(engine.advance())
    np.testing.assert_allclose(made[ticket].logprobs, np.log([0.5, 0.5]), rtol=1e-5)


def test_weights_cannot_change_under_a_decision() -> None:
    engine = PolicyEngine(SlowBackend())
    engine.start("a", ["x"], Acting())
    with pytest.raises(EngineError, match="Expected no decision under way while weights are swapped, found 1"):
        engine.load_weights([], 1)
    while not engine.advance():
        pass
    engine.load_weights([], 1)
    assert engine.version == 1


def test_nan_stops_with_the_layer_and_the_version_and_leaves_nothing_behind() -> None:
    backend = SlowBackend()
    engine = PolicyEngine(backend)
    engine.load_weights([], 4)
    backend.is_nan = True
    with pytest.raises(EngineError, match=r"policy version 4 answers NaN, first in layers\.1\.mlp\. Go back"):
        engine.score(["a", "b"], [["x"], ["y"]])
    assert backend.open == []
    backend.is_nan = False
    assert len(engine.score(["a"], [["x"]])) == 1


def test_vllm_names_the_layer_that_yields_nan(vllm_engine: Engine, tiny_model: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(tiny_model / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] = weights["model.layers.1.mlp.down_proj.weight"] * math.nan
    vllm_engine.load_weights(weights.items(), 9)
    with pytest.raises(EngineError, match=r"policy version 9 answers NaN, first in model\.layers\.1\.mlp\.down_proj"):
        vllm_engine.score([[5, 6, 7]], [[[8], [9]]])


def test_a_closed_engine_says_so_and_closes_its_backend_once() -> None:
    backend = SlowBackend()
    engine = PolicyEngine(backend)
    engine.close()
    engine.close()
    assert backend.num_closed == 1
    for call in (lambda: engine.score(["a"], [["b"]]), lambda: engine.generate(["a"], 1), engine.advance):
        with pytest.raises(EngineError, match="Expected an open engine, but this one was closed"):
            call()


def test_an_adapter_that_was_never_loaded_is_named_with_those_that_were() -> None:
    engine = PolicyEngine(SlowBackend())
    engine.load_adapter("folder", 1, name="critic")
    assert engine.version == 0, "only the policy's adapter has a policy version"
    engine.score(["a"], [["b"]], adapter="critic")
    with pytest.raises(EngineError, match=r"among base, critic, policy, found 'critik'\. Did you mean"):
        engine.score(["a"], [["b"]], adapter="critik")
    engine.drop_adapter("critic")
    with pytest.raises(EngineError, match="Expected an adapter among base, policy, found 'critic'"):
        engine.score(["a"], [["b"]], adapter="critic")


def test_several_adapters_answer_by_name_in_one_engine(
    adapter_engine: Engine, tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    context, candidates = [5, 6, 7] * 15, [[8, 9], [10, 11]]
    expected = {}
    for seed, name in enumerate(("policy", "other")):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=4, lora_alpha=8))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.3)
        model.eval().save_pretrained(tmp_path / name)
        adapter_engine.load_adapter(str(tmp_path / name), adapter_engine.version + 1, name=name)
        with torch.inference_mode():
            rows = [model(torch.tensor([[*context, *ids]])).logits[0].log_softmax(-1) for ids in candidates]
            expected[name] = [
                sum(float(row[len(context) - 1 + i, token]) for i, token in enumerate(ids))
                for row, ids in zip(rows, candidates, strict=True)
            ]
            with model.disable_adapter():
                rows = [model(torch.tensor([[*context, *ids]])).logits[0].log_softmax(-1) for ids in candidates]
            expected["base"] = [
                sum(float(row[len(context) - 1 + i, token]) for i, token in enumerate(ids))
                for row, ids in zip(rows, candidates, strict=True)
            ]
    for _ in range(2):
        for name, values in expected.items():
            (found,) = adapter_engine.score([context], [candidates], adapter=name)
            np.testing.assert_allclose(found, values, atol=1e-4)
    assert abs(expected["policy"][0] - expected["base"][0]) > 0.01


def test_paths_are_asked_for_where_prefixes_compute_more() -> None:
    trie = build_trie(((1, 2, 3, 4), (1, 2, 3, 5)))
    assert plan_paths(trie, 0) == [], "prefixes of 1 + 2 + 3 tokens, not paths of 3 + 3 with as many"
    long = build_trie((tuple(range(1, 9)), tuple(range(11, 19))))
    assert len(plan_paths(long, 0)) == 2
    assert plan_paths(long, None) == []
    assert len(plan_paths(build_trie(((1, 2, 3), (1, 2, 4))), 30)) == 0


@pytest.mark.parametrize(
    ("acting", "message"),
    [
        (Acting("scor"), r"Expected acting.how among score, constrained, text, reason, found 'scor'\. Did you mean"),
        (Acting(normalize="none"), "Expected acting.normalize among sum, mean, found 'none'"),
        (Acting(temperature=-1.0), "Expected acting.temperature of 0 or more, found -1"),
        (Acting("text", max_new_tokens=0), "Expected acting.max_new_tokens of 1 or more, found 0"),
    ],
)
def test_ways_to_act_that_make_no_sense_are_refused(acting: Acting, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        PolicyEngine(SlowBackend()).act(["a"], [["b"]], acting)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "Expected max_new_tokens of 1 or more, found 0"),
        ({"n": 0}, "Expected n of 1 or more, found 0"),
        ({"temperature": math.nan}, "Expected a temperature of 0 or more, found nan"),
    ],
)
def test_generation_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        PolicyEngine(SlowBackend()).generate(["a"], **({"max_new_tokens": 2} | arguments))


def test_an_unknown_tokenization_or_normalisation_is_refused_before_anything_is_computed() -> None:
    backend = SlowBackend()
    engine = PolicyEngine(backend)
    with pytest.raises(EngineError, match="Expected tokenization among separate, joint, found 'both'"):
        engine.score(["a"], [["b"]], tokenization="both")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="Expected normalize among sum, mean, none, found 'max'"):
        engine.score(["a"], [["b"]], "max")  # type: ignore[arg-type]
    assert backend.asked == []


def test_constrained_asks_once_and_score_asks_for_all() -> None:
    backend = SlowBackend()
    engine = PolicyEngine(backend)
    (choice,) = engine.choose(["a"], [["xy", "xz", "w"]], "constrained")
    assert [type(ask) for ask in backend.asked] == [AskSample]
    assert choice.logprob == pytest.approx(2 * math.log(0.1))
