"""Packed rows against the slow way: every candidate a row of its own through the model's plain forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from llmgym.candidates import action_logprobs, build_trie, close_prefixes
from llmgym.errors import LearnerError
from llmgym.learner.evaluation import checked_policy, evaluate, evaluate_scores
from llmgym.learner.heads import ValueHead
from llmgym.learner.inference import score_candidates
from llmgym.learner.loading import load_model
from llmgym.learner.packing import build_pack
from llmgym.learner.policy import Policy
from llmgym.learner.row import build_rows
from llmgym.learner.state_rows import pack_turns
from llmgym.types import Acting, TokenIds, Trajectory, Turn

EOS = 1
ACTINGS = [
    Acting("score", "sum", 1.0),
    Acting("score", "sum", 0.5),
    Acting("score", "mean", 2.0),
    Acting("constrained", "sum", 1.0),
    Acting("constrained", "sum", 0.7),
]


def token_logprobs(model: Any, prompt_ids: Sequence[int], candidate: TokenIds) -> torch.Tensor:
    """Return float32 (num_tokens,) from one plain forward pass over prompt and candidate."""
    ids = torch.tensor([[*prompt_ids, *candidate]])
    logprobs = torch.log_softmax(model(ids).logits[0, len(prompt_ids) - 1 : -1], -1)
    return logprobs.gather(1, torch.tensor(candidate)[:, None]).squeeze(1)


def brute_force(model: Any, turn: Turn, acting: Acting) -> torch.Tensor:
    """Return float32 (num_candidates,), differentiable, by the definition of how actions are drawn."""
    prompt_ids = turn.prompt_ids.tolist()
    if acting.how == "score":
        scores = [token_logprobs(model, prompt_ids, candidate) for candidate in turn.candidate_ids]
        totals = torch.stack([s.sum() if acting.normalize == "sum" else s.mean() for s in scores])
        return torch.log_softmax(totals / acting.temperature, 0)
    candidates = close_prefixes(turn.candidate_ids, EOS)
    results = []
    for candidate in candidates:
        total = torch.zeros(())
        for depth in range(len(candidate)):
            prefix = candidate[:depth]
            options = sorted({other[depth] for other in candidates if other[:depth] == prefix and len(other) > depth})
            logits = model(torch.tensor([[*prompt_ids, *prefix]])).logits[0, -1]
            legal = torch.log_softmax(logits[options] / acting.temperature, 0)
            total = total + legal[options.index(candidate[depth])]
        results.append(total)
    return torch.stack(results)


def make_turns(make_episode: Callable[..., Trajectory], make_turn: Callable[..., Turn]) -> list[Turn]:
    """Two episodes of different lengths, one turn on another prompt, long and few candidates: a ragged batch."""
    return [
        *make_episode(0, 4).turns,
        make_turn([3, 4, 5], ((7,), (8,)), action=1),
        make_turn([3, 4, 5, 9, 9], ((7, 8, 9, 10, 11, 12, 13), (7, 8, 9, 10, 11, 12), (7, 20)), action=2),
        *make_episode(1, 2).turns,
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("acting", ACTINGS, ids=str)
def test_packed_logprobs_and_gradients_equal_brute_force(
    kind: str,
    acting: Acting,
    make_model: Callable[[str], Any],
    make_episode: Callable[..., Trajectory],
    make_turn: Callable[..., Turn],
) -> None:
    turns = make_turns(make_episode, make_turn)
    weights = torch.randn(len(turns), generator=torch.Generator().manual_seed(0))
    reference = make_model(kind)
    expected = [brute_force(reference, turn, acting) for turn in turns]
    chosen = torch.stack([table[turn.action] for turn, table in zip(turns, expected, strict=True)])
    (chosen * weights).sum().backward()

    policy = Policy(load_model(make_model(kind)), {}, None)
    pack = build_pack(pack_turns(policy, turns, acting, EOS))
    actions = torch.tensor([turns[state].action for state in pack.state_indices])
    outputs = evaluate(policy, pack, acting, actions)
    for state, table in zip(pack.state_indices, outputs.action_logprobs.detach(), strict=True):
        wanted = expected[state].detach()
        torch.testing.assert_close(table[: len(wanted)], wanted, rtol=1e-6, atol=1e-5)
        assert bool((table[len(wanted) :] == -torch.inf).all())
        assert float(table.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    (outputs.logprobs * weights[torch.from_numpy(pack.state_indices)]).sum().backward()
    for (name, wanted_weight), (_, weight) in zip(
        reference.named_parameters(), policy.causal_model.named_parameters(), strict=True
    ):
        assert weight.grad is not None, name
        gap = float((weight.grad - wanted_weight.grad).norm() / wanted_weight.grad.norm())
        assert gap < 1e-5, f"{name}: relative gap {gap}"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_sequence_scores_equal_brute_force_with_duplicates(kind: str, make_model: Callable[[str], Any]) -> None:
    model = make_model(kind)
    policy = Policy(load_model(model), {}, None)
    contexts = [[3, 4, 5, 6], [9], [3, 4, 5, 6, 7, 8]]
    candidates: list[tuple[TokenIds, ...]] = [((5, 6), (5, 6), (5,)), ((2, 3, 4, 5, 6),), ((EOS,), (5, EOS), (0, 0, 0))]
    scores = score_candidates(policy, contexts, candidates, max_tokens=64)
    for context, options, found in zip(contexts, candidates, scores, strict=True):
        wanted = [float(token_logprobs(model, context, option).sum().detach()) for option in options]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_probabilities_of_all_answers_of_two_tokens_add_up_to_1(make_model: Callable[[str], Any]) -> None:
    policy = Policy(load_model(make_model("llama")), {}, None)
    others = [token for token in range(64) if token != EOS]
    ended: list[TokenIds] = [(EOS,), *((token, EOS) for token in others)]
    longer: list[TokenIds] = [(first, second) for first in others for second in others]
    (scores,) = score_candidates(policy, [[3, 4, 5]], [(*ended, *longer)], max_tokens=512)
    probabilities = np.exp(scores.astype(np.float64))
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert probabilities[: len(ended)].sum() < 1.0


@pytest.mark.parametrize(
    ("acting", "odds"),
    [(Acting("score", "sum"), 64.0**2), (Acting("score", "mean"), 1.0), (Acting("constrained"), 1.0)],
    ids=str,
)
def test_the_learner_prefers_the_shorter_of_two_synonyms_where_the_sampler_does(
    acting: Acting, odds: float, make_model: Callable[[str], Any], make_turn: Callable[..., Turn]
) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all tokens are equally likely
    policy = Policy(load_model(model), {}, None)
    pack = build_pack(pack_turns(policy, [make_turn([3, 4, 5], ((5,), (6, 7, 8)))], acting, EOS))
    outputs = evaluate(policy, pack, acting, torch.tensor([1]))
    short, long = outputs.action_logprobs[0].detach().double().exp().tolist()
    assert short / long == pytest.approx(odds, rel=1e-5)
    outputs.logprobs.sum().backward()
    # By hand, for a token of the long one that no other candidate has: (1 - P(long)) / length behind its own state.
    hidden = policy.causal_model.base_model(input_ids=torch.tensor([[3, 4, 5, 6, 7]])).last_hidden_state[0]
    length = {"sum": 1, "mean": 3}[acting.normalize]
    rest = torch.stack([hidden[2], hidden[3], hidden[4]]).detach()
    expected = rest[2] * (1 - long) / length - rest.sum(0) * (1 - long) / length / 64
    if acting.how == "score":
        expected += (1 - long) * rest[0] / 64  # the short one, less likely
        found = policy.causal_model.lm_head.weight.grad[8]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("acting", ACTINGS, ids=str)
def test_the_learner_and_the_engine_side_compute_the_same_distribution(
    acting: Acting, make_model: Callable[[str], Any], make_turn: Callable[..., Turn]
) -> None:
    turn = make_turn([3, 4, 5])
    policy = Policy(load_model(make_model("llama")), {}, None)
    pack = build_pack(pack_turns(policy, [turn], acting, EOS))
    logprobs = evaluate(policy, pack, acting, torch.tensor([0])).action_logprobs[0].detach().numpy()
    ids = close_prefixes(turn.candidate_ids, EOS) if acting.how == "constrained" else turn.candidate_ids
    trie = build_trie(ids)
    node_logprobs = np.zeros(len(trie.tokens), np.float32)
    model = make_model("llama")
    for node in range(1, len(trie.tokens)):
        node_logprobs[node] = float(token_logprobs(model, turn.prompt_ids.tolist(), trie.prefix(node))[-1].detach())
    np.testing.assert_allclose(logprobs, action_logprobs(trie, node_logprobs, acting), atol=1e-5)


def test_scores_do_not_depend_on_batch_mates_or_padding(make_model: Callable[[str], Any]) -> None:
    policy = Policy(load_model(make_model("gpt2")), {}, None)
    options: tuple[TokenIds, ...] = ((5, 6), (7, 8, 9))
    alone = build_pack(build_rows([np.array([3, 4, 5], np.int32)], [options]))
    mates = [np.array([3, 4, 5], np.int32), np.arange(2, 40, dtype=np.int32), np.array([8], np.int32)]
    together = build_pack(build_rows(mates, [options, ((2, 3, 4, 5, 6),), options]))
    with torch.no_grad():
        torch.testing.assert_close(
            evaluate_scores(policy, together)[0, :2], evaluate_scores(policy, alone)[0], rtol=0, atol=1e-5
        )


def test_entropy_is_that_of_the_distribution_over_actions(
    make_model: Callable[[str], Any], make_turn: Callable[..., Turn]
) -> None:
    policy = Policy(load_model(make_model("llama")), {}, None)
    turns = [make_turn([3, 4, 5]), make_turn([9, 9], ((7,), (8,)))]
    pack = build_pack(pack_turns(policy, turns, Acting(), EOS))
    outputs = evaluate(policy, pack, Acting(), torch.tensor([0, 0]))
    for table, entropy in zip(outputs.action_logprobs, outputs.entropies, strict=True):
        probabilities = table[table > -torch.inf].exp()
        assert float(entropy.detach()) == pytest.approx(float(-(probabilities * probabilities.log()).sum().detach()))
    outputs.entropies.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for _, p in policy.model_parameters() if p.grad is not None)


def test_heads_read_the_last_token_of_each_prompt(
    make_model: Callable[[str], Any], make_episode: Callable[..., Trajectory]
) -> None:
    model = make_model("gpt2")
    head = ValueHead(32)
    torch.nn.init.normal_(head.outer.weight, generator=torch.Generator().manual_seed(0))
    policy = Policy(load_model(model), {"value": head}, None)
    turns = make_episode(3, 4).turns
    pack = build_pack(pack_turns(policy, turns, Acting(), EOS))
    values = evaluate(policy, pack, Acting(), torch.zeros(4, dtype=torch.int64)).heads["value"]
    for turn, value in zip(turns, values, strict=True):
        ids = torch.from_numpy(turn.prompt_ids.astype(np.int64))[None]
        wanted = head(model(ids, output_hidden_states=True).hidden_states[-1][:, -1])
        torch.testing.assert_close(value, wanted[0], rtol=0, atol=1e-5)


def test_an_architecture_that_packing_does_not_fit_is_refused(make_model: Callable[[str], Any]) -> None:
    policy = Policy(load_model(make_model("llama")), {}, None)
    checked_policy(policy)
    policy.config.logit_scale = 0.5  # the model itself knows nothing of it: as if a scale were applied elsewhere
    with pytest.raises(LearnerError, match=r"packed row to score as LlamaForCausalLM does alone, but packed gives -"):
        checked_policy(policy)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Qwen2ForCausalLM", {}),
        ("Qwen3ForCausalLM", {"head_dim": 8}),
        ("MistralForCausalLM", {"sliding_window": 64}),
        ("GPTNeoXForCausalLM", {}),
        ("OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.1}),
        ("CohereForCausalLM", {"logit_scale": 0.1}),
        ("GraniteForCausalLM", {"logits_scaling": 4.0}),
        ("Gemma2ForCausalLM", {"final_logit_softcapping": 5.0, "attn_logit_softcapping": None, "head_dim": 8}),
    ],
)
def test_architectures_that_differ_in_positions_logits_or_heads_are_scored_right(
    name: str, settings: dict[str, Any]
) -> None:
    import transformers

    config_class = getattr(transformers, name.replace("ForCausalLM", "Config"))
    config = config_class(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(config)
    checked_policy(Policy(load_model(model), {}, None), tolerance=1e-5)
