"""llmgym's own protocol: equally many held-out episodes of every kind of mission, each played to its end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from llmgym.envs.babyai import KINDS
from llmgym.errors import ConfigError
from llmgym.run.protocols.task import Protocol, ProtocolOptions, Task
from llmgym.run.seeds import HELD_OUT_SEED
from llmgym.run.venv import make_env

__all__ = ["PROTOCOL"]

EPISODES, NUM_ENVS = 200, 32


def _make_tasks(options: ProtocolOptions) -> tuple[Task, ...]:
    if options.env is None:
        raise ConfigError(
            "Expected --env with --protocol llmgym, because no policy is a run that names one; found none. "
            "`llmgym envs` lists the environments."
        )
    if options.num_seeds is not None:
        raise ConfigError(
            f"Expected no --seeds with --protocol llmgym, found {options.num_seeds}: every episode has a seed of its "
            "own. Set --episodes, or give several runs, which are the training seeds of one method."
        )
    kinds = _kinds(options.env, options.env_settings)
    short = options.env.rpartition("/")[2].removesuffix("-v0").removeprefix("BabyAI-")

    def task(name: str, label: str, settings: Mapping[str, Any]) -> Task:
        assert options.env is not None, "looked at above"
        return Task(
            name=name,
            label=label,
            env=options.env,
            episodes=EPISODES if options.episodes is None else options.episodes,
            env_settings={**options.env_settings, **settings},
            first_seeds=(HELD_OUT_SEED + options.first_episode,),
            num_envs=NUM_ENVS if options.num_envs is None else options.num_envs,
            temperature=options.temperature,
        )

    if not kinds:
        return (task(short, options.env, {}),)
    return tuple(task(kind, f"{short}, {kind.replace('_', ' ')}", {"kind": kind}) for kind in kinds)


def _kinds(env_id: str, env_settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds of missions that an environment draws from; () where it has none, or its settings name one."""
    if env_settings.get("kind") is not None:
        return ()
    with closing(make_env(env_id, env_settings)) as env:
        _, info = env.reset(seed=HELD_OUT_SEED)
    return KINDS if "kind" in info else ()


PROTOCOL = Protocol(
    name="llmgym",
    description="ours: equally many held-out episodes of every kind of mission, each played to its end",
    make_tasks=_make_tasks,
    spread="wilson",
    confidence=0.95,
    has_total=True,
    counting=(
        "Equally many held-out episodes of every kind, each played to its end: short ones count no more than long "
        "ones. Seeds are the same for every policy, and never trained on. The mean is over kinds."
    ),
)
