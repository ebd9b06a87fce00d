"""Two replicas of a tiny model, on a CPU: one policy, every answer exactly once, whatever becomes of one of them.

The last test ends the engine of this module.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from llmgym.engine import load_engine
from llmgym.engine.asks import AskNext
from llmgym.engine.replica_process import Asked
from llmgym.errors import EngineError
from llmgym.types import Engine

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def replicas(tiny_model: Path) -> Iterator[Any]:
    with load_engine(
        str(tiny_model), max_context_tokens=512, max_batch_tokens=512, kv_cache_gib=0.1, max_lora_rank=8, replicas=2
    ) as engine:
        yield engine


def ids(generator: random.Random, length: int) -> tuple[int, ...]:
    return tuple(generator.randrange(3, 300) for _ in range(length))


def next_logprobs(model: Any, context: tuple[int, ...]) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.tensor([context])).logits[0, -1].float().log_softmax(-1).numpy()


def assert_serves(engine: Any, model: Any, seed: int = 0) -> None:
    """Ask both replicas (by the order of asking, each gets every other context), and compare."""
    generator = random.Random(seed)
    contexts = [ids(generator, length) for length in (1, 5, 31, 32, 33, 64, 70, 100)]
    options = [[[token] for token in ids(generator, 4)] for _ in contexts]
    for context, candidates, found in zip(contexts, options, engine.score(contexts, options), strict=True):
        expected = next_logprobs(model, context)[[token for (token,) in candidates]]
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def shaken(model: Any, seed: int, name_part: str) -> Any:
    """Return a copy with noise on the weights whose names have a part."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in changed.named_parameters():
            if name_part in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return changed


def sent_places(engine: Any, work: Any) -> dict[tuple[int, ...], set[int]]:
    """Return to which replicas each context is sent while some work is done."""
    group, places = engine.backend.group, {}
    send = group.send

    def spied(place: int, message: Any) -> None:
        if isinstance(message, Asked):
            for _, ask in message.asks:
                places.setdefault(ask.context_ids, set()).add(place)
        send(place, message)

    group.send = spied
    try:
        work()
    finally:
        group.send = send
    return places


def test_replicas_answer_like_one_engine(replicas: Any, model: Any) -> None:
    pids = replicas.backend.group.pids()
    assert len(set(pids)) == 2
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) >= 2:
        ours, theirs = (os.sched_getaffinity(pid) for pid in pids)
        assert not ours & theirs, "each has cores of its own"
    assert_serves(replicas, model)


def test_longer_candidates_and_choices_are_those_of_the_reference(replicas: Any, reference_engine: Engine) -> None:
    generator = random.Random(3)
    contexts = [ids(generator, 40) for _ in range(6)]
    candidates = [[ids(generator, length) for length in (1, 3, 9)] for _ in contexts]
    for one, other in zip(
        replicas.score(contexts, candidates), reference_engine.score(contexts, candidates), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)
    ours = replicas.choose(contexts, candidates, temperature=0.7, seed=list(range(6)))
    theirs = reference_engine.choose(contexts, candidates, temperature=0.7, seed=list(range(6)))
    assert [choice.index for choice in ours] == [choice.index for choice in theirs]


def test_an_episode_stays_with_its_replica_and_episodes_are_spread(replicas: Any) -> None:
    generator = random.Random(4)
    episodes = [ids(generator, 10) for _ in range(8)]
    homes: list[set[int]] = [set() for _ in episodes]
    for _ in range(4):
        candidates = [[[5, 6], [7, 8]] for _ in episodes]
        places = sent_places(replicas, lambda: replicas.score(episodes, candidates))  # noqa: B023
        for home, episode in zip(homes, episodes, strict=True):
            home |= places[episode]
        episodes = [episode + ids(generator, 9) for episode in episodes]
    assert all(len(home) == 1 for home in homes)
    assert sorted(place for home in homes for place in home) == [0] * 4 + [1] * 4


def test_episodes_that_begin_alike_are_spread_once_they_part(replicas: Any) -> None:
    generator = random.Random(5)
    stem = ids(generator, 20)
    replicas.score([stem] * 8, [[[5], [6]]] * 8)
    episodes = [stem + ids(generator, 5) for _ in range(8)]
    places = sent_places(replicas, lambda: replicas.score(episodes, [[[5], [6]]] * 8))
    counts = [sum(place in found for found in places.values()) for place in (0, 1)]
    assert counts == [4, 4]


def test_copies_of_one_prompt_are_generated_by_both(replicas: Any) -> None:
    places = sent_places(replicas, lambda: replicas.generate(["You see a red ball"], 4, n=8, seed=1))
    assert list(places.values()) == [{0, 1}]


