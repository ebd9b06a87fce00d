"""The checkpoint: a learner as files, in the formats that others read. Knows no training.

learner.json             version, settings, state of the random draws
model/                   the model, as transformers saves it; only its config.json where an adapter is learned on
a model that has a folder or hub id of its own
adapter/                 the adapter, in PEFT's format
heads.safetensors        the heads
optimizer.safetensors    the optimizer's state, "<parameter>:<entry>"
critic.safetensors       what a separate critic has learned, where there is one
reference.safetensors    the weights of the reference policy, where there is one
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmgym.algorithms import Algorithm, algorithm_class, algorithm_name
from llmgym.errors import LearnerError
from llmgym.learner.critic import critic_tensors, load_critic
from llmgym.learner.freezing import TrainedSettings
from llmgym.learner.heads import HeadSpec, ValueHead
from llmgym.learner.lora import LoraSettings
from llmgym.learner.non_finite import OnNonFinite
from llmgym.learner.optimizer import load_optimizer_tensors
from llmgym.learner.policy import Policy
from llmgym.learner.settings import OptimizerName, Precision
from llmgym.learner.target_heads import TargetHead
from llmgym.settings import from_dict
from llmgym.types import Acting

__all__ = ["Checkpoint", "SavedLearner", "Settings", "read_checkpoint", "write_checkpoint"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What a learner was made with; see `Learner`.

    Attributes:
        source: folder or hub id the base model came from; None if it was given as a module.
        load_in_4bit: whether its weights have 4 bits.
        optimizer: which.
        trained: which of the model's own weights learn; None for all.
        on_non_finite: what to do about a loss or gradient that is not finite.
        precision: what the model computes in.
        canary_tolerance: largest difference on the canary; None for that of the precision.
    """

    source: str | None
    algorithm: Algorithm
    acting: Acting
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    max_grad_norm: float | None
    max_tokens: int
    eos_token_id: int | None
    lora: LoraSettings | None
    load_in_4bit: bool = False
    optimizer: OptimizerName = "adamw"
    trained: TrainedSettings | None = None
    on_non_finite: OnNonFinite = "stop"
    precision: Precision = "float32"
    canary_tolerance: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Learner` that make a learner with these settings."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "source"}
        named["max_tokens_per_microbatch"] = named.pop("max_tokens")
        return named


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a learner is besides its tensors.

    Attributes:
        settings: what it was made with.
        version: policy version that was published last.
        rng_state: of the numpy generator that draws minibatches.
        base_mark: of the weights under the adapter; None where there is none.
    """

    settings: Settings
    version: int
    rng_state: Any
    base_mark: str | None = None


@dataclass(frozen=True, slots=True)
class SavedLearner:
    """A checkpoint that was read.

    Attributes:
        checkpoint: settings and state.
        model: folder or hub id to load the base model from.
        heads: name to what makes the head.
        adapter_tensors: of the adapter, by PEFT's names; None where all weights are learned.
        head_tensors: of the heads, by name.
        optimizer_tensors: of the optimizer.
        reference_tensors: of the reference policy; None where there is none.
        critic_tensors: of the separate critic; None where there is none.
    """

    checkpoint: Checkpoint
    model: str
    heads: Mapping[str, HeadSpec]
    adapter_tensors: Mapping[str, Tensor] | None
    head_tensors: Mapping[str, Tensor]
    optimizer_tensors: Mapping[str, Tensor]
    reference_tensors: Mapping[str, Tensor] | None = None
    critic_tensors: Mapping[str, Tensor] | None = None

    def restore(self, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        """Set the adapter, the heads and the critic of a policy that was built from this checkpoint, and its optimizer.

        Raises:
            LearnerError: they do not fit, or the adapter was learned on other weights.
        """
        settings, mark = self.checkpoint.settings, self.checkpoint.base_mark
        base = settings.source or "a model that was given as a module"
        try:
            if self.adapter_tensors is not None:
                policy.load_adapter_tensors(self.adapter_tensors)
            policy.heads.load_state_dict(self.head_tensors, strict=True)
        except RuntimeError as error:
            raise LearnerError(
                f"Expected the checkpoint's adapter and heads to fit the model and heads given, but: {error} The "
                f"adapter was learned on {base}; here is {policy.name}. Pass the model and heads it was saved with."
            ) from error
        if mark is not None and mark != policy.base_mark():
            raise LearnerError(
                f"Expected the weights of {base}, which the checkpoint's adapter was learned on, found others in "
                f"{policy.name}. Pass the model that it was saved with: model=..."
            )
        load_critic(policy, self.critic_tensors)
        load_optimizer_tensors(optimizer, policy, self.optimizer_tensors)


def write_checkpoint(
    folder: Path,
    checkpoint: Checkpoint,
    policy: Policy,
    optimizer_tensors: Mapping[str, Tensor],
    reference_tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the files of a checkpoint into an existing folder.

    Args:
        folder: where.
        checkpoint: settings and state.
        policy: the model and heads.
        optimizer_tensors: state of the optimizer.
        reference_tensors: weights of the reference policy, if there is one.
    """
    from safetensors.torch import save_file

    model = policy.causal_model
    if policy.lora is not None:
        policy.write_adapter(str(folder / "adapter"))
    if policy.lora is not None and checkpoint.settings.source is not None:
        model.config.save_pretrained(folder / "model")
    else:
        policy.write_model(str(folder / "model"))
    head_tensors = {name: value.detach().cpu().contiguous() for name, value in policy.heads.state_dict().items()}
    save_file(head_tensors, folder / "heads.safetensors")
    save_file(dict(optimizer_tensors), folder / "optimizer.safetensors")
    for name, tensors in {"critic": critic_tensors(policy), "reference": reference_tensors}.items():
        if tensors is not None:
            save_file(dict(tensors), folder / f"{name}.safetensors")
    settings = checkpoint.settings
    record = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    record["acting"] = dataclasses.asdict(settings.acting)
    record["lora"] = None if settings.lora is None else dataclasses.asdict(settings.lora)
    record["trained"] = None if settings.trained is None else dataclasses.asdict(settings.trained)
    record["algorithm"] = _algorithm_record(settings.algorithm)
    record = {
        "format": _FORMAT,
        "version": checkpoint.version,
        "settings": record,
        # Target heads are the algorithm's: it makes them anew, and their weights are among those of the heads.
        "heads": {n: _head_record(head) for n, head in policy.heads.items() if not isinstance(head, TargetHead)},
        "rng_state": checkpoint.rng_state,
        "base_mark": None if policy.lora is None else policy.base_mark(),
    }
    (folder / "learner.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_checkpoint(folder: Path, *, heads: Mapping[str, HeadSpec] | None, algorithm: Algorithm | None) -> SavedLearner:
    """Read a checkpoint.

    Args:
        folder: what was written.
        heads: what makes the heads; None to make them as they were saved, where all are `ValueHead`.
        algorithm: the one to go on with; None to take the saved one, where it is one of llmgym's.

    Raises:
        LearnerError: the folder is no complete checkpoint, or a head or algorithm must be given and is not.
    """
    from safetensors.torch import load_file

    names = ("learner.json", "heads.safetensors", "optimizer.safetensors", "model/config.json")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise LearnerError(
            f"Expected a checkpoint with {', '.join(names)} in {folder}, but {missing[0]} is missing. Pass a folder "
            "that Learner.save wrote."
        )
    record = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
    if record["format"] != _FORMAT:
        raise LearnerError(f"Expected a checkpoint of format {_FORMAT} in {folder}. Load it with its own llmgym.")
    settings = _read_settings(record["settings"], algorithm)
    has_weights = any((folder / "model").glob("*.safetensors"))
    return SavedLearner(
        checkpoint=Checkpoint(settings, record["version"], record["rng_state"], record.get("base_mark")),
        model=str(folder / "model") if has_weights else str(settings.source),
        heads=heads if heads is not None else _read_heads(record["heads"]),
        adapter_tensors=load_file(folder / "adapter" / "adapter_model.safetensors")
        if settings.lora is not None
        else None,
        head_tensors=load_file(folder / "heads.safetensors"),
        optimizer_tensors=load_file(folder / "optimizer.safetensors"),
        reference_tensors=_load_if_there(folder / "reference.safetensors"),
        critic_tensors=_load_if_there(folder / "critic.safetensors"),
    )


def _load_if_there(file: Path) -> dict[str, Tensor] | None:
    """Read tensors; None where there is no such file."""
    from safetensors.torch import load_file

    return load_file(file) if file.is_file() else None


def _read_settings(record: Mapping[str, Any], algorithm: Algorithm | None) -> Settings:
    """Make settings of what was written, with another algorithm where one is given."""
    lora = record["lora"]
    return Settings(
        **{
            **record,
            "lora": None if lora is None else LoraSettings(**{**lora, "targets": tuple(lora["targets"])}),
            "acting": from_dict(Acting, record["acting"]),
            "trained": None if record.get("trained") is None else _read_trained(record["trained"]),
            "algorithm": algorithm or _read_algorithm(record["algorithm"]),
        }
    )


def _read_trained(record: Mapping[str, Any]) -> TrainedSettings:
    """Make the choice of weights that was written."""
    return TrainedSettings(record["last_layers"], tuple(record["names"]))


def _algorithm_record(algorithm: Algorithm) -> dict[str, Any]:
    """Describe an algorithm: name and settings, or only the class of one that nobody could find by a name."""
    name = algorithm_name(algorithm)
    can_be_found = "__main__" not in name and "<locals>" not in name
    if can_be_found and dataclasses.is_dataclass(algorithm) and not isinstance(algorithm, type):
        return {"name": name, "settings": dataclasses.asdict(algorithm)}
    return {"class": type(algorithm).__qualname__}


def _read_algorithm(record: Mapping[str, Any]) -> Algorithm:
    """Make the algorithm that was described."""
    if "name" not in record:
        raise LearnerError(
            f"Expected the algorithm {record['class']} that the checkpoint was saved with. Pass algorithm= to load it."
        )
    return algorithm_class(record["name"])(**record["settings"])


def _head_record(head: Any) -> dict[str, Any]:
    """Describe a head: class, and what a ValueHead was made with."""
    if type(head) is ValueHead:
        return {"class": "ValueHead", "width": head.inner.out_features, "reads": head.reads, "trunk": head.trunk}
    return {"class": type(head).__qualname__}


def _read_heads(records: Mapping[str, Mapping[str, Any]]) -> dict[str, HeadSpec]:
    """Return what makes the heads that were described."""
    for name, record in records.items():
        if "width" not in record:
            raise LearnerError(
                f"Expected the head {name!r} ({record['class']}) that the checkpoint was saved with. Pass heads= with "
                "all heads to load it."
            )
    return {
        name: partial(ValueHead, **{key: value for key, value in record.items() if key != "class"})
        for name, record in records.items()
    }
