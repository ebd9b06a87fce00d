"""Kept tails: what is computed, what is copied, and that answers stay exact."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmgym.types import Engine

BLOCK = 32


def ids(generator: random.Random, length: int) -> list[int]:
    return [generator.randrange(3, 300) for _ in range(length)]


def num_computed_tokens(engine: Any, work: Any) -> int:
    """Return how many tokens vLLM's scheduler puts into forward passes while some work is done."""
    scheduler = engine.backend.llm.llm_engine.engine_core.engine_core.scheduler
    schedule, total = scheduler.schedule, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal total
        output = schedule(*args, **kwargs)
        total += output.total_num_scheduled_tokens
        return output

    scheduler.schedule = counted
    try:
        work()
    finally:
        scheduler.schedule = schedule
    return total


def test_a_context_is_computed_once_for_all_candidates(vllm_engine: Engine) -> None:
    context = ids(random.Random(1), 2 * BLOCK + 20)
    candidates = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
    computed = num_computed_tokens(vllm_engine, lambda: vllm_engine.score([context], [candidates]))
    assert computed == len(context) + 3 * 2, "the context, and all tokens of each candidate but its last"


def test_the_next_turn_computes_only_what_it_adds(vllm_engine: Engine) -> None:
    generator = random.Random(2)
    context, candidates = ids(generator, BLOCK + 7), [[5], [6], [7]]
    vllm_engine.score([context], [candidates])
    added = [5, *ids(generator, 50)]
    longer = [*context, *added]
    assert num_computed_tokens(vllm_engine, lambda: vllm_engine.score([longer], [candidates])) == len(added)
    assert num_computed_tokens(vllm_engine, lambda: vllm_engine.score([longer], [candidates])) == 1, "asked again"


def test_a_context_shorter_than_a_block_is_kept_too(vllm_engine: Engine) -> None:
    context = ids(random.Random(3), 9)
    vllm_engine.score([context], [[[5], [6]]])
    assert num_computed_tokens(vllm_engine, lambda: vllm_engine.score([[*context, 8, 9]], [[[5], [6]]])) == 2


def test_episodes_that_part_within_a_block_share_what_they_have_in_common(
    vllm_engine: Engine, reference_engine: Engine
) -> None:
    generator = random.Random(4)
    stem = ids(generator, BLOCK + 10)
    contexts = [stem, [*stem, *ids(generator, 6)], [*stem, *ids(generator, 12)], [*stem[: BLOCK + 4], 7, 8]]
    candidates = [[[5, 6, 7], [5, 6], [9]] for _ in contexts]
    for context, options in zip(contexts, candidates, strict=True):
        (found,) = vllm_engine.score([context], [options])
        np.testing.assert_allclose(found, reference_engine.score([context], [options])[0], atol=1e-4)


@pytest.mark.parametrize("turn", [1, 13, BLOCK, 45])
def test_a_growing_episode_stays_exact(vllm_engine: Engine, reference_engine: Engine, turn: int) -> None:
    generator = random.Random(turn)
    contexts = [ids(generator, 5) for _ in range(3)]
    for _ in range(6):
        candidates = [[ids(generator, length) for length in (1, 2, 4)] for _ in contexts]
        found = vllm_engine.score(contexts, candidates)
        expected = reference_engine.score(contexts, candidates)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        contexts = [[*context, *ids(generator, turn)] for context in contexts]


def test_contexts_that_are_computed_in_chunks_are_kept(vllm_engine: Engine, reference_engine: Engine) -> None:
    generator = random.Random(6)
    contexts = [ids(generator, 300 + number) for number in range(12)]  # more than the 2,048 tokens of one pass
    candidates = [[ids(generator, 3), ids(generator, 3)] for _ in contexts]
    found = vllm_engine.score(contexts, candidates)
    for one, other in zip(found, reference_engine.score(contexts, candidates), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_two_engines_of_a_process_keep_their_own_tails(
    vllm_engine: Engine, adapter_engine: Engine, reference_engine: Engine
) -> None:
    generator = random.Random(8)
    contexts = [ids(generator, BLOCK + 9) for _ in range(12)]
    candidates = [[[5, 6], [7, 8]] for _ in contexts]
    for _ in range(4):
        expected = reference_engine.score(contexts, candidates)
        for engine in (vllm_engine, adapter_engine):
            found = engine.score(contexts, candidates, adapter="base")
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)
        contexts = [[*context, *ids(generator, 11)] for context in contexts]
    connectors = [engine.backend._connector._connector for engine in (vllm_engine, adapter_engine)]  # type: ignore[attr-defined]
    assert [len(one._caches) for one in connectors] == [2, 2], "one cache a layer, and only its own"


