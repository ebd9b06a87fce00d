"""A Caller answers as Lamorel's does, where Lamorel's is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llmgym.compat.lamorel import BaseModelInitializer, BaseModuleFunction, BaseUpdater, Caller, lamorel_init
from llmgym.errors import HostError

CONTEXTS = ["You", "You see a red ball 2 steps left", "turn left"]
CANDIDATES = [[" turn left", " go"], [" pick up", " drop", " toggle toggle"], ["!"]]

Config = Callable[..., dict[str, Any]]
MakeCaller = Callable[..., Caller]
ByHand = Callable[[str, Any, Any], float]


class LogScores(BaseModuleFunction):
    """The score, read as scripts do: by where the padded context ends, and by the padding's id."""

    def __init__(self, is_causal: bool, is_pre_encoded: bool) -> None:
        super().__init__()
        self.is_causal, self.is_pre_encoded = is_causal, is_pre_encoded

    def initialize(self) -> None:
        self.pad = 0

    def forward(self, forward_outputs: Any, minibatch: Any, tokenized_contexts: Any, **kwargs: Any) -> Tensor:
        if self.is_causal:
            end = 0 if self.is_pre_encoded else len(tokenized_contexts[0]["input_ids"])
            logits, ids = forward_outputs["logits"][:, end:-1], minibatch["input_ids"][:, end + 1 :]
        else:
            logits, ids = forward_outputs["logits"][:, :-1], minibatch["decoder_input_ids"][:, 1:]
        logprobs = logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
        return logprobs.masked_fill(ids == self.pad, 0.0).sum(-1).cpu()


class Value(BaseModuleFunction):
    """A value head in v0.3's manner: several outputs by name."""

    def initialize(self) -> None:
        config = self.model_config
        width = getattr(config, "hidden_size", None) or config.d_model
        self.layer = torch.nn.Linear(width, 1).to(self.device)

    def forward(
        self, forward_outputs: Any, minibatch: Any, tokenized_contexts: Any, current_minibatch_ids: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        if self.llm_config.model_type == "causal":
            states = forward_outputs["hidden_states"][-1][:, len(tokenized_contexts[0]["input_ids"])]
        else:
            states = forward_outputs["decoder_hidden_states"][-1][:, 0]
        ids = torch.tensor(current_minibatch_ids)
        value = self.layer(states) * kwargs.get("scale", 1.0)
        return {"value": value, "ids": ids, "fed": torch.full_like(ids, self.num_tokens(minibatch))}

    def num_tokens(self, minibatch: Any) -> int:
        return int(minibatch["attention_mask"].shape[1])


class Head(BaseModuleFunction):
    """One number a row, in main's manner."""

    def initialize(self) -> None:
        self.layer = torch.nn.Linear(self.llm_config.hidden_size, 1).to(self.device)

    def forward(self, forward_outputs: Any, minibatch: Any, tokenized_contexts: Any, **kwargs: Any) -> Tensor:
        return self.layer(forward_outputs["hidden_states"][-1][:, 0]).cpu()


class Teacher(BaseUpdater):
    """Learns targets for `Head`, and tells what it was given."""

    def perform_update(self, contexts: Any, candidates: Any, _current_batch_ids: Any, **kwargs: Any) -> dict[str, Any]:
        if not hasattr(self, "optimizer"):
            for value in self._llm_module.module._LLM_model.parameters():
                value.requires_grad = False
            self.optimizer = torch.optim.Adam(
                self._llm_module.module._module_functions["head"].parameters(), lr=kwargs["lr"]
            )
        targets = kwargs["targets"][_current_batch_ids]
        output = self._llm_module(["head"], contexts=contexts, require_grad=True, minibatch_size=2)
        loss = (torch.stack([entry["head"][0] for entry in output]) - targets).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item(), "ids": _current_batch_ids, "candidates": candidates}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("pre_encode", [True, False])
def test_scores_are_lists_of_tensors_that_no_batch_changes(
    make_caller: MakeCaller, main_config: Config, by_hand: ByHand, kind: str, pre_encode: bool
) -> None:
    lamorel_init()
    caller = make_caller(main_config(kind, pre_encode_inputs=pre_encode))
    scores = caller.score(CONTEXTS, CANDIDATES)
    for context, candidates, found in zip(CONTEXTS, CANDIDATES, scores, strict=True):
        assert found.device.type == "cpu"
        assert found.dtype == torch.float32
        expected = [by_hand(kind, context, candidate) for candidate in candidates]
        assert found.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("pre_encode", [True, False])
