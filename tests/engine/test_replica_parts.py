"""The parts of replicas that need no process: which context goes where, and what is kept for a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmgym.engine import load_engine
from llmgym.engine.replica_policy import PolicyFiles
from llmgym.engine.replica_router import PrefixRouter, prefix_keys
from llmgym.errors import EngineError


def test_a_growing_context_follows_its_longest_known_prefix() -> None:
    router = PrefixRouter()
    router.settle(prefix_keys((1, 2)), 0)
    router.settle(prefix_keys((1, 2, 3)), 1)
    assert router.follow(prefix_keys((1, 2, 3, 4, 5))) == 1
    assert router.follow(prefix_keys((1, 2, 9))) == 0
    assert router.follow(prefix_keys((1, 7))) is None


def test_the_same_context_stays_where_it_is() -> None:
    router = PrefixRouter()
    router.settle(prefix_keys((1, 2)), 1)
    assert [router.follow(prefix_keys((1, 2))) for _ in range(3)] == [1, 1, 1]
    assert router.knows(prefix_keys((1, 2)))


def test_only_one_of_many_episodes_with_one_beginning_inherits_its_replica() -> None:
    router = PrefixRouter()
    router.settle(prefix_keys((1, 2)), 1)
    assert router.follow(prefix_keys((1, 2, 3))) == 1
    assert router.follow(prefix_keys((1, 2, 4))) is None
    assert not router.knows(prefix_keys((1, 2)))


def test_the_router_forgets_a_replica_and_what_was_not_seen_for_longest() -> None:
    router = PrefixRouter(max_contexts=2)
    for token, place in ((1, 0), (2, 1), (3, 0)):
        router.settle(prefix_keys((token,)), place)
    assert not router.knows(prefix_keys((1,)))
    router.forget(0)
    assert not router.knows(prefix_keys((3,)))
    assert router.follow(prefix_keys((2, 5))) == 1


def adapter(folder: Path, text: str) -> str:
    folder.mkdir()
    folder.joinpath("adapter_config.json").write_text(text)
    return str(folder)


def test_files_outlive_those_of_the_publisher_and_go_with_the_next(tmp_path: Path) -> None:
    first = PolicyFiles().with_adapter(adapter(tmp_path / "a", "one"), "policy")
    (tmp_path / "a" / "adapter_config.json").unlink()
    ((method, (folder, name)),) = first.calls()
    assert (method, name, Path(folder, "adapter_config.json").read_text()) == ("load_adapter", "policy", "one")
    second = first.with_weights([("weight", torch.ones(2))])
    assert [call[0] for call in second.calls()] == ["load_weights_file", "load_adapter"]
    third = second.with_adapter(adapter(tmp_path / "b", "two"), "policy")
    second.remove(but=third)
    assert not Path(folder).exists()
    assert Path(third.weights_file).is_file()
    fourth = third.without_adapter("policy").without_adapter("unknown")
    third.remove(but=fourth)
    assert fourth.calls() == [("load_weights_file", (third.weights_file,))]
    fourth.remove()
    assert not any(Path(one).exists() for one in third.folders())


def test_replicas_of_another_backend_or_none_are_refused() -> None:
    with pytest.raises(EngineError, match=r"Expected replicas of 1 or more, found 0"):
        load_engine("anywhere", replicas=0)
    with pytest.raises(EngineError, match="Expected replicas of 1 with the backend 'transformers', found 2"):
        load_engine("anywhere", backend="transformers", replicas=2)
    with pytest.raises(EngineError, match="Expected tensor_parallel_size of 1 with the backend 'scripted', found 2"):
        load_engine("", backend="scripted", tensor_parallel_size=2)
