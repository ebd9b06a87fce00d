"""How full weights travel to the workers of one engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from llmgym.sync.transport import pick_transport, send_weights
from llmgym.types import Engine


def test_weights_are_handed_to_one_worker_and_shared_or_written_for_several() -> None:
    assert pick_transport(1, on_gpu=False) == pick_transport(1, on_gpu=True) == "hand"
    assert pick_transport(2, on_gpu=True) == "ipc"
    assert pick_transport(2, on_gpu=False) == "file"


def test_weights_that_were_handed_over_are_the_engines_own(vllm_engine: Engine, tiny_model: Path) -> None:
    contexts, candidates = [[5, 6, 7]], [[[8], [9, 10]]]
    (before,) = vllm_engine.score(contexts, candidates)
    weights = {name: weight * 1.1 for name, weight in load_file(tiny_model / "model.safetensors").items()}
    vllm_engine.load_weights(weights.items(), 1)
    (after,) = vllm_engine.score(contexts, candidates)
    assert np.abs(after - before).max() > 0.01
    for weight in weights.values():
        weight.zero_()
    # A call by tokens that were never seen, so that nothing is read from a cache.
    (fresh,) = vllm_engine.score([[11, *contexts[0]]], candidates)
    assert np.abs(fresh - np.log(1 / 384)).max() > 0.1, "the model is not one of zeros"
    assert np.array_equal(vllm_engine.score(contexts, candidates)[0], after)


def test_a_file_and_a_hand_bring_the_same_weights(vllm_engine, tiny_model: Path) -> None:
    contexts, candidates = [[5, 6, 7]], [[[8], [9, 10]]]
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: weight + torch.randn(weight.shape, generator=generator) * 0.05
        for name, weight in load_file(tiny_model / "model.safetensors").items()
    }
    vllm_engine.load_weights(weights.items(), 1)
    (by_hand,) = vllm_engine.score(contexts, candidates)
    vllm_engine.load_weights(load_file(tiny_model / "model.safetensors").items(), 2)
    send_weights(vllm_engine.backend.llm, weights.items(), "file")
    (by_file,) = vllm_engine.score([[5, 6, 7, 8]], [[[9], [10]]])
    vllm_engine.load_weights(weights.items(), 3)
    assert np.array_equal(by_file, vllm_engine.score([[5, 6, 7, 8]], [[[9], [10]]])[0])
    assert np.array_equal(by_hand, vllm_engine.score(contexts, candidates)[0])