def test_a_scripts_own_score_reads_the_same_layout(
    make_caller: MakeCaller, main_config: Config, kind: str, pre_encode: bool
) -> None:
    functions = {"score": LogScores(kind != "t5", pre_encode)}
    caller = make_caller(main_config(kind, pre_encode_inputs=pre_encode), custom_module_functions=functions)
    results = caller.score(CONTEXTS, CANDIDATES, additional_module_function_keys=["score"])
    assert [set(result) for result in results] == [{"__score", "score"}] * 3
    for result in results:
        assert result["score"].tolist() == pytest.approx(result["__score"].tolist(), abs=1e-5)


def test_a_real_token_0_counts(make_caller: MakeCaller, main_config: Config, by_hand: ByHand) -> None:
    caller = make_caller(main_config("gpt2"))
    (found,) = caller.score([[5, 0]], [[[0, 7], [7, 0]]])
    assert found.tolist() == pytest.approx([by_hand("gpt2", [5, 0], ids) for ids in ([0, 7], [7, 0])], abs=1e-5)


@pytest.mark.parametrize("with_logprobs", [True, False])
def test_generate_describes_each_sequence(make_caller: MakeCaller, main_config: Config, with_logprobs: bool) -> None:
    caller = make_caller(main_config("gpt2"))
    torch.manual_seed(0)
    answers = caller.generate(
        CONTEXTS, return_logprobs=with_logprobs, num_return_sequences=2, do_sample=True, top_k=None, max_new_tokens=4
    )
    assert [len(some) for some in answers] == [2, 2, 2]
    total, each = ("text_logprob", "tokens_logprob") if with_logprobs else ("text_probability", "tokens_probability")
    scores = caller.score(CONTEXTS, [[answer["tokens"].tolist() for answer in some] for some in answers])
    for some, found in zip(answers, scores, strict=True):
        for answer, score in zip(some, found, strict=True):
            assert set(answer) == {"text", "tokens", total, each}
            assert answer["tokens"].dtype == torch.int64
            assert isinstance(answer[each], np.ndarray)
            assert len(answer[each]) == len(answer["tokens"])
            value = float(answer[total])
            assert (value if with_logprobs else np.log(value)) == pytest.approx(score.item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_generate_needs_no_argument_but_the_contexts(make_caller: MakeCaller, main_config: Config, kind: str) -> None:
    answers = make_caller(main_config(kind)).generate(CONTEXTS)
    assert [len(some) for some in answers] == [1, 1, 1]
    assert all(1 <= len(answer["tokens"]) <= 20 for some in answers for answer in some)


def test_beams_have_a_score(make_caller: MakeCaller, main_config: Config) -> None:
    answers = make_caller(main_config("t5")).generate(CONTEXTS[:1], num_beams=2, max_new_tokens=3)
    assert answers[0][0]["beam_score"] < 0


def test_a_sentence_without_candidates_is_read_by_a_head(make_caller: MakeCaller, main_config: Config) -> None:
    caller = make_caller(main_config("llama"), custom_module_functions={"head": Head()})
    alone = caller.custom_module_fns(["head"], contexts=CONTEXTS)
    with_empty = caller.custom_module_fns(module_function_keys=["head"], contexts=CONTEXTS, candidates=[[""]] * 3)
    assert [entry["head"].shape for entry in alone] == [(1, 1)] * 3
    assert [entry["head"].item() for entry in alone] == [entry["head"].item() for entry in with_empty]


def test_an_empty_list_of_candidates_has_no_score(make_caller: MakeCaller, main_config: Config) -> None:
    scores = make_caller(main_config("llama")).score(["You", "turn"], [[], [" left"]])
    assert [len(found) for found in scores] == [0, 1]


def test_an_updater_learns_with_the_module_in_hand(make_caller: MakeCaller, main_config: Config) -> None:
    caller = make_caller(main_config("llama"), Teacher(), {"head": Head()})
    contexts = ["You see a red ball", "turn left", "go forward", "pick up"]
    targets = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    losses = []
    for _ in range(60):
        results = caller.update(contexts, None, targets=targets, lr=0.05)
        assert len(results) == 1
        losses.append(results[0]["loss"])
    assert results[0]["ids"] == [0, 1, 2, 3]
    assert results[0]["candidates"] is None
    assert losses[-1] < 0.05 * losses[0]
    values = caller.custom_module_fns(["head"], contexts=contexts)
    assert [round(entry["head"].item()) for entry in values] == [1, -1, 1, -1]


def test_update_without_an_updater_returns_nothing_for_each_process(
    make_caller: MakeCaller, main_config: Config
) -> None:
    assert make_caller(main_config("llama")).update(["You"], [[" a"]]) == [None]


class Loras(BaseModelInitializer):
    """Puts two adapters on the model, and remembers what it saw."""

    def initialize_model(self, model: Any) -> Any:
        import peft

        self.names = set(model.state_dict())
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(model._modules["_LLM_model"], config, adapter_name="first")
        adapted.add_adapter("second", config)
        model._modules["_LLM_model"] = adapted
        model.eval()
        return model


def test_an_initializer_changes_the_model_and_adapters_stay_until_another_is_called(
    make_caller: MakeCaller, main_config: Config
) -> None:
    loras = Loras()
    caller = make_caller(main_config("llama"), None, {"head": Head()}, loras)
    assert "_LLM_model.lm_head.weight" in loras.names
    assert "_module_functions.head.layer.weight" in loras.names

    def score(**options: Any) -> float:
        return float(caller.score(["You"], [[" turn"]], **options)[0])

    first, second = score(), score(peft_adapter="second")
    assert first != pytest.approx(second, abs=1e-4)
    assert score() == second
    assert score(peft_adapter="first") == first
    with pytest.raises(HostError, match="no 'third' among: first, second"):
        score(peft_adapter="third")


class Forgetful(BaseModelInitializer):
    def initialize_model(self, model: Any) -> None:
        return None


def test_an_initializer_that_returns_nothing_is_told(main_config: Config) -> None:
    with pytest.raises(HostError, match="initialize_model of Forgetful to return the model it was given, got NoneType"):
        Caller(main_config("llama"), custom_model_initializer=Forgetful())


def test_weights_load_by_the_names_they_were_saved_under(
    make_caller: MakeCaller, main_config: Config, tmp_path: Any
) -> None:
    class Saver(BaseUpdater):
        def perform_update(self, contexts: Any, candidates: Any, _current_batch_ids: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                self._llm_module.module._LLM_model.lm_head.weight.mul_(0.5)
            torch.save(self._llm_module.state_dict(), tmp_path / "model.checkpoint")

    class Loader(BaseModelInitializer):
        def initialize_model(self, model: Any) -> Any:
            saved = torch.load(tmp_path / "model.checkpoint")
            model.load_state_dict({name.replace("module.", ""): value for name, value in saved.items()}, strict=True)
            return model

    caller = make_caller(main_config("llama"), Saver())
    caller.update(["You"], [[" a"]])
    loaded = make_caller(main_config("llama"), custom_model_initializer=Loader())
    assert loaded.score(["You"], [[" a"]])[0].tolist() == caller.score(["You"], [[" a"]])[0].tolist()


def test_several_models_are_called_by_name(make_caller: MakeCaller, v03_config: Config) -> None:
    functions = {"actor": {"value": Value()}, "critic": {"value": Value()}}
    caller = make_caller(v03_config(actor="llama", critic="t5"), custom_module_functions=functions)
    for name in ("actor", "critic"):
        function = functions[name]["value"]
        assert function.current_process_config["llm"] == name
        assert function.llm_config.pad_token == 0
        (first, second) = caller.custom_module_fns(
            ["value"], contexts=CONTEXTS[:2], candidates=CANDIDATES[:2], llm_to_call=name, scale=2.0
        )
        assert first["value"]["ids"].tolist() == [0, 1]
        assert second["value"]["ids"].tolist() == [2, 3, 4]
        assert first["value"]["value"].shape == (2, 1)
    with pytest.raises(HostError, match="there are several: actor, critic"):
        caller.score(["You"], [[" a"]])
    caller.close("critic")
    assert len(caller.score(["You"], [[" a"]])) == 1
    with pytest.raises(HostError, match="'critic' is closed"):
        caller.score(["You"], [[" a"]], llm_to_call="critic")


def test_forced_lengths_are_kept_and_change_no_score(
    make_caller: MakeCaller, v03_config: Config, by_hand: ByHand
) -> None:
    caller = make_caller(v03_config(main_llm="gpt2"), custom_module_functions={"main_llm": {"value": Value()}})
    options = {"forced_context_len": 40, "forced_sequence_len": 50}
    results = caller.score(CONTEXTS, CANDIDATES, additional_module_function_keys=["value"], **options)
    assert {int(fed) for result in results for fed in result["value"]["fed"]} == {50}
    plain = caller.score(CONTEXTS, CANDIDATES, additional_module_function_keys=["value"])
    for context, candidates, forced, free in zip(CONTEXTS, CANDIDATES, results, plain, strict=True):
        expected = [by_hand("gpt2", context, candidate) for candidate in candidates]
        assert forced["__score"].tolist() == pytest.approx(expected, abs=1e-5)
        values = free["value"]["value"].flatten().tolist()
        assert forced["value"]["value"].flatten().tolist() == pytest.approx(values, abs=1e-5)
    unpadded = caller.score(CONTEXTS, CANDIDATES, pad_contexts=False)
    assert [found.tolist() for found in unpadded] == [
        pytest.approx(free["__score"].tolist(), abs=1e-5) for free in plain
    ]


def test_the_end_of_the_sequence_is_scored_on_request(
    make_caller: MakeCaller, v03_config: Config, by_hand: ByHand
) -> None:
    caller = make_caller(v03_config(main_llm="t5"))
    found = caller.score(["You see"], [[" a"]], add_eos_on_candidates=True)[0].item()
    assert found == pytest.approx(by_hand("t5", "You see", " a<|endoftext|>"), abs=1e-5)


def test_v03_updaters_are_told_contexts_and_candidates_of_their_shard(
    make_caller: MakeCaller, v03_config: Config
) -> None:
    class Teller(BaseUpdater):
        def perform_update(self, contexts: Any, candidates: Any, _current_batch_ids: Any, **kwargs: Any) -> Any:
            return _current_batch_ids, self.llm_config.model_type, self.current_process_config["process_index"]

    caller = make_caller(v03_config(main_llm="llama"), custom_updater={"main_llm": Teller()})
    (told,) = caller.update(["a", "b"], [["c", "d"], ["e"]])
    assert told == ({"contexts": [0, 1], "candidates": [[0, 1], [0]]}, "causal", 1)
    ((indices, _, _),) = caller.update(["a", "b"])
    assert indices == {"contexts": [0, 1], "candidates": [None, None]}


def test_scores_can_be_differentiated_where_this_process_serves(make_caller: MakeCaller, main_config: Config) -> None:
    caller = make_caller(main_config("llama"))
    assert not caller.score(["You"], [[" a"]])[0].requires_grad
    assert caller.score(["You"], [[" a"]], require_grad=True)[0].requires_grad


def test_the_process_index_of_accelerate_is_the_servers_during_an_update(
    make_caller: MakeCaller, main_config: Config
) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)

    class Teller(BaseUpdater):
        def perform_update(self, contexts: Any, candidates: Any, _current_batch_ids: Any, **kwargs: Any) -> int:
            return int(accelerator.process_index)

    assert make_caller(main_config("llama"), Teller()).update(["a"], [["b"]]) == [1]
    assert accelerator.process_index == 0


def test_without_pretrained_weights_the_seed_decides(make_caller: MakeCaller, main_config: Config) -> None:
    scores = [
        make_caller(main_config("gpt2", pretrained=False, seed=seed)).score(["You"], [[" a"]])[0].item()
        for seed in (None, 42, 7)
    ]
    assert scores[0] == scores[1] != scores[2]


def test_four_bits_are_served_on_a_cpu(make_caller: MakeCaller, main_config: Config, by_hand: ByHand) -> None:
    score = make_caller(main_config("llama", load_in_4bit=True)).score(["You"], [[" a"]])[0].item()
    exact = by_hand("llama", "You", " a")
    assert score != pytest.approx(exact, abs=1e-4)
    assert score == pytest.approx(exact, abs=3.0)
