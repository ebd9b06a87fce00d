"""Protocols: their tasks, how episodes count, what is asked, and what several policies come to."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import llmgym  # noqa: F401  (registers the environments)
from llmgym.cli.protocol_table import print_protocol
from llmgym.config import RunConfig
from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.engine.settings import EngineSettings
from llmgym.envs.babyai import KINDS
from llmgym.errors import ConfigError, RunError
from llmgym.rollout.success import SuccessRate
from llmgym.run.folder import RunFolder
from llmgym.run.identity import Identity
from llmgym.run.measure import measure_engine
from llmgym.run.playing import PlayedEpisode, dealt_seeds, play_engine
from llmgym.run.policy import OpenPolicy, ServedPolicy
from llmgym.run.protocols.asking import Asking, asking_of
from llmgym.run.protocols.episodes import play_task
from llmgym.run.protocols.figure import plot_protocol
from llmgym.run.protocols.markdown import to_markdown
from llmgym.run.protocols.registry import PROTOCOLS, find_protocol, tasks_of
from llmgym.run.protocols.report import make_report_folder, write_report
from llmgym.run.protocols.result import PolicyResult, ProtocolResult
from llmgym.run.protocols.running import find_methods, run_protocol
from llmgym.run.protocols.summary import summarize_policy, summarize_task
from llmgym.run.protocols.task import EpisodeOutcome, ProtocolOptions, Task
from llmgym.run.report import SilentReporter
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.text.prompt import PromptSettings
from llmgym.types import Acting

MIXED = "llmgym/BabyAI-MixedTrainLocal-v0"
SMALL = "llmgym/BabyAI-GoToLocalS6N2-v0"
ASKED = Asking("as it likes")


def glam_task(name: str, **changes: Any) -> Task:
    (task,) = tasks_of(find_protocol("glam"), ProtocolOptions(tasks=(name,)))
    return replace(task, **changes)


def read_by_model(task: Task, episodes: int = 3) -> list[tuple[str, str]]:
    """Every context and candidate that a model reads in a task."""
    read: list[tuple[str, str]] = []

    def logprob(context: str, candidate: str) -> float:
        read.append((context, candidate))
        return 0.0

    for _ in play_engine(
        ScriptedEngine(logprob),
        task.env,
        task.env_settings,
        2,
        prompt=task.prompt,
        acting=task.acting,
        seed=0,
        episode_seed=dealt_seeds(HELD_OUT_SEED, episodes, 2),
        telling=task.rewording,
    ):
        pass
    return read


def outcome(task: str, seed: int, success: bool, repetition: int = 0, kind: str = "") -> EpisodeOutcome:
    return EpisodeOutcome(task, repetition, seed, success, float(success), 10, kind=kind)


def policy_of(name: str, rates: dict[str, tuple[int, int]], kind: str = "run", training: str = "t") -> PolicyResult:
    """A policy with so many successes of so many episodes in each task."""
    protocol = find_protocol("llmgym")
    results = [
        summarize_task(
            Task(task, task, SMALL, num),
            [outcome(task, seed, seed < won) for seed in range(num)],
            ASKED,
            "wilson",
            0.95,
        )
        for task, (won, num) in rates.items()
    ]
    return summarize_policy(protocol, Identity(name, kind, training), results, 0.95)


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"Expected a protocol \(glam, balrog, .*\), found 'galm'\. Did you mean 'glam'"
    ):
        find_protocol("galm")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_says_what_it_is_and_has_tasks(name: str) -> None:
    protocol = find_protocol(name)
    assert protocol.name == name
    assert protocol.counting.endswith(".")
    tasks = tasks_of(protocol, ProtocolOptions(env=MIXED if name == "llmgym" else None, episodes=3))
    assert len({task.name for task in tasks}) == len(tasks) > 1
    assert {task.episodes for task in tasks} == {3}
    for row in protocol.published:
        assert row.training
        assert row.source
        assert set(row.rates) <= {"all", *(task.name for task in tasks)}


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Expected a task of --protocol glam \(training, .*found 'noun'.*'nouns'"):
        tasks_of(find_protocol("glam"), ProtocolOptions(tasks=("noun",)))


def test_glam_plays_its_training_tasks_and_five_tests_on_its_seeds() -> None:
    tasks = tasks_of(find_protocol("glam"), ProtocolOptions())
    assert [task.name for task in tasks] == ["training", "nouns", "invented", "composition", "synonyms", "french"]
    for task in tasks:
        assert (task.episodes, task.num_envs, task.counts, task.temperature) == (1000, 32, "first", 1.0)
        assert task.first_seeds == (10**9, 2 * 10**9)
    assert tasks[0].env == MIXED
    assert tasks[3].env == "llmgym/BabyAI-PickUpSeqPickUpLocal-v0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ProtocolOptions(env=MIXED), "Expected no --env and no --env-set with --protocol glam"),
        (ProtocolOptions(first_episode=5), "Expected no --seed with --protocol glam, found 5"),
    ],
)
def test_glam_refuses_what_would_not_be_glam(options: ProtocolOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks_of(find_protocol("glam"), options)


def test_a_model_reads_glams_window_in_the_tests_words() -> None:
    read = read_by_model(glam_task("invented"))
    contexts = {context for context, _ in read}
    assert all(one.startswith("Possible action of the agent: turn left, turn right, ") for one in contexts)
    words = " ".join(contexts)
    assert any(word in words for word in ("dax", "xolo", "afze"))
    for old in ("key", "ball", "box", " red ", "green", "blue", "purple", "yellow", "grey"):
        assert old not in words


def test_synonyms_rename_actions_and_leave_missions_alone() -> None:
    task = glam_task("synonyms", env_settings={"kind": "pickup"})
    read = read_by_model(task)
    assert {candidate for _, candidate in read} == {
        "rotate left", "rotate right", "move ahead", "take", "release", "switch",
    }  # fmt: skip
    head = "Possible action of the agent: rotate left, rotate right, move ahead, take, release, switch \n Goal of "
    assert all(context.startswith(f"{head}the agent: pick up ") for context, _ in read)
    assert any("Action 0: move ahead \n" in context for context, _ in read)


def test_french_is_all_french() -> None:
    read = read_by_model(glam_task("french"), episodes=4)
    for context, _ in read:
        assert context.startswith(
            "Actions possibles pour l'agent: tourner à gauche, tourner à droite, aller tout droit"
        )
        assert " \n But de l'agent: aller à " in context
        assert "go to" not in context
    missions = {context.partition("But de l'agent: ")[2].partition(" \n")[0] for context, _ in read}
    assert all(mission.split()[2] in ("la", "une") and len(mission.split()) == 5 for mission in missions)
    assert "tourner à gauche" in {candidate for _, candidate in read}


def test_our_own_protocol_plays_every_kind_alike() -> None:
    options = ProtocolOptions(env=MIXED, env_settings={"num_dists": 2}, episodes=7, first_episode=3)
    tasks = tasks_of(find_protocol("llmgym"), options)
    assert tuple(task.name for task in tasks) == KINDS
    assert [task.env_settings for task in tasks] == [{"num_dists": 2, "kind": kind} for kind in KINDS]
    assert {task.first_seeds for task in tasks} == {(HELD_OUT_SEED + 3,)}
    (one,) = tasks_of(find_protocol("llmgym"), ProtocolOptions(env=SMALL))
    assert (one.name, one.env_settings) == ("GoToLocalS6N2", {})
    (one,) = tasks_of(find_protocol("llmgym"), ProtocolOptions(env=MIXED, env_settings={"kind": "open"}))
    assert one.env_settings == {"kind": "open"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ProtocolOptions(), "Expected --env with --protocol llmgym"),
        (ProtocolOptions(env=SMALL, num_seeds=2), "Expected no --seeds with --protocol llmgym, found 2"),
    ],
)
def test_our_own_protocol_refuses_what_it_cannot_do(options: ProtocolOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks_of(find_protocol("llmgym"), options)


def test_first_episodes_count_in_the_order_of_their_ends_and_keep_their_kinds() -> None:
    task = glam_task("training", episodes=30, num_envs=6)
    opened = OpenPolicy("random", Identity("random", "agent", "not trained"), None)
    outcomes = play_task(opened, task, ASKED, SilentReporter())
    assert [one.repetition for one in outcomes] == [0] * 30 + [1] * 30
    assert all(one.kind in KINDS for one in outcomes)
    assert 1 < len({one.kind for one in outcomes}) < 6
    again = play_task(opened, replace(task, first_seeds=task.first_seeds[:1]), ASKED, SilentReporter())
    assert again == outcomes[:30]
    # Short episodes come first, and more often: so many do not fit between the ends of the long ones.
    assert np.mean([one.num_turns for one in outcomes[:6]]) < np.mean([one.num_turns for one in outcomes])


def test_each_seed_counts_once_however_many_environments_there_are() -> None:
    opened = OpenPolicy("random", Identity("random", "agent", "not trained"), None)
    (task,) = tasks_of(find_protocol("llmgym"), ProtocolOptions(env=SMALL, episodes=7, num_envs=3))
    outcomes = play_task(opened, task, ASKED, SilentReporter())
    assert [one.seed for one in outcomes] == [HELD_OUT_SEED + number for number in range(7)]
    assert play_task(opened, replace(task, num_envs=50), ASKED, SilentReporter()) == outcomes


def test_a_task_outlives_episodes_whose_prompts_outgrow_the_model() -> None:
    def measure(max_context_tokens: int) -> SuccessRate:
        engine = ScriptedEngine(settings=EngineSettings(max_context_tokens=max_context_tokens))
        acting, prompt, told = Acting(), PromptSettings(), SilentReporter()
        return measure_engine(engine, SMALL, {}, episodes=20, num_envs=8, prompt=prompt, acting=acting, reporter=told)

    free, bounded = measure(0), measure(3000)
    assert free.given_up == 0
    assert 0 < bounded.given_up < 20
    assert 0 < bounded.success < free.success, "what is given up is a failure, and the rest is played"
    assert bounded.episodes == 20

    served = ServedPolicy(
        "m", ScriptedEngine(settings=EngineSettings(max_context_tokens=3000)), RunConfig(env=SMALL), "m"
    )
    opened = OpenPolicy("m", Identity("m", "model", "zero-shot"), served)
    (task,) = tasks_of(find_protocol("llmgym"), ProtocolOptions(env=SMALL, episodes=20))
    outcomes = play_task(opened, task, asking_of(opened, task), SilentReporter())
    assert len(outcomes) == 20
    assert 0 < sum(bool(one.given_up) for one in outcomes) < 20
    assert all("at most 3000 tokens" in one.given_up and not one.success for one in outcomes if one.given_up)


def test_rewards_before_giving_up_make_no_success() -> None:
    assert PlayedEpisode(0, 1, 0.5, 3).is_success
    assert not PlayedEpisode(0, 1, 0.5, 3, given_up="its prompt outgrew the context").is_success
    assert not PlayedEpisode(0, 1, 0.0, 3).is_success


@pytest.fixture
def model() -> ServedPolicy:
    return ServedPolicy("m", ScriptedEngine(), RunConfig(env=SMALL, prompt=PromptSettings(history="append")), "m")


def test_a_model_as_it_is_reads_the_protocols_prompt(model: ServedPolicy) -> None:
    opened = OpenPolicy("m", Identity("m", "model", "zero-shot"), model)
    asking = asking_of(opened, glam_task("synonyms"))
    assert asking.text == "the protocol's prompt (window of 3), score, temperature 1"
    assert asking.facts["prompt_example"] == (
        "Possible action of the agent: move ahead, rotate left \n Goal of the agent: MISSION \n "
        "Observation 0: FIRST OBSERVATION, \n Action 0: move ahead \n Observation 1: SECOND OBSERVATION, \n Action 1: "
    )
    assert len(asking.facts["prompt_sha256"]) == 64
    assert asking_of(opened, glam_task("training")).facts["prompt_sha256"] != asking.facts["prompt_sha256"]


def test_a_run_keeps_the_prompt_and_the_way_it_was_trained_with(model: ServedPolicy) -> None:
    own = replace(model.config, acting=Acting(how="constrained", temperature=0.5))
    opened = OpenPolicy("r", Identity("r", "run", "trained"), replace(model, config=own))
    asking = asking_of(opened, glam_task("french"))
    assert asking.text == "its own prompt (append), constrained, temperature 1"
    assert asking.facts["prompt_example"].startswith("Actions possibles: aller tout droit, tourner à gauche\nBut: ")
    assert asking.prompt == PromptSettings(history="append", language="french")


def test_rates_have_the_interval_that_the_protocol_tells() -> None:
    task = Task("t", "t", SMALL, 10, first_seeds=(0, 100))
    ten = [outcome("t", seed, seed < 8, kind="open" if seed < 5 else "goto") for seed in range(10)]
    twenty = ten + [outcome("t", 100 + seed, seed < 9, repetition=1, kind="goto") for seed in range(10)]
    over_seeds = summarize_task(task, twenty, ASKED, "seeds", 0.99)
    assert over_seeds.repetitions == (0.8, 0.9)
    assert (over_seeds.success.value, over_seeds.success.low) == pytest.approx((0.85, 0.72121), abs=1e-5)
    assert over_seeds.kinds == {"goto": (15, 12), "open": (5, 5)}
    one_seed = summarize_task(replace(task, first_seeds=(0,)), ten, ASKED, "seeds", 0.95)
    assert (one_seed.success.low, one_seed.success.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    error = summarize_task(replace(task, first_seeds=(0,)), ten, ASKED, "standard_error", 0.95)
    assert error.success.high - error.success.value == pytest.approx(0.1265, abs=1e-4)


def test_runs_that_differ_in_the_seed_only_are_one_method(tmp_path: Path) -> None:
    rates = ({"a": (8, 10), "b": (2, 10)}, {"a": (9, 10), "b": (4, 10)}, {"a": (10, 10), "b": (0, 10)})
    policies, paths = [], []
    for seed, (name, rate) in enumerate(zip(("x", "y", "z"), rates, strict=True)):
        RunFolder.create(tmp_path / name, RunConfig(env=SMALL, seed=seed))
        policies.append(policy_of(name, rate))
        paths.append(str(tmp_path / name))
    RunFolder.create(tmp_path / "other", RunConfig(env=SMALL, updates=11))
    policies.append(policy_of("other", {"a": (5, 10), "b": (5, 10)}))
    policies.append(policy_of("random", {"a": (5, 10), "b": (5, 10)}, kind="agent"))
    (method,) = find_methods(policies, [*paths, str(tmp_path / "other"), "random"], 0.95)
    assert method.runs == ("x", "y", "z")
    assert method.mean.value == pytest.approx((0.8 + 0.2 + 0.9 + 0.4 + 1.0 + 0.0) / 6)
    # Of 0, .2, .4, .8, .9, 1 a quarter, rounded down to one, is cut at each end.
    assert method.iqm.value == pytest.approx((0.2 + 0.4 + 0.8 + 0.9) / 4)
    assert method.tasks["a"].value == pytest.approx(0.9)
    assert 0.8 <= method.tasks["a"].low < 0.9 < method.tasks["a"].high <= 1.0


@pytest.fixture(scope="module")
def chance_and_bot() -> ProtocolResult:
    options = ProtocolOptions(env=MIXED, episodes=4)
    return run_protocol("llmgym", ["random"], options, against="bot")


def test_policies_are_compared_on_the_same_episodes(chance_and_bot: ProtocolResult) -> None:
    result = chance_and_bot
    assert [policy.identity.name for policy in result.policies] == ["random", "bot"]
    random, bot = result.policies
    # Wilson: 4 of 4 is [0.5101, 1]; the distance shrinks by the root of five tasks.
    assert bot.total is not None
    assert (bot.total.value, bot.total.high) == (1.0, 1.0)
    assert bot.total.low == pytest.approx(1 - 0.4899 / np.sqrt(5), abs=1e-4)
    assert random.total is not None
    assert random.total.value == pytest.approx(np.mean([task.success.value for task in random.tasks]))
    (comparison,) = result.comparisons
    assert comparison.total.difference.value == pytest.approx(random.total.value - 1.0)
    assert (comparison.total.only_first, comparison.total.only_second) == (
        0,
        20 - sum(one.success for task in random.tasks for one in task.outcomes),
    )
    assert tuple(comparison.tasks) == KINDS


def test_numbers_hold_what_is_needed_to_repeat_them(chance_and_bot: ProtocolResult) -> None:
    numbers = json.loads(json.dumps(chance_and_bot.to_json()))
    assert numbers["protocol"]["name"] == "llmgym"
    assert numbers["protocol"]["interval"] == "95 % Wilson"
    first = numbers["tasks"][0]
    assert (first["env"], first["env_settings"], first["episodes"]) == (MIXED, {"kind": "goto"}, 4)
    assert first["first_seeds"] == [HELD_OUT_SEED]
    assert {"llmgym", "gymnasium", "minigrid", "torch", "transformers", "python"} <= set(numbers["versions"])
    measured = numbers["policies"][0]["tasks"][0]
    assert measured["outcomes"]["seed"] == [HELD_OUT_SEED + number for number in range(4)]
    assert measured["successes"] == sum(measured["outcomes"]["success"])
    assert numbers["policies"][1]["training"] == "not trained: it plans inside the environment"


def test_a_report_is_written_with_every_number_labelled(chance_and_bot: ProtocolResult, tmp_path: Path) -> None:
    published = replace(chance_and_bot, protocol=find_protocol("balrog"))
    make_report_folder(tmp_path / "new" / "report")
    write_report(tmp_path / "new" / "report", published)
    folder = tmp_path / "new" / "report"
    assert sorted(file.name for file in folder.iterdir()) == ["report.json", "report.md", "report.png"]
    assert (folder / "report.png").stat().st_size > 20_000
    lines = (folder / "report.md").read_text().splitlines()
    assert "![success rates with their intervals](report.png)" in lines
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    beside = rows[[row[1] for row in rows].index("trained on") :]
    assert beside[2][:2] == ["| **random**", "not trained"]
    assert beside[3][:2] == ["| **bot**", "not trained: it plans inside the environment"]
    assert len(beside) == 4 + len(published.protocol.published)
    for row in beside[4:]:
        assert row[1].startswith("zero-shot")
        assert row[-1].startswith("published: ")
    with pytest.raises(RunError, match=r"Expected a folder without a report, found .*report\.md"):
        make_report_folder(folder)


def test_a_report_tells_what_was_given_up_and_why(chance_and_bot: ProtocolResult) -> None:
    policy = chance_and_bot.policies[0]
    first, second, *others = policy.tasks[0].outcomes
    outcomes = [first, replace(second, success=False, given_up="too long"), *others]
    task = summarize_task(chance_and_bot.tasks[0], outcomes, ASKED, "wilson", 0.95)
    result = replace(chance_and_bot, policies=(replace(policy, tasks=(task,)),), comparisons=())
    counted = f"{task.task}: given up, and counted as failures: 1 of {len(outcomes)} episodes"
    assert f"- {counted}. The first (seed {second.seed}): too long" in to_markdown(result).splitlines()
    (numbers,) = result.to_json()["policies"]
    assert numbers["tasks"][0]["outcomes"]["given_up"] == ["", "too long", *([""] * len(others))]
    console = Console(file=StringIO(), width=100)
    print_protocol(console, result)
    assert counted in console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_report_shows_glams_rows_for_the_tasks_that_were_played() -> None:
    options = ProtocolOptions(episodes=4, num_envs=4, tasks=("composition",))
    result = run_protocol("glam", ["random"], options)
    assert result.interval == "99 % over 2 seeds"
    rows = [line for line in to_markdown(result).splitlines() if "GFlan-T5 (780 M)" in line]
    assert rows == [
        "| GFlan-T5 (780 M) | trained on MixedTrainLocal, 1.5 M env steps; (f) on GoToLocal | 0.12 "
        "| published: bars of the paper's Fig. 4, read to ±0.01; 1000 episodes, 2 seeds |"
    ]


@pytest.mark.parametrize(
    ("policies", "name", "options", "against", "message"),
    [
        (["rnadom"], "llmgym", {"env": SMALL}, None, r"Expected a policy: .*found 'rnadom'\. Did you mean 'random'"),
        (["random", "random"], "llmgym", {"env": SMALL}, None, "Expected each policy once, found random again"),
        (["random"], "llmgym", {"env": SMALL}, "random", "Expected each policy once, found random again"),
        (["random"], "glam", {}, "bot", "Expected --against with a protocol that plays the same episodes"),
        (["random"], "glam", {"confidence": 95.0}, None, "Expected a confidence between 0 and 1, found 95"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    policies: list[str], name: str, options: dict[str, Any], against: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_protocol(name, policies, ProtocolOptions(**options), against=against)


def test_prompts_of_a_model_are_hashed(model: ServedPolicy) -> None:
    opened = OpenPolicy("m", Identity("m", "model", "zero-shot"), model)
    (task,) = tasks_of(find_protocol("llmgym"), ProtocolOptions(env=SMALL, episodes=2))
    outcomes = play_task(opened, task, asking_of(opened, task), SilentReporter())
    assert len({one.prompt_sha256 for one in outcomes}) == 2
    assert all(len(one.prompt_sha256) == 64 for one in outcomes)


def test_a_long_training_is_told_within_the_picture(
    chance_and_bot: ProtocolResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: drawn.append(figure))
    training = "trained on llmgym/BabyAI-MixedTrainLocal-v0 (26,000 demonstrations in earlier lessons and 36,000) " * 2
    first, *others = chance_and_bot.policies
    told = replace(first, identity=replace(first.identity, training=training))
    plot_protocol(tmp_path / "any.png", replace(chance_and_bot, policies=(told, *others)))
    (figure,) = drawn
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().x1 < figure.bbox.x1
