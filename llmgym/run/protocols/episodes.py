"""The episodes of a task: played by any policy, and those that count. Knows no statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from pathlib import Path

from llmgym.engine.keeping_engine import KeepingEngine
from llmgym.run.agents import find_agent
from llmgym.run.measure import check_played
from llmgym.run.playing import PlayedEpisode, dealt_seeds, endless_seeds, play_agent, play_engine
from llmgym.run.policy import OpenPolicy
from llmgym.run.protocols.asking import Asking
from llmgym.run.protocols.task import EpisodeOutcome, Task
from llmgym.run.report import Reporter
from llmgym.run.venv import make_env

__all__ = ["play_task"]


def play_task(
    opened: OpenPolicy, task: Task, asking: Asking, reporter: Reporter, answers: Path | None = None
) -> tuple[EpisodeOutcome, ...]:
    """Return the episodes that count, repetition after repetition: by their seeds, or, of "first", as they ended.

    Args:
        answers: a file for what a model writes: what it holds already is not asked for again. Scores are not kept:
            they take less time than their file would.

    Raises:
        EnvError: all of them were given up.
    """
    reporter.stage(f"{opened.identity.name}: {task.name}", task.episodes * len(task.first_seeds), "episodes")
    outcomes: list[EpisodeOutcome] = []
    played: list[PlayedEpisode] = []

    def tell() -> None:
        ended = {"success": sum(one.is_success for one in played) / len(played)} if played else {}
        written = {"answers": float(writer.num_found + writer.num_made)} if writer else {}
        reporter.advance(len(played), {**ended, **written})

    writer = _writer(opened, asking, answers, tell)
    if writer is not None and writer.num_kept:
        reporter.note(
            f"{opened.identity.name}: {task.name}: {writer.num_kept} answers are kept, and not asked for again"
        )
    for repetition, first_seed in enumerate(task.first_seeds):
        num_envs = task.num_envs if task.counts == "first" else min(task.num_envs, task.episodes)
        kinds = _kinds(task, first_seed, num_envs)
        found: list[EpisodeOutcome] = []
        with closing(_episodes(opened, writer, task, asking, first_seed, num_envs)) as episodes:
            for one in islice(episodes, task.episodes):
                played.append(one)
                found.append(_outcome(one, task, repetition, kinds[one.env_index]))
                tell()
        outcomes += found if task.counts == "first" else sorted(found, key=lambda outcome: outcome.seed)
    check_played(played, reporter)
    return tuple(outcomes)


def _writer(
    opened: OpenPolicy, asking: Asking, answers: Path | None, watch: Callable[[], None]
) -> KeepingEngine | None:
    """Return who writes, and keeps what is written; None for a policy that writes nothing."""
    writes = asking.acting is not None and asking.acting.how in ("text", "reason")
    return KeepingEngine(opened.served.engine, answers, watch) if opened.served is not None and writes else None


def _episodes(
    opened: OpenPolicy, writer: KeepingEngine | None, task: Task, asking: Asking, first_seed: int, num_envs: int
) -> Generator[PlayedEpisode]:
    """Play with a model or an agent, without an end where the first episodes count."""
    is_endless = task.counts == "first"
    seeds = endless_seeds(first_seed) if is_endless else dealt_seeds(first_seed, task.episodes, num_envs)
    if opened.served is None:
        agent = find_agent(opened.policy, task.env, task.env_settings)
        assert agent is not None, "it was found when the policy was opened"
        return play_agent(agent, task.env, task.env_settings, num_envs, episode_seed=seeds, telling=task.rewording)
    assert asking.prompt is not None, "a model is asked with a prompt"
    assert asking.acting is not None, "a model is asked for an action"
    return play_engine(
        opened.served.engine if writer is None else writer,
        task.env,
        task.env_settings,
        num_envs,
        prompt=asking.prompt,
        acting=asking.acting,
        seed=first_seed,
        episode_seed=seeds,
        # Which episodes end first must not depend on who answers fastest.
        barrier=is_endless or opened.served.config.collect.barrier,
        telling=task.rewording,
    )


def _outcome(one: PlayedEpisode, task: Task, repetition: int, kind: str) -> EpisodeOutcome:
    prompt = one.first_prompt_ids
    return EpisodeOutcome(
        task=task.name,
        repetition=repetition,
        seed=one.seed,
        success=one.is_success,
        episode_return=one.episode_return,
        num_turns=one.num_turns,
        num_unparsed=one.num_unparsed,
        kind=kind,
        given_up=one.given_up,
        prompt_sha256="" if prompt is None else hashlib.sha256(prompt.astype("<i4").tobytes()).hexdigest(),
    )


def _kinds(task: Task, first_seed: int, num_envs: int) -> list[str]:
    """Return the kind of mission of every environment that keeps the one that its first episode drew; "" elsewhere."""
    settings = task.env_settings
    if settings.get("kind") is not None:
        return [str(settings["kind"])] * num_envs
    kinds = [""] * num_envs
    for env_index in range(num_envs):
        with closing(make_env(task.env, settings)) as env:
            _, info = env.reset(seed=first_seed + env_index)
        if "kind" not in info or settings.get("redraws_kind", not settings.get("parity", True)):
            break
        kinds[env_index] = str(info["kind"])
    return kinds