def test_new_weights_read_no_tail_of_the_old(vllm_engine: Engine, tiny_model: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    context, candidates = ids(random.Random(7), 20), [[5, 6], [7, 8]]
    vllm_engine.score([context], [candidates])
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    vllm_engine.load_weights(model.named_parameters(), 3)
    (found,) = vllm_engine.score([context], [candidates])
    expected = []
    for candidate in candidates:
        with torch.inference_mode():
            logprobs = model(torch.tensor([[*context, *candidate]])).logits[0].log_softmax(-1)
        expected.append(sum(float(logprobs[len(context) - 1 + i, token]) for i, token in enumerate(candidate)))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def make_connector(num_blocks: int = 64) -> Any:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole

    from llmgym.engine.vllm_tails import TailConnector

    config = SimpleNamespace(
        cache_config=SimpleNamespace(block_size=BLOCK),
        scheduler_config=SimpleNamespace(max_num_seqs=64),
        kv_transfer_config=SimpleNamespace(),
    )
    return TailConnector(config, KVConnectorRole.SCHEDULER, SimpleNamespace(num_blocks=num_blocks))


def make_request(name: str, tokens: list[int], *, keeps: bool = True, generation: int = 0, adapter: int = 0) -> Any:
    from llmgym.engine.vllm_tails import TAIL_KEY

    hashes = [hash(tuple(tokens[: end * BLOCK])) for end in range(1, len(tokens) // BLOCK + 1)]
    return SimpleNamespace(
        request_id=name,
        all_token_ids=tokens,
        num_tokens=len(tokens),
        num_prompt_tokens=len(tokens),
        num_computed_tokens=0,
        block_hashes=hashes,
        lora_request=SimpleNamespace(lora_int_id=adapter) if adapter else None,
        sampling_params=SimpleNamespace(extra_args={TAIL_KEY: (generation, keeps)}),
    )


def schedule(connector: Any, request: Any, block_ids: list[int], num_tokens: int) -> Any:
    """Let the connector see one request being scheduled, as vLLM's scheduler calls it."""
    found, _ = connector.get_num_new_matched_tokens(request, 0)
    connector.update_state_after_alloc(request, SimpleNamespace(get_block_ids=lambda: (block_ids,)), found)
    cached = SimpleNamespace(req_ids=[], new_block_ids=[])
    return connector.build_connector_meta(
        SimpleNamespace(scheduled_cached_reqs=cached, num_scheduled_tokens={request.request_id: num_tokens})
    )


def test_a_tail_is_kept_when_its_prompt_is_computed_and_loaded_by_who_goes_on() -> None:
    connector = make_connector()
    first = schedule(connector, make_request("a", [1, 2, 3]), [9], 3)
    assert (first.loads, first.saves) == ([], [(0, 9)])
    second = schedule(connector, make_request("b", [1, 2, 3, 4], keeps=False), [5], 1)
    assert (second.loads, second.saves) == ([(0, 5)], [])


def test_a_prompt_that_is_computed_in_two_steps_is_kept_after_the_second() -> None:
    connector = make_connector()
    request = make_request("a", list(range(BLOCK + 8)))
    assert schedule(connector, request, [3], BLOCK).saves == []
    request.num_computed_tokens = BLOCK
    cached = SimpleNamespace(req_ids=["a"], new_block_ids=[([4],)])
    step = SimpleNamespace(scheduled_cached_reqs=cached, num_scheduled_tokens={"a": 8})
    assert connector.build_connector_meta(step).saves == [(0, 4)]


def test_a_preempted_prompt_is_kept_from_the_blocks_it_gets_next() -> None:
    connector = make_connector()
    request = make_request("a", list(range(BLOCK + 8)))
    assert schedule(connector, request, [3], BLOCK).saves == []
    assert schedule(connector, request, [7, 8], BLOCK + 8).saves == [(0, 8)]


@pytest.mark.parametrize("other", [{"generation": 1}, {"adapter": 2}])
def test_other_weights_find_no_tail(other: dict[str, int]) -> None:
    connector = make_connector()
    schedule(connector, make_request("a", [1, 2, 3]), [9], 3)
    assert connector.get_num_new_matched_tokens(make_request("b", [1, 2, 3, 4], **other), 0) == (0, False)


def test_at_least_one_token_is_left_to_compute() -> None:
    connector = make_connector()
    schedule(connector, make_request("a", [1, 2, 3]), [9], 3)
    assert connector.get_num_new_matched_tokens(make_request("b", [1, 2, 3]), 0) == (2, False)


def test_the_tail_that_was_not_used_for_longest_makes_room() -> None:
    connector = make_connector(num_blocks=1)
    for number in range(16):
        schedule(connector, make_request(f"r{number}", [number + 1, 2, 3]), [number], 3)
    schedule(connector, make_request("again", [1, 2, 3, 4], keeps=False), [50], 1)
    assert schedule(connector, make_request("new", [99, 2, 3]), [60], 3).saves == [(1, 60)]
    assert connector.get_num_new_matched_tokens(make_request("x", [2, 2, 3, 4]), 0)[0] == 0, "the oldest is gone"
    assert connector.get_num_new_matched_tokens(make_request("y", [1, 2, 3, 4]), 0)[0] == 3, "the used one is not"


def test_requests_of_others_are_left_alone() -> None:
    connector = make_connector()
    request = make_request("a", [1, 2, 3])
    request.sampling_params = SimpleNamespace(extra_args=None)
    step = schedule(connector, request, [9], 3)
    assert (step.loads, step.saves) == ([], [])