def test_an_error_of_a_replica_is_the_callers_and_the_replica_goes_on(replicas: Any, model: Any) -> None:
    pids = replicas.backend.group.pids()
    with pytest.raises(EngineError, match="Expected a temperature from 0 to 2 to sample tokens with vLLM, found 3"):
        replicas.generate(["You see"] * 3, 4, temperature=3.0)
    with pytest.raises(EngineError, match="vLLM refuses the adapter in nowhere"):
        replicas.load_adapter("nowhere", 1)
    assert_serves(replicas, model)
    assert replicas.backend.group.pids() == pids


def test_a_refused_adapter_leaves_both_with_what_they_served(replicas: Any, model: Any, tmp_path: Path) -> None:
    pids = replicas.backend.group.pids()
    tmp_path.joinpath("adapter_config.json").write_text('{"target_modules": ["lm_head"]}')
    with pytest.raises(EngineError, match=r"vLLM refuses the adapter in .*leaves the output head alone"):
        replicas.load_adapter(str(tmp_path), 1)
    assert_serves(replicas, model)
    assert replicas.backend.group.pids() == pids


def test_answers_come_once_each_and_right_though_a_replica_is_killed(replicas: Any, model: Any, caplog: Any) -> None:
    generator = random.Random(6)
    backend = replicas.backend
    contexts = [ids(generator, 60 + number % 7) for number in range(400)]
    tickets = {backend.submit(AskNext(context, (), (5, 6, 7))): context for context in contexts}
    answers: list[tuple[int, Any]] = backend.advance()
    assert len(answers) < 300, "it is killed in the middle"
    victim = backend.group.pids()[1]
    with caplog.at_level(logging.WARNING):
        os.kill(victim, signal.SIGKILL)
        while len(answers) < len(tickets):
            answers += backend.advance()
    assert backend.advance() == []
    assert sorted(ticket for ticket, _ in answers) == sorted(tickets), "every ticket, and each once"
    for ticket, answer in answers:
        np.testing.assert_allclose(answer, next_logprobs(model, tickets[ticket])[[5, 6, 7]], atol=TOLERANCE)
    assert "Replica 1 of 2 ended (exit code -9). It is started anew." in caplog.text
    assert backend.group.num_restarts == 1


def wait_for_both(engine: Any) -> None:
    """Keep asking until a replica that was started anew is asked too."""
    generator = random.Random(time.monotonic_ns())
    while len(engine.backend.group.ready()) < 2:
        engine.score([ids(generator, 9)], [[[5]]])
        time.sleep(0.1)


def test_new_weights_and_an_adapter_reach_both_and_whoever_is_started_later(
    replicas: Any, model: Any, tmp_path: Path
) -> None:
    import peft

    changed = shaken(model, 1, "")
    replicas.load_weights(changed.named_parameters(), 3)
    assert_serves(replicas, changed, seed=1)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = shaken(peft.get_peft_model(changed, config).eval(), 2, "lora_")
    adapted.save_pretrained(tmp_path / "adapter")
    replicas.load_adapter(str(tmp_path / "adapter"), 4)
    # Publishers delete the folder of a version when they publish the next.
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    assert_serves(replicas, adapted, seed=2)
    assert replicas.version == 4
    wait_for_both(replicas)
    os.kill(replicas.backend.group.pids()[0], signal.SIGKILL)
    assert_serves(replicas, adapted, seed=3)
    wait_for_both(replicas)
    assert_serves(replicas, adapted, seed=4)


def test_replicas_that_start_end_with_a_parent_that_is_killed(tiny_model: Path) -> None:
    script = (
        "from llmgym.engine import load_engine\n"
        f"if __name__ == '__main__':\n    load_engine({str(tiny_model)!r}, replicas=2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    while len(children) < 3 and parent.poll() is None:  # two replicas, and multiprocessing's resource tracker
        time.sleep(0.1)
        children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert len(children) == 3
    assert not alive


def test_a_replica_that_cannot_be_started_again_ends_the_call_and_close_ends_all(replicas: Any) -> None:
    from dataclasses import replace

    group = replicas.backend.group
    wait_for_both(replicas)
    processes = [psutil.Process(pid) for pid in group.pids()]
    folders = group.files.folders()
    group._starts[0] = replace(group._starts[0], model="./nowhere")
    os.kill(group.pids()[0], signal.SIGKILL)
    generator = random.Random(7)

    def ask_on() -> None:
        while True:
            replicas.score([ids(generator, 9)], [[[5]]])

    with pytest.raises(EngineError, match=r"Replica 0 of 2 died 3 times in a row .* vLLM does not start with"):
        ask_on()
    with pytest.raises(EngineError, match="is given up"):
        replicas.score([[5]], [[[5]]])
    assert folders
    replicas.close()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive
    assert not any(Path(folder).exists() for folder in folders)
