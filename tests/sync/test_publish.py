"""Publishing to engines of our own: one that takes weights as it should, and ones that do not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.algorithms import BehaviourCloning
from llmgym.errors import EngineError, SyncError
from llmgym.learner import Learner, LoraSettings
from llmgym.sync import AdapterPublisher, Canary, check_canary, random_canary
from llmgym.types import Batch, NamedTensors, Scores, Turn


def make_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


class ModelEngine:
    """Scores one candidate at a time with a transformers model, and takes new weights."""

    def __init__(self) -> None:
        self.model = make_model()
        self.version = 0
        self.folders: list[str] = []

    def score(self, contexts: Sequence[Any], candidates: Sequence[Any], normalize: str = "sum") -> Scores:
        entries = []
        with torch.no_grad():
            for context, options in zip(contexts, candidates, strict=True):
                scores = []
                for option in options:
                    ids = torch.tensor([[*context, *option]])
                    logprobs = torch.log_softmax(self.model(ids).logits[0, len(context) - 1 : -1], -1)
                    scores.append(float(logprobs.gather(1, torch.tensor(option)[:, None]).sum()))
                entries.append(np.array(scores, np.float32))
        return Scores(entries, self.version)

    def load_adapter(self, path: str, version: int) -> None:
        from peft import PeftModel

        self.model = PeftModel.from_pretrained(make_model(), path).eval()
        self.folders.append(path)
        self.version = version

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        self.model.load_state_dict(dict(named_tensors), strict=False)
        self.model.tie_weights()
        self.version = version


class DeafEngine(ModelEngine):
    """Says that it took the weights, and did not."""

    def load_adapter(self, path: str, version: int) -> None:
        self.version = version

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        self.version = version


class LateEngine(ModelEngine):
    """Takes the weights, and keeps its old version."""

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        super().load_weights(named_tensors, self.version)


class FullEngine(ModelEngine):
    """Refuses all weights."""

    def load_adapter(self, path: str, version: int) -> None:
        raise EngineError("no room.")

    def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
        raise EngineError("no room.")


def make_batch() -> Batch:
    rng = np.random.default_rng(0)
    turns = tuple(
        Turn(rng.integers(2, 64, size=9).astype(np.int32), ((5, 6), (7,)), turn % 2, -0.7, 0.0, False, False, 0)
        for turn in range(8)
    )
    zeros = np.zeros(8, np.float32)
    return Batch(turns, zeros, zeros, zeros)


def trained_learner(lora: LoraSettings | None) -> Learner:
    learner = Learner(
        make_model(),
        lora=lora,
        algorithm=BehaviourCloning(3, 8),
        learning_rate=1e-2,
        num_threads=1,
    )
    learner.update(make_batch())
    return learner


LORAS = [None, LoraSettings(rank=2), LoraSettings(rank=4, rank_stabilised=True), LoraSettings(rank=2, dora=True)]


@pytest.mark.parametrize("lora", LORAS)
def test_the_engine_scores_like_the_learner_after_every_swap(lora: LoraSettings | None) -> None:
    learner, engine = trained_learner(lora), ModelEngine()
    for version in (1, 2, 3):
        gap = learner.publish(engine)["canary_gap"]
        assert gap < 1e-4
        assert engine.version == learner.version == version
        learner.update(make_batch())
    assert learner.policy.causal_model is not engine.model
    learner.close()


@pytest.mark.parametrize("lora", LORAS)
def test_a_swap_that_does_not_take_effect_stops_the_run_with_both_numbers(lora: LoraSettings | None) -> None:
    learner, engine = trained_learner(lora), DeafEngine()
    with pytest.raises(
        SyncError,
        match=r"agree within 0\.001 after the swap to policy version 1, but .* the engine scores -\d+\.\d+ and the "
        r"learner -\d+\.\d+\. .*do not go on with this run",
    ):
        learner.publish(engine)
    assert learner.version == 0


@pytest.mark.parametrize("lora", LORAS)
def test_an_engine_that_refuses_stops_the_run(lora: LoraSettings | None) -> None:
    with pytest.raises(SyncError, match=r"policy version 1, but it refused: no room\. Do not go on with this run"):
        trained_learner(lora).publish(FullEngine())


def test_an_engine_with_another_version_stops_the_run() -> None:
    with pytest.raises(SyncError, match="hold policy version 1 after the swap, but it says 0"):
        trained_learner(None).publish(LateEngine())


def test_a_resumed_run_publishes_the_version_it_was_at() -> None:
    learner, engine = trained_learner(None), ModelEngine()
    learner.version = 5
    learner.publish(engine, version=learner.version)
    assert engine.version == learner.version == 5


def test_an_adapter_folder_is_removed_when_the_next_one_is_served() -> None:
    learner, engine = trained_learner(LoraSettings(rank=2)), ModelEngine()
    learner.publish(engine)
    (first,) = engine.folders
    assert sorted(path.name for path in Path(first).glob("adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    learner.publish(engine)
    assert not Path(first).exists()
    assert Path(engine.folders[-1]).exists()
    learner.close()
    learner.close()
    assert not Path(engine.folders[-1]).exists()


def test_a_refused_adapter_leaves_the_served_one_in_place() -> None:
    publisher, engine, written = AdapterPublisher(), ModelEngine(), []

    def write_adapter(folder: str) -> None:
        written.append(folder)
        trained_learner(LoraSettings(rank=2)).policy.write_adapter(folder)

    publisher.publish(engine, write_adapter, 1)  # type: ignore[arg-type]
    with pytest.raises(SyncError):
        publisher.publish(FullEngine(), write_adapter, 2)  # type: ignore[arg-type]
    assert Path(written[0]).exists()
    assert not Path(written[1]).exists()
    publisher.close()


def test_full_weights_publish_tied_weights_once_under_their_own_names() -> None:
    taken: dict[str, Any] = {}

    class Recorder(ModelEngine):
        def load_weights(self, named_tensors: NamedTensors, version: int) -> None:
            taken.update(dict(named_tensors))
            super().load_weights(taken.items(), version)

    trained_learner(None).publish(Recorder())
    assert "model.embed_tokens.weight" in taken
    assert "lm_head.weight" not in taken
    assert not any(tensor.requires_grad for tensor in taken.values())


def test_never_merging_leaves_the_base_weights_as_they_were_after_many_swaps() -> None:
    learner, engine = trained_learner(LoraSettings(rank=2)), ModelEngine()
    for _ in range(3):
        learner.update(make_batch())
        learner.publish(engine)
    base = make_model().state_dict()
    for name, value in learner.policy.causal_model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(base[name.replace(".base_layer.", ".")], value), name
    learner.close()


def test_a_canary_of_ones_own_is_scored() -> None:
    learner, engine = trained_learner(None), ModelEngine()
    learner.canary = Canary(((3, 4, 5),), (((6,), (7, 8)),))
    assert learner.publish(engine)["canary_gap"] < 1e-4


def test_the_random_canary_is_the_same_every_time_and_fits() -> None:
    canary = random_canary(64, max_tokens=40)
    assert canary == random_canary(64, max_tokens=40)
    for context, candidates in zip(canary.contexts, canary.candidates, strict=True):
        assert max(len(context) + len(candidate) for candidate in candidates) <= 40
        assert all(0 <= token < 64 for token in (*context, *(t for candidate in candidates for t in candidate)))


def test_a_score_that_is_not_a_number_is_no_agreement() -> None:
    engine = ModelEngine()
    canary = Canary(((3, 4),), (((5,), (6,)),))

    def scorer(contexts: Any, candidates: Any) -> list[np.ndarray]:
        return [np.array([np.nan, 0.0], np.float32)]

    with pytest.raises(SyncError, match="the learner nan"):
        check_canary(engine, scorer, canary, version=0, tolerance=1e-3)  # type: ignore[arg-type]
