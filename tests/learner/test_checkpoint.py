import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmgym.algorithms import PPO, BehaviourCloning, Outputs, Targets
from llmgym.errors import LearnerError
from llmgym.learner import Learner, LoraSettings, ValueHead
from llmgym.types import Acting

Make = Callable[..., Any]


@pytest.fixture
def base_model(make_model: Make, tmp_path: Path) -> Path:
    """A folder with the random Llama."""
    make_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def make_learner(model: Any, lora: LoraSettings | None) -> Learner:
    return Learner(
        model,
        lora=lora,
        heads={"value": partial(ValueHead, width=16)},
        algorithm=PPO(epochs=2, minibatch_turns=6, clip=0.3),
        acting=Acting("constrained", temperature=0.8),
        learning_rate=1e-3,
        head_learning_rate=1e-2,
        weight_decay=0.1,
        seed=3,
    )


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, targets=("q_proj", "v_proj"))])
@pytest.mark.parametrize("from_folder", [True, False])
def test_a_loaded_learner_goes_on_to_the_same_numbers(
    lora: LoraSettings | None, from_folder: bool, make_model: Make, make_batch: Make, base_model: Path, tmp_path: Path
) -> None:
    learner = make_learner(str(base_model) if from_folder else make_model(), lora)
    for seed in range(2):
        learner.update(make_batch(seed=seed))
    learner.version = 7
    learner.save(tmp_path / "checkpoint")
    loaded = Learner.load(tmp_path / "checkpoint")
    assert loaded.version == 7
    assert loaded.acting == learner.acting
    assert loaded.algorithm == learner.algorithm
    assert loaded.policy.lora == lora
    for seed in range(2, 4):
        assert loaded.update(make_batch(seed=seed)) == learner.update(make_batch(seed=seed))
    for (name, first), second in zip(learner.policy.named_parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(first, second), name


def test_adapter_checkpoint_is_in_the_peft_format(make_model: Make, make_batch: Make, tmp_path: Path) -> None:
    from peft import PeftModel

    learner = make_learner(make_model(), LoraSettings(rank=2))
    learner.update(make_batch())
    learner.save(tmp_path / "checkpoint")
    served = PeftModel.from_pretrained(make_model(), str(tmp_path / "checkpoint" / "adapter")).eval()
    ids = torch.arange(2, 12)[None]
    torch.testing.assert_close(served(ids).logits, learner.policy.causal_model(ids).logits, rtol=0, atol=1e-5)
    # a base that was given as a module has no name to be found under: its weights are in the checkpoint, as they were
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint" / "model").state_dict()
    assert all(torch.equal(base[name], value) for name, value in make_model().state_dict().items())


def test_full_checkpoint_is_a_transformers_model(make_model: Make, make_batch: Make, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    learner = make_learner(make_model(), None)
    learner.update(make_batch())
    learner.save(tmp_path / "checkpoint")
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint" / "model").eval()
    assert served.config._attn_implementation == "sdpa"
    ids = torch.arange(2, 12)[None]
    torch.testing.assert_close(served(ids).logits, learner.policy.causal_model(ids).logits, rtol=0, atol=1e-5)


def test_adapter_on_a_named_base_does_not_copy_it(base_model: Path, tmp_path: Path) -> None:
    make_learner(str(base_model), LoraSettings(rank=2)).save(tmp_path / "checkpoint")
    assert [path.name for path in (tmp_path / "checkpoint" / "model").iterdir()] == ["config.json"]
    moved = base_model.rename(tmp_path / "moved")
    with pytest.raises(LearnerError, match="cannot be loaded"):
        Learner.load(tmp_path / "checkpoint")
    Learner.load(tmp_path / "checkpoint", model=str(moved))


def test_an_adapter_of_another_base_is_refused(make_model: Make, base_model: Path, tmp_path: Path) -> None:
    make_learner(str(base_model), LoraSettings(rank=2, targets=("q_proj",))).save(tmp_path / "checkpoint")
    make_model("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(LearnerError, match=r"Expected LoRA targets among .* but the model has no such layer 'q_proj'"):
        Learner.load(tmp_path / "checkpoint", model=str(tmp_path / "gpt2"))
    config = make_model().config
    config.num_attention_heads = config.num_key_value_heads = 8
    config.head_dim = 8
    type(make_model())(config).save_pretrained(tmp_path / "wider")
    with pytest.raises(LearnerError) as caught:
        Learner.load(tmp_path / "checkpoint", model=str(tmp_path / "wider"))
    assert str(caught.value) == (
        "Expected the checkpoint's adapter and heads to fit the model and heads given, but: the adapter's "
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight has shape (32, 2), where the model asks for "
        f"(64, 2). The adapter was learned on {base_model}; here is {tmp_path / 'wider'}. Pass the model and heads it "
        "was saved with."
    )
    other = make_model()
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(LearnerError) as caught:
        Learner.load(tmp_path / "checkpoint", model=str(tmp_path / "other"))
    assert str(caught.value) == (
        f"Expected the weights of {base_model}, which the checkpoint's adapter was learned on, found others in "
        f"{tmp_path / 'other'}. Pass the model that it was saved with: model=..."
    )


def test_a_failed_save_leaves_the_last_checkpoint(make_model: Make, tmp_path: Path) -> None:
    learner = make_learner(make_model(), None)
    learner.save(tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint" / "learner.json").read_text()
    learner._rng = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        learner.save(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "learner.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_an_incomplete_folder_is_refused(make_model: Make, tmp_path: Path) -> None:
    make_learner(make_model(), None).save(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "optimizer.safetensors").unlink()
    with pytest.raises(LearnerError, match=r"Expected a checkpoint with .* but optimizer\.safetensors is missing"):
        Learner.load(tmp_path / "checkpoint")


def test_own_head_and_algorithm_must_be_given_to_load(make_model: Make, make_batch: Make, tmp_path: Path) -> None:
    class Linear(nn.Module):
        def __init__(self, hidden_size: int) -> None:
            super().__init__()
            self.linear = nn.Linear(hidden_size, 1)

        def forward(self, hidden_states: Tensor) -> Tensor:
            return self.linear(hidden_states).squeeze(-1)  # type: ignore[no-any-return]

    @dataclass(frozen=True)
    class Own:
        epochs: int = 1
        minibatch_turns: int = 8

        def loss(self, outputs: Outputs, targets: Targets) -> tuple[Tensor, Mapping[str, Tensor]]:
            return targets.mean((outputs.heads["value"] - targets.returns).square()), {}

    learner = Learner(make_model(), heads={"value": Linear}, algorithm=Own())
    learner.update(make_batch())
    learner.save(tmp_path / "checkpoint")
    with pytest.raises(LearnerError, match=r"Expected the algorithm .*Own that .* Pass algorithm= to load it"):
        Learner.load(tmp_path / "checkpoint", heads={"value": Linear})
    with pytest.raises(LearnerError, match=r"Expected the head 'value' \(.*Linear\) that .* Pass heads="):
        Learner.load(tmp_path / "checkpoint", algorithm=Own())
    with pytest.raises(LearnerError, match="adapter and heads to fit the model and heads given"):
        Learner.load(tmp_path / "checkpoint", heads={"value": ValueHead}, algorithm=Own())
    loaded = Learner.load(tmp_path / "checkpoint", heads={"value": Linear}, algorithm=Own())
    assert loaded.update(make_batch(seed=1)) == learner.update(make_batch(seed=1))


def test_a_checkpoint_says_what_it_is_in_json(make_model: Make, tmp_path: Path) -> None:
    learner = Learner(make_model(), algorithm=BehaviourCloning(2, 8))
    learner.save(tmp_path / "checkpoint")
    record = json.loads((tmp_path / "checkpoint" / "learner.json").read_text())
    assert record["settings"]["algorithm"] == {
        "name": "clone",
        "settings": {"epochs": 2, "minibatch_turns": 8, "value_coef": 0.0, "text_coef": 0.0},
    }
    saved = {"class": "ValueHead", "width": 256, "reads": "state", "trunk": "shared"}
    assert record["heads"] == {"value": saved}
    assert np.random.default_rng(0).bit_generator.state == record["rng_state"]
