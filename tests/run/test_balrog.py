"""BALROG's protocol: what is played, how models are asked, and how progress is counted."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import pytest

import llmgym  # noqa: F401 - registers the environments
from llmgym.engine import load_engine
from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.errors import ConfigError
from llmgym.rollout.statistics import standard_error_interval
from llmgym.run.playing import PlayedEpisode, dealt_seeds, play_engine
from llmgym.run.protocols.balrog import BALROG, BALROG_SCORED
from llmgym.run.protocols.task import ProtocolOptions, Task
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.run.venv import make_env
from llmgym.text.chat_wording import WORDINGS
from llmgym.types import Engine


def play(engine: Engine, task: Task) -> list[PlayedEpisode]:
    (first_seed,) = task.first_seeds
    num_envs = min(task.num_envs, task.episodes)
    return list(
        play_engine(
            engine,
            task.env,
            task.env_settings,
            num_envs,
            prompt=task.prompt,
            acting=task.acting,
            seed=0,
            episode_seed=dealt_seeds(first_seed, task.episodes, num_envs),
            telling=task.rewording,
        )
    )


def test_the_tasks_are_the_five_kinds_without_distractors() -> None:
    tasks = BALROG.make_tasks(ProtocolOptions())
    assert [task.name for task in tasks] == ["goto", "pickup", "open", "putnext", "pick_up_seq_go_to"]
    for task in tasks:
        assert (task.episodes, task.first_seeds, task.counts) == (10, (HELD_OUT_SEED,), "each")
        assert (task.acting.how, task.temperature, task.acting.fallback) == ("text", 1.0, "go forward")
        assert (task.prompt.history, task.prompt.num_observations, task.prompt.chat) == ("chat", 16, "balrog")


@pytest.mark.parametrize(
    ("name", "num_objects", "max_steps"),
    [("goto", 1, 64), ("pickup", 1, 64), ("open", 2, 128), ("putnext", 2, 128), ("pick_up_seq_go_to", 2, 128)],
)
def test_a_level_holds_only_what_its_mission_is_about(name, num_objects, max_steps) -> None:
    (task,) = [task for task in BALROG.make_tasks(ProtocolOptions()) if task.name == name]
    env = make_env(task.env, task.env_settings)
    for seed in range(3):
        _, info = env.reset(seed=HELD_OUT_SEED + seed)
        level: Any = env.unwrapped
        things = [cell for cell in level.grid.grid if cell is not None and cell.type != "wall"]
        assert (info["kind"], len(things), level.max_steps) == (name, num_objects, max_steps)
    env.close()


def test_options_change_what_may_be_changed() -> None:
    options = ProtocolOptions(episodes=25, first_episode=7, num_envs=3, temperature=0.0, max_new_tokens=16, num_seeds=1)
    for protocol, how in ((BALROG, "text"), (BALROG_SCORED, "score")):
        for task in protocol.make_tasks(options):
            assert (task.episodes, task.num_envs, task.first_seeds) == (25, 3, (HELD_OUT_SEED + 7,))
            assert (task.acting.how, task.temperature, task.acting.max_new_tokens) == (how, 0.0, 16)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            ProtocolOptions(env="llmgym/BabyAI-GoToLocal-v0"),
            "no --env with --protocol balrog.*found 'llmgym/BabyAI-GoTo",
        ),
        (ProtocolOptions(env_settings={"num_dists": 4}), "--env-set with"),
        (ProtocolOptions(num_seeds=3), "--seeds with.*found 3"),
        (ProtocolOptions(confidence=0.9), r"--confidence with.*found 0\.9. Leave it out"),
    ],
)
def test_what_would_make_it_another_protocol_is_refused(options, named) -> None:
    with pytest.raises(ConfigError, match=named):
        BALROG.make_tasks(options)


def test_the_standard_error_is_balrogs() -> None:
    # BALROG: the standard deviation of the episodes' progress, divided by n, over the root of n. By hand, for two
    # of five: mean 0.4; variance (2 * 0.36 + 3 * 0.16) / 5 = 0.24; error sqrt(0.24 / 5) = 0.219089.
    estimate = standard_error_interval(2, 5)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((0.180911, 0.4, 0.619089), abs=1e-6)
    # Its summary of Llama-3.2 (3 B): 10 of 50 episodes, "standard_error": 5.656854249492381.
    assert 100 * (standard_error_interval(10, 50).high - 0.2) == pytest.approx(5.656854249492381)


@pytest.mark.parametrize("row", BALROG.published, ids=lambda row: row.policy)
def test_published_rows_agree_with_themselves(row) -> None:
    num_episodes = 125 if "25 episodes a task" in row.source else 50
    error = sqrt(row.rates["all"] * (1 - row.rates["all"]) / num_episodes)
    assert row.errors["all"] == pytest.approx(error, abs=0.00051)
    tasks = [rate for name, rate in row.rates.items() if name != "all"]
    assert not tasks or sum(tasks) / 5 == pytest.approx(row.rates["all"])
    assert "zero-shot" in row.training


def test_published_rows_are_in_order_and_name_known_tasks() -> None:
    totals = [row.rates["all"] for row in BALROG.published]
    assert totals == sorted(totals, reverse=True)
    known = {"all", *(task.name for task in BALROG.make_tasks(ProtocolOptions()))}
    assert all(set(row.rates) in ({"all"}, known) for row in BALROG.published)


def test_a_valid_answer_is_taken_and_an_invalid_one_goes_forward() -> None:
    contexts: list[str] = []

    def answer(context: str, _seed: int) -> str:
        contexts.append(context)
        return "**turn right**." if len(contexts) % 2 else "Turn right, I think."

    task = BALROG.make_tasks(ProtocolOptions(episodes=1))[0]
    with ScriptedEngine(answer=answer) as engine:
        (episode,) = play(engine, task)
    assert episode.num_unparsed == episode.num_turns // 2
    told = "Your previous output did not contain a valid action. Defaulted to action: go forward\n\nObservation:\n"
    assert told not in contexts[1]
    assert contexts[2].count(told) == 1
    assert "Assistant: turn right\n\nUser: Observation:\n" in contexts[2]
    assert "Assistant: Turn right I think\n\nUser: Current Observation:\n\n\nYour previous" in contexts[2]
    # 16 observations are shown, at most.
    assert max(context.count("Observation:\n") - context.count(told) for context in contexts) == 16


@pytest.mark.parametrize("protocol", [BALROG, BALROG_SCORED], ids=lambda protocol: protocol.name)
def test_all_tasks_are_played_to_their_ends(protocol) -> None:
    with ScriptedEngine(lambda _context, action: 0.0 if "turn" in action else -99.0, lambda *_: "turn left") as engine:
        episodes = [play(engine, task) for task in protocol.make_tasks(ProtocolOptions(episodes=1))]
    # Who only turns fulfils no mission but to go to what happens to lie in front.
    assert [(one.num_turns, one.episode_return, one.num_unparsed) for (one,) in episodes[1:]] == [
        (64, 0.0, 0),
        *[(128, 0.0, 0)] * 3,
    ]


@pytest.fixture(scope="module")
def chat_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine on a small random model with a chat template and room for the window."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmgym.learner.tiny import build_tokenizer

    folder = tmp_path_factory.mktemp("chat-model")
    tokenizer = build_tokenizer([WORDINGS["balrog"].instruction, WORDINGS["balrog"].current] * 2, [], 700)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=704,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with load_engine(str(folder), "transformers") as engine:
        yield engine


def test_a_model_that_knows_nothing_goes_forward_until_the_end(chat_engine) -> None:
    task = BALROG.make_tasks(ProtocolOptions(episodes=2, max_new_tokens=2))[0]
    first, second = sorted(play(chat_engine, task), key=lambda episode: episode.seed)
    assert (first.seed, second.seed) == (HELD_OUT_SEED, HELD_OUT_SEED + 1)
    assert first.num_unparsed == first.num_turns
    prompt = first.first_prompt_ids
    assert prompt is not None
    # The template's ends of turn are tokens: one behind each of the two messages.
    assert list(prompt).count(chat_engine.tokenizer.eos_token_id) == 2
    assert chat_engine.tokenizer.decode(prompt).endswith("until the episode terminates.<|endoftext|>assistant:")


def test_scored_actions_are_never_invalid_and_repeat(chat_engine) -> None:
    (task, *_) = BALROG_SCORED.make_tasks(ProtocolOptions(episodes=1))
    outcomes = [
        [(one.num_turns, one.episode_return, one.num_unparsed) for one in play(chat_engine, task)] for _ in "ab"
    ]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0][2] == 0
