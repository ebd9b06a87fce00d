"""Several adapters on one model, chosen per call; and models in four bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from llmgym.errors import HostError
from llmgym.host import SCORE, Host, HostedModel, ModelSettings, ModelSpec, PassOptions

TARGETS = {"llama": ["q_proj", "v_proj"], "t5": ["q", "v"]}


def lora(kind: str) -> peft.LoraConfig:
    return peft.LoraConfig(r=2, target_modules=TARGETS[kind], init_lora_weights=False)


@pytest.fixture(params=["llama", "t5"])
def hosted(request: pytest.FixtureRequest, tiny_zoo: dict[str, Path]) -> HostedModel:
    hosted = HostedModel.load(ModelSettings(str(tiny_zoo[request.param])))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(hosted.language_model, lora(request.param), adapter_name="red")
        model.add_adapter("blue", lora(request.param))
    hosted.language_model = model.eval()
    return hosted


def score(hosted: HostedModel, adapter: str | None) -> float:
    return float(hosted.score(["You see"], [[" a red ball"]], PassOptions(adapter=adapter))[0])


def test_adapters_are_chosen_per_call(hosted: HostedModel) -> None:
    model = hosted.language_model
    expected = {}
    for name in ("red", "blue"):
        model.set_adapter(name)
        expected[name] = score(hosted, None)
    model.set_adapter("red")
    with model.disable_adapter():
        expected["base"] = score(hosted, None)
    assert len({round(value, 3) for value in expected.values()}) == 3
    for name in ("blue", "base", "red", "blue"):
        assert score(hosted, name) == pytest.approx(expected[name], abs=1e-6)
        assert score(hosted, None) == pytest.approx(expected["red"], abs=1e-6)


def test_borrowing_an_adapter_changes_nothing_of_what_is_trained(hosted: HostedModel) -> None:
    before = {name: value.requires_grad for name, value in hosted.named_parameters()}
    assert any(before.values())
    score(hosted, "blue")
    score(hosted, "base")
    hosted.generate(["You"], {"max_new_tokens": 2}, adapter="blue")
    assert {name: value.requires_grad for name, value in hosted.named_parameters()} == before


def test_the_adapter_named_in_a_differentiable_pass_is_the_one_that_is_trained(hosted: HostedModel) -> None:
    hosted([SCORE], ["You see"], [[" a"]], PassOptions(adapter="blue"))[0][SCORE].sum().backward()
    trained = {name for name, value in hosted.named_parameters() if value.grad is not None}
    assert trained
    assert all(".blue." in name for name in trained)


def test_an_unknown_adapter_is_refused_with_the_known_ones(hosted: HostedModel) -> None:
    with pytest.raises(HostError, match=r"no 'bleu' among: red, blue. Did you mean 'blue'\?"):
        score(hosted, "bleu")


def add_adapter(hosted: HostedModel) -> None:
    torch.manual_seed(0)
    hosted.language_model = peft.get_peft_model(hosted.language_model, lora("llama"), adapter_name="red")


def test_a_host_serves_several_models_and_adapters_at_once(tiny_zoo: dict[str, Path]) -> None:
    models = {
        "actor": ModelSpec(ModelSettings(str(tiny_zoo["llama"])), initialise=add_adapter),
        "critic": ModelSpec(ModelSettings(str(tiny_zoo["t5"]))),
    }
    with Host(models) as host:
        alone = HostedModel.load(ModelSettings(str(tiny_zoo["t5"]))).score(["You"], [[" a"]])
        assert host.score(["You"], [[" a"]], model="critic")[0].tolist() == alone[0].tolist()
        red = host.score(["You"], [[" a"]], model="actor")[0]
        base = host.score(["You"], [[" a"]], PassOptions(adapter="base"), model="actor")[0]
        assert red.item() != pytest.approx(base.item(), abs=1e-3)
        with pytest.raises(HostError, match="there are several: actor, critic"):
            host.score(["You"], [[" a"]])
        with pytest.raises(HostError, match=r"among actor, critic, found 'actr'. Did you mean 'actor'\?"):
            host.score(["You"], [[" a"]], model="actr")
        with pytest.raises(HostError, match="Expected a model with an updater, found none"):
            host.update(["You"], model="actor")
    with pytest.raises(HostError, match="is closed"):
        host.score(["You"], [[" a"]], model="actor")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_four_bits_score_as_their_dequantised_weights_do_and_keep_their_gradients(
    tiny_zoo: dict[str, Path], kind: str
) -> None:
    import bitsandbytes
    from bitsandbytes.functional import dequantize_4bit

    small = HostedModel.load(ModelSettings(str(tiny_zoo[kind]), load_in_4bit=True))
    whole = HostedModel.load(ModelSettings(str(tiny_zoo[kind])))
    request: Any = (["You", "You see a red ball"], [[" turn left"], [" go", " drop"]])
    unquantised = torch.cat(whole.score(*request))
    num_quantised = 0
    modules = dict(whole.named_modules())
    for name, module in small.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            num_quantised += 1
            modules[name].weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
    assert num_quantised > 0
    found = torch.cat(small.score(*request))
    assert found.tolist() == pytest.approx(torch.cat(whole.score(*request)).tolist(), abs=1e-4)
    assert found.tolist() != pytest.approx(unquantised.tolist(), abs=1e-4)
    small.language_model = peft.get_peft_model(small.language_model, lora(kind)).eval()
    before = [result[SCORE].tolist() for result in small.run_modules([SCORE], *request)]
    torch.cat([result[SCORE] for result in small([SCORE], *request)]).sum().backward()
    gradients = [value.grad for name, value in small.named_parameters() if "lora_" in name]
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert [result[SCORE].tolist() for result in small.run_modules([SCORE], *request)] == before


def test_random_weights_cannot_be_loaded_in_four_bits(tiny_zoo: dict[str, Path]) -> None:
    with pytest.raises(HostError, match="Expected pretrained weights to load in 4 bits"):
        HostedModel.load(ModelSettings(str(tiny_zoo["llama"]), load_in_4bit=True, is_pretrained=False))
