"""Who a policy is: what it was trained on, and what recognises it again. Knows no engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmgym.config import CloneSettings
from llmgym.run.agents import BASELINE_FILE, Agent
from llmgym.run.folder import RunFolder

__all__ = ["ZERO_SHOT", "Identity", "agent_identity", "model_identity", "run_identity"]

ZERO_SHOT = "zero-shot"
"""What a model that was not trained here is called, wherever its numbers stand beside those of trained ones."""
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.npz", "*.gguf")
HASHED_BYTES = 2**20


@dataclass(frozen=True)
class Identity:
    """Who was measured.

    Attributes:
        name: in tables.
        kind: "run", "model", "agent" or "baseline".
        training: what it was trained on, or "zero-shot", or "not trained": stands beside every number of it.
        facts: what recognises it again: paths, updates, hashes of weights.
    """

    name: str
    kind: str
    training: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_trained(self) -> bool:
        """Whether it learned from episodes of environments."""
        return self.kind in ("run", "baseline")


def run_identity(path: Path) -> Identity:
    """Return who a checkpoint of a run is.

    Args:
        path: the checkpoint's folder, or the run's, of which the newest counts.

    Raises:
        RunError: there is no run, or no checkpoint.
    """
    folder = RunFolder.find(path) or RunFolder.open(path)
    config = folder.config()
    update, checkpoint = folder.named_checkpoint(path)
    num_steps = next((int(row["env_steps"]) for row in folder.read_metrics() if row["update"] == update), 0)
    settings = "".join(f", {name}={value}" for name, value in config.env_settings.items())
    is_clone = checkpoint.name == folder.clone.name
    practice = _practice(config.clone, num_rounds=0 if is_clone else len(folder.read_rounds()))
    practice += [f"{num_steps:,} {'recorded' if config.collect.datasets else 'env'} steps"] if num_steps else []
    facts = {
        "path": str(path),
        "checkpoint": checkpoint.name,
        "update": update,
        "env_steps": num_steps,
        "env": config.env,
        "env_settings": config.env_settings,
        "model": config.model,
        "seed": config.seed,
        "weights_sha256": weights_hash(checkpoint),
    }
    training = f"trained on {config.env}{settings} ({_listed(practice) or 'nothing yet'})"
    name = folder.path.resolve().name
    if folder.path != path:
        name += ", clone" if is_clone else f", update {update}"
    return Identity(name, "run", training, facts)


def model_identity(name: str, model: str) -> Identity:
    """Return who a model as it is is.

    Args:
        name: as it was asked for.
        model: the folder or hub id that is served.
    """
    facts: dict[str, Any] = {"model": name}
    if Path(model).is_dir():
        facts["weights_sha256"] = weights_hash(Path(model))
    elif revision := _hub_revision(model):
        facts["revision"] = revision
    return Identity(Path(name).resolve().name if Path(name).is_dir() else name, "model", ZERO_SHOT, facts)


def agent_identity(policy: str, agent: Agent) -> Identity:
    """Return who an agent is.

    Args:
        policy: as it was asked for: its name, or the folder of a baseline.
    """
    file = Path(policy) / BASELINE_FILE
    if not file.is_file():
        return Identity(agent.name, "agent", agent.training)
    facts = {
        "path": policy,
        "baseline": json.loads(file.read_text(encoding="utf-8")),
        "weights_sha256": weights_hash(Path(policy)),
    }
    return Identity(f"{agent.name} ({Path(policy).resolve().name})", "baseline", agent.training, facts)


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of all weights below a folder, with their names; "" where there are none."""
    files = sorted({file for pattern in WEIGHTS for file in folder.rglob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as weights:
            while chunk := weights.read(HASHED_BYTES):
                digest.update(chunk)
    return digest.hexdigest() if files else ""


def _hub_revision(model: str) -> str:
    """Return the commit of a hub model in the cache; "" where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent.name if isinstance(found, str) else ""


def _practice(clone: CloneSettings, num_rounds: int) -> list[str]:
    """Say what a clone has learned from, in so many rounds of correction, too."""
    num_earlier = sum(lesson.episodes for lesson in clone.lessons)
    said = [f"{num_earlier:,} demonstrations in earlier lessons"] if num_earlier else []
    if clone.episodes or clone.dataset is not None:
        said.append(f"{clone.episodes:,} demonstrations" if clone.episodes else "all demonstrations")
    rounds = "1 round" if num_rounds == 1 else f"{num_rounds} rounds"
    return [*said, f"{rounds} of corrections"] if num_rounds else said


def _listed(said: Sequence[str]) -> str:
    """Join what is said with commas, and the last with an "and"."""
    return " and ".join(part for part in (", ".join(said[:-1]), *said[-1:]) if part)
