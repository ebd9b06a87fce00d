"""Loading a model to host: which class, which device, how many bits, which padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from llmgym.errors import HostError
from llmgym.host.inputs import InputSettings
from llmgym.nf4 import compute_exactly, nf4_options
from llmgym.progress import without_progress_bars

__all__ = ["ModelSettings", "input_settings", "load_language_model", "load_tokenizer"]

Kind = Literal["causal", "seq2seq"]


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model to host, and how.

    Attributes:
        path: a folder or a hub id.
        kind: "causal" (decoder-only) or "seq2seq" (encoder-decoder); None reads it from the model's own config.
        is_pretrained: whether to load weights, or only the config and start at random.
        load_in_4bit: NF4 by bitsandbytes with double quantisation; a quarter of the memory, on CPU and GPU.
        dtype: number format of the weights, as torch names it ("float32", "bfloat16").
        minibatch_size: rows of one forward pass, at least 1; more takes more memory.
        pre_encode_inputs: whether a context is encoded once and shared among its candidates.
        pad_token_id: fills rows up; None takes the tokenizer's padding, else its end of sequence.
        interpret_special_tokens: whether a special token's name inside a text stands for that token.
        trust_remote_code: whether code that comes with the model may run.
        seed: of random weights, and of what is sampled.
        options: further options of transformers' `from_pretrained`.
    """

    path: str
    kind: Kind | None = None
    is_pretrained: bool = True
    load_in_4bit: bool = False
    dtype: str = "float32"
    minibatch_size: int = 64
    pre_encode_inputs: bool = True
    pad_token_id: int | None = None
    interpret_special_tokens: bool = False
    trust_remote_code: bool = False
    seed: int = 42
    options: Mapping[str, Any] = field(default_factory=dict)


def load_tokenizer(settings: ModelSettings) -> Any:
    """Load the tokenizer beside a model.

    Raises:
        HostError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(settings.path, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        raise HostError(f"transformers cannot load a tokenizer for {settings.path!r}: {error}") from error


def load_language_model(settings: ModelSettings, devices: tuple[str, ...]) -> Any:
    """Load a model, in evaluation mode: dropout would make the same score two different numbers.

    Args:
        settings: which model.
        devices: where to put it, such as ("cpu",) or ("cuda:0", "cuda:1") to spread its layers.

    Raises:
        HostError: it cannot be loaded, or not this way.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if settings.load_in_4bit and not settings.is_pretrained:
        raise HostError("Expected pretrained weights to load in 4 bits, found is_pretrained=False. Set one of the two.")
    trust = settings.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(settings.path, trust_remote_code=trust)
        kind = settings.kind or ("seq2seq" if config.is_encoder_decoder else "causal")
        maker = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
        if settings.is_pretrained:
            with without_progress_bars():
                model = maker.from_pretrained(settings.path, **_load_options(settings, devices))
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                model = maker.from_config(config, dtype=_dtype(settings.dtype), trust_remote_code=trust)
            model.to(devices[0])
    except (OSError, ValueError, ImportError) as error:
        raise HostError(
            f"transformers cannot load {settings.path!r} as a {settings.kind or 'language'} model: {error}"
        ) from error
    if settings.load_in_4bit:
        compute_exactly(model)
    return model.eval()


def input_settings(settings: ModelSettings, model: Any, tokenizer: Any) -> InputSettings:
    """Say how a loaded model is fed.

    Raises:
        HostError: there is no token to pad with, or the minibatch size is below 1.
    """
    if settings.minibatch_size < 1:
        raise HostError(f"Expected a minibatch size of at least 1, got {settings.minibatch_size}. Raise it.")
    config = model.config
    pads = (settings.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    pad = next((int(token) for token in pads if token is not None), None)
    if pad is None:
        raise HostError("Expected a token to pad with, found neither padding nor end of sequence. Set pad_token_id.")
    limits = [getattr(config, name, None) for name in ("n_positions", "max_position_embeddings")]
    # T5's positions are relative: its n_positions is what it was trained on, not a limit.
    is_relative = getattr(config, "relative_attention_num_buckets", None) is not None
    start = getattr(config, "decoder_start_token_id", None)
    return InputSettings(
        tokenizer=tokenizer,
        device=model.device,
        is_encoder_decoder=bool(config.is_encoder_decoder),
        pad_token_id=pad,
        start_token_id=pad if start is None else int(start),
        max_tokens=2**31 if is_relative else min((int(limit) for limit in limits if limit), default=2**31),
        minibatch_size=settings.minibatch_size,
        pre_encode_inputs=settings.pre_encode_inputs,
        interpret_special_tokens=settings.interpret_special_tokens,
    )


def _load_options(settings: ModelSettings, devices: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of `from_pretrained`."""
    options: dict[str, Any] = {
        "dtype": _dtype(settings.dtype),
        "trust_remote_code": settings.trust_remote_code,
        "device_map": {"": devices[0]},
    }
    if len(devices) > 1:
        free = {torch.device(device).index: torch.cuda.mem_get_info(device)[0] for device in devices}
        # Room for activations stays free on every device.
        options |= {"device_map": "balanced", "max_memory": {index: int(size * 0.8) for index, size in free.items()}}
    if settings.load_in_4bit:
        options = {**nf4_options(devices[0]), **options}
    return {**options, **settings.options}


def _dtype(name: str) -> torch.dtype:
    """Return the torch number format of a name.

    Raises:
        HostError: there is none.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise HostError(f"Expected a dtype such as 'float32' or 'bfloat16', got {name!r}. Name one of torch's.")
    return dtype
