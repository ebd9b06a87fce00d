"""Heads, adapters, models, threads, denormals, folders and minibatches: the parts a learner is made of."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from llmgym.errors import LearnerError
from llmgym.learner import LoraSettings, ValueHead, whole_folder
from llmgym.learner.attention import packed_attention
from llmgym.learner.denormals import flushed_denormals
from llmgym.learner.heads import build_heads, head_values
from llmgym.learner.loading import load_model
from llmgym.learner.minibatch import check_batch, open_ledger, split_minibatches
from llmgym.learner.policy import Policy
from llmgym.learner.row import build_rows
from llmgym.learner.threads import default_num_threads, torch_threads
from llmgym.types import Batch, Turn


def test_value_head_starts_at_0_and_learns() -> None:
    head = ValueHead(8, width=4)
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert float(head(states).detach().abs().max()) < 1e-3
    head(states).sum().backward()
    assert head.outer.weight.grad is not None
    assert float(head.outer.weight.grad.abs().max()) > 0


def test_heads_are_made_from_modules_classes_and_callables() -> None:
    heads = build_heads({"value": ValueHead, "cost": ValueHead(8), "wide": lambda size: ValueHead(size, width=3)}, 8)
    assert list(heads) == ["value", "cost", "wide"]
    assert heads["wide"].inner.out_features == 3


@pytest.mark.parametrize("name", ["logprobs", "keys", "two words"])
def test_reserved_names_of_heads_are_refused(name: str) -> None:
    with pytest.raises(LearnerError, match=rf"Expected the name of a head .* got '{name}'\. Rename the head\."):
        build_heads({name: ValueHead}, 8)


def test_one_module_under_two_names_is_refused() -> None:
    head = ValueHead(8)
    with pytest.raises(LearnerError, match="a module for every head, but 'value' and 'again' are the same one"):
        build_heads({"value": head, "again": head}, 8)


def test_what_is_no_module_is_refused_as_a_head() -> None:
    with pytest.raises(LearnerError, match=r"the head 'value' to be a torch\.nn\.Module .* got int"):
        build_heads({"value": lambda size: 3}, 8)  # type: ignore[arg-type, return-value]


def test_a_head_of_the_wrong_shape_is_told() -> None:
    with pytest.raises(LearnerError, match=r"head 'value' to return one number a state, .* got shape \(3, 1\)"):
        head_values("value", nn.Linear(32, 1), torch.zeros(3, 32))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_fresh_adapter_changes_nothing_and_is_float32(kind: str, make_model: Callable[[str], Any]) -> None:
    model = make_model(kind)
    policy = Policy(load_model(model), {}, LoraSettings(rank=2))
    learned = dict(policy.model_parameters())
    assert learned
    assert all("lora_" in name and value.dtype == torch.float32 for name, value in learned.items())
    assert not any("lm_head" in name or "wte" in name or "embed" in name for name in learned)
    ids = torch.arange(2, 9)[None]
    torch.testing.assert_close(policy.causal_model(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_lora_targets_that_match_nothing_list_near_misses(make_model: Callable[[str], Any]) -> None:
    with pytest.raises(LearnerError, match=r"no such layer 'query_proj'\. Did you mean .*'q_proj'"):
        Policy(load_model(make_model("llama")), {}, LoraSettings(targets=("query_proj",)))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_on_embeddings_is_refused(target: str, make_model: Callable[[str], Any]) -> None:
    with pytest.raises(LearnerError, match=rf"Expected LoRA targets among .* no such layer '{target}'"):
        Policy(load_model(make_model("llama")), {}, LoraSettings(targets=(target,)))


def test_lora_rank_below_1_is_refused(make_model: Callable[[str], Any]) -> None:
    with pytest.raises(LearnerError, match=r"Expected LoRA rank >= 1 and alpha > 0, got rank=0 and alpha=32\.0"):
        Policy(load_model(make_model("llama")), {}, LoraSettings(rank=0))


def test_a_given_model_is_copied_and_dropout_is_off(make_model: Callable[[str], Any]) -> None:
    model = make_model("gpt2").train()
    policy = Policy(load_model(model), {}, None)
    policy.train()
    assert not any(module.training for module in policy.modules())
    with torch.no_grad():
        next(policy.model.parameters()).add_(1.0)
    ids = torch.arange(2, 9)[None]
    assert float((policy.causal_model(ids).logits - model.eval()(ids).logits).detach().abs().max()) > 0


def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"causal language model to learn with, but the folder .* cannot be loaded"):
        load_model(str(tmp_path))


def test_encoder_decoders_are_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(LearnerError, match="Expected a causal language model, got T5ForConditionalGeneration"):
        Policy(load_model(T5ForConditionalGeneration(config)), {}, None)


def test_token_ids_and_lengths_are_checked(make_model: Callable[[str], Any]) -> None:
    policy = Policy(load_model(make_model("llama")), {}, None)
    policy.check_rows(build_rows([np.full(128, 3, np.int32)], [((4,),)]))
    with pytest.raises(LearnerError, match=r"Expected token ids from 0 to 63, got 64 in turn 0 or after"):
        policy.check_rows(build_rows([np.array([3], np.int32)], [((64,),)]))
    with pytest.raises(LearnerError, match=r"Expected token ids from 0 to 63, got -1 in turn 0 or after"):
        policy.check_rows(build_rows([np.array([3], np.int32)], [((5, -1),)]))
    with pytest.raises(LearnerError, match=r"Expected at most 128 tokens in a prompt with its action, got 129"):
        policy.check_rows(build_rows([np.full(128, 3, np.int32)], [((4, 5),)]))


def test_attention_with_an_unknown_term_is_refused() -> None:
    tensors = torch.zeros(1, 1, 2, 4)
    with pytest.raises(LearnerError, match="this model adds 'softcap' to its scores"):
        packed_attention(nn.Identity(), tensors, tensors, tensors, None, softcap=30.0)


def test_threads_are_set_and_restored_though_an_engine_replaced_the_setter(monkeypatch: pytest.MonkeyPatch) -> None:
    # An engine earlier in the session may have replaced the public setter already.
    original, found = torch._C.set_num_threads, torch.get_num_threads()
    try:
        original(1)
        monkeypatch.setattr(torch, "set_num_threads", lambda num_threads: None)
        with torch_threads(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
        with pytest.raises(ZeroDivisionError), torch_threads(2):
            _ = 1 / 0
        assert torch.get_num_threads() == 1
        with torch_threads(None):
            assert torch.get_num_threads() == 1
    finally:
        original(found)


def test_number_of_threads_below_1_is_refused() -> None:
    with pytest.raises(LearnerError, match="Expected num_threads of at least 1, got -1"), torch_threads(-1):
        pass


def test_default_number_of_threads_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert default_num_threads() >= 1


def test_denormals_are_flushed_in_the_block_only() -> None:
    tiny = torch.tensor(1e-39)
    with flushed_denormals():
        assert float(tiny * 1.0) == 0.0
    assert float(tiny * 1.0) > 0.0


def test_numpy_knows_its_smallest_numbers_where_denormals_are_flushed() -> None:
    """NumPy finds them when it is first asked: hence a process of its own."""
    asked = "import numpy as np; from llmgym.learner.denormals import flushed_denormals\n"
    asked += "with flushed_denormals(): limits = np.finfo(np.float32), np.finfo(np.float64)\n"
    asked += "assert all(limit.smallest_subnormal > 0 for limit in limits)"
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "checkpoint"
    with pytest.raises(IsADirectoryError), whole_folder(target) as folder:  # noqa: PT012
        (folder / "half").write_text("written")
        folder.write_text("fails")
    assert list(target.parent.iterdir()) == []
    with whole_folder(target) as folder:
        (folder / "file").write_text("first")
        assert folder.parent == target.parent
        assert not target.exists()
    with whole_folder(target) as folder:
        (folder / "file").write_text("second")
    assert (target / "file").read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["checkpoint"]


def test_minibatches_are_even_whole_and_seeded(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(40)
    rows = build_rows([turn.prompt_ids for turn in batch.turns], [turn.candidate_ids for turn in batch.turns])
    minibatches = split_minibatches(rows, 25, np.random.default_rng(0))
    sizes = [sum(row.num_states for row in minibatch) for minibatch in minibatches]
    assert sum(sizes) == len(batch.turns) == 100
    assert len(sizes) == 4
    assert max(sizes) - min(sizes) <= 4  # rows of up to four turns
    again = split_minibatches(rows, 25, np.random.default_rng(0))
    assert [[row.first_state for row in m] for m in again] == [[row.first_state for row in m] for m in minibatches]
    other = split_minibatches(rows, 25, np.random.default_rng(1))
    assert [[row.first_state for row in m] for m in other] != [[row.first_state for row in m] for m in minibatches]
    assert len(split_minibatches(rows, 10**6, np.random.default_rng(0))) == 1


def test_advantages_are_normalised_over_the_whole_batch(make_batch: Callable[..., Batch]) -> None:
    targets = open_ledger(make_batch(6), "turn", torch.device("cpu")).targets
    assert float(targets.normalized_advantages.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(targets.normalized_advantages.std(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


def test_constant_advantages_become_exactly_0(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(6)
    constant = Batch(batch.turns, np.full(len(batch.turns), 0.3, np.float32), batch.returns, batch.values)
    targets = open_ledger(constant, "turn", torch.device("cpu")).targets
    assert targets.normalized_advantages.tolist() == [0.0] * len(batch.turns)


def test_unusable_batches_are_refused(make_batch: Callable[..., Batch], make_turn: Callable[..., Turn]) -> None:
    batch = make_batch(2)
    num_turns = len(batch.turns)
    nothing = np.zeros(0, np.float32)
    with pytest.raises(LearnerError, match="Expected a batch with at least one turn, got none"):
        check_batch(Batch((), nothing, nothing, nothing))
    with pytest.raises(LearnerError, match=rf"Expected returns for {num_turns} turns, got 0"):
        check_batch(Batch(batch.turns, batch.advantages, nothing, batch.values))
    broken = batch.returns.copy()
    broken[1] = np.inf
    with pytest.raises(LearnerError, match=r"Expected finite returns, got inf at turn 1"):
        check_batch(Batch(batch.turns, batch.advantages, broken, batch.values))
    one = np.zeros(1, np.float32)
    with pytest.raises(LearnerError, match=r"action of turn 0 to be the index of one of its 5 candidates, got 5"):
        check_batch(Batch((make_turn([3], action=5),), one, one, one))
