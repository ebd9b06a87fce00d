"""The policy that learns: a causal language model, its adapter and its heads. Knows no losses and no engines."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmgym.errors import LearnerError
from llmgym.learner.attention import use_packed_attention
from llmgym.learner.freezing import TrainedSettings, freeze_others
from llmgym.learner.heads import HeadSpec, build_heads
from llmgym.learner.lora import LoraSettings, attach_lora
from llmgym.learner.packing import Pack
from llmgym.learner.row import Row
from llmgym.nf4 import compute_exactly, is_nf4, nf4_options
from llmgym.progress import without_progress_bars
from llmgym.types import Tokenizer

__all__ = ["Policy", "load_model", "load_tokenizer"]


class Policy(nn.Module):
    """A language model with heads, always in evaluation mode.

    Dropout would make the learner another policy than the one that acted: the first ratio would not be 1.
    """

    def __init__(
        self,
        model: Any,
        heads: Mapping[str, HeadSpec],
        lora: LoraSettings | None,
        *,
        trained: TrainedSettings | None = None,
        seed: int = 0,
    ) -> None:
        """Put an adapter and heads on a model.

        Args:
            model: a transformers PreTrainedModel; it is changed in place.
            heads: name to module, or to what makes one.
            lora: which weights get an adapter; None to learn the model's own weights.
            trained: which of these learn; all if None.
            seed: of the first weights of adapter and heads.

        Raises:
            LearnerError: the model is no causal language model of one stack, or a setting does not fit it.
        """
        super().__init__()
        self.config = model.config
        _check_model(model)
        if lora is None and is_nf4(model):
            raise LearnerError(
                "Expected an adapter to learn over weights of 4 bits, which have no gradient, got lora=None. Set lora, "
                "or leave load_in_4bit out."
            )
        if lora is None:
            freeze_others(model, trained or TrainedSettings())
        self.plain_attention: str = model.config._attn_implementation
        use_packed_attention(model)
        self.lora = lora
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = attach_lora(model, lora) if lora is not None else model
            self.heads = build_heads(heads, model.config.hidden_size)
        self.to(model.device)
        self.eval()

    def train(self, mode: bool = True) -> Policy:
        """Stay in evaluation mode, whatever is asked for."""
        super().train(False)
        return self

    @property
    def causal_model(self) -> Any:
        """Return the transformers model, under the adapter where there is one."""
        return self.model.get_base_model() if self.lora is not None else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.causal_model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the model's activations."""
        dtype: torch.dtype = self.causal_model.dtype
        return dtype

    @property
    def vocab_size(self) -> int:
        """Number of tokens the model embeds."""
        return int(self.causal_model.get_input_embeddings().num_embeddings)

    @property
    def max_positions(self) -> int:
        """Longest sequence the model can attend over; the window of a model whose attention slides."""
        limits = [getattr(self.config, name, None) for name in ("max_position_embeddings", "sliding_window")]
        return min((int(limit) for limit in limits if limit), default=2**31)

    @property
    def eos_token_id(self) -> int | None:
        """The model's end-of-sequence token, the first if it has several."""
        eos: int | list[int] | None = self.config.eos_token_id
        return eos[0] if isinstance(eos, list) else eos

    @property
    def publishes_adapter(self) -> bool:
        """Whether an engine is given the adapter; else the whole weights, those of an adapter with them."""
        return self.lora is not None and not self.lora.dora

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse rows with a token or a position that the model does not have.

        Raises:
            LearnerError: a token id is outside of the vocabulary, or a prompt is too long.
        """
        for row in rows:
            ids = np.concatenate([row.trunk_ids, row.free_ids, *(branch.edge_ids for branch in row.branches)])
            outside = ids[(ids < 0) | (ids >= self.vocab_size)]
            if len(outside):
                raise LearnerError(
                    f"Expected token ids from 0 to {self.vocab_size - 1}, got {outside[0]} in turn {row.first_state} "
                    "or after. "
                    "Tokenize with the tokenizer of the model that learns."
                )
            if row.num_positions > self.max_positions:
                raise LearnerError(
                    f"Expected at most {self.max_positions} tokens in a prompt with its action, got "
                    f"{row.num_positions} in turn {row.first_state} or after. Shorten the prompts."
                )

    def hidden_states(self, pack: Pack) -> Tensor:
        """Return the last hidden states, after the final norm: (R*T, D), the rows one behind the other."""
        outputs = self.causal_model.base_model(
            input_ids=pack.input_ids,
            attention_mask=pack.branch_mask,
            position_ids=pack.position_ids,
            use_cache=False,
        )
        states: Tensor = outputs.last_hidden_state
        return states.reshape(-1, states.shape[-1])

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Return float32 (num_positions, V): next-token logits at hidden states (num_positions, D)."""
        model = self.causal_model
        logits: Tensor = model.get_output_embeddings()(hidden_states).float()
        if (multiplier := getattr(self.config, "logit_scale", None)) is not None:
            logits = logits * multiplier
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (softcap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    def head_values(self, hidden_states: Tensor) -> dict[str, Tensor]:
        """Return what every head says of hidden states (num_states, D): name to float32 (num_states,)."""
        return {name: _checked(name, head(hidden_states.float())) for name, head in self.heads.items()}

    def model_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and parameters of the model, or of its adapter, that are learned."""
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    @torch.no_grad()
    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight of the model by its Hugging Face name, tied weights once.

        Where there is an adapter, it is the weight that both make together; the model's own stay as they are.
        """
        model = self.causal_model
        adapted = {f"{name}.weight": layer for name, layer in model.named_modules() if hasattr(layer, "base_layer")}
        for name, value in model.named_parameters():
            if "lora_" not in name:
                plain = _without_lora(name)
                yield plain, _merged(adapted[plain]) if plain in adapted else value.detach()

    def write_model(self, folder: str) -> None:
        """Write the model, without an adapter, as transformers saves it."""
        model = self.causal_model
        state = {_without_lora(name): value for name, value in model.state_dict().items() if "lora_" not in name}
        with without_progress_bars():
            model.save_pretrained(folder, state_dict=state)

    def write_adapter(self, folder: str) -> None:
        """Write the adapter in PEFT's format."""
        self.model.save_pretrained(folder, save_embedding_layers=False)

    def load_adapter_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the adapter's weights, by PEFT's names.

        Raises:
            RuntimeError: they do not fit.
        """
        from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

        expected = set(get_peft_model_state_dict(self.model, save_embedding_layers=False))
        if expected != set(tensors):
            odd = sorted(expected ^ set(tensors))[0]
            raise RuntimeError(f"the adapter's weights have other names than the model's, {odd} for one.")
        set_peft_model_state_dict(self.model, dict(tensors))


def load_model(model: Any, *, device: str | torch.device | None = None, load_in_4bit: bool = False) -> Any:
    """Load a causal language model in float32 from a folder or a hub id, or take a copy of one that is given.

    Args:
        model: a folder, a hub id, or a transformers PreTrainedModel, which is copied so that it stays as it is.
        device: where to put it; a GPU if there is one, by default.
        load_in_4bit: pack the weights of linear layers into 4 bits: see `llmgym.nf4`.

    Raises:
        LearnerError: there is no such model, or it is not one that this learner can train.
    """
    from transformers import AutoModelForCausalLM, PreTrainedModel

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(model, PreTrainedModel):
        if load_in_4bit:
            raise LearnerError(
                "Expected a folder or hub id to load in 4 bits, got a module. Save it first with save_pretrained."
            )
        return copy.deepcopy(model).to(device=device, dtype=torch.float32)
    try:
        with without_progress_bars():
            loaded = AutoModelForCausalLM.from_pretrained(
                str(model),
                dtype=torch.float32,
                attn_implementation="sdpa",
                **(nf4_options(str(device)) if load_in_4bit else {}),
            )
    except (OSError, ValueError) as error:
        where = "the folder" if Path(str(model)).is_dir() else "no folder, and the hub id"
        raise LearnerError(
            f"Expected a causal language model to learn with, but {where} {str(model)!r} cannot be loaded: {error} "
            "Give a folder with config.json and safetensors, or a hub id."
        ) from error
    if load_in_4bit:
        compute_exactly(loaded)
        return loaded
    return loaded.to(device)


def _merged(layer: Any) -> Tensor:
    """Return the weight of a linear layer with its adapter: what it makes of the unit vectors, less its bias."""
    base = layer.base_layer
    images: Tensor = layer(torch.eye(layer.in_features, device=base.weight.device))
    images = images if base.bias is None else images - base.bias
    return images if type(base).__name__ == "Conv1D" else images.T.contiguous()


def _without_lora(name: str) -> str:
    """Return a weight's own name from the one it has under an adapter."""
    return name.replace(".base_layer.", ".")


def load_tokenizer(source: str | None) -> Tokenizer:
    """Load the tokenizer beside a model, which reads what looks like a special token as text, as the engine's does.

    Raises:
        LearnerError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        if source is not None:
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(source, split_special_tokens=True)
            return tokenizer
        reason = "the model was given as a module"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise LearnerError(f"Expected a tokenizer beside the model, but {reason}. Load the tokenizer from its own folder.")


def _checked(name: str, values: Tensor) -> Tensor:
    """Refuse what a head returns unless it is one number per state."""
    if values.ndim != 1:
        raise LearnerError(
            f"Expected the head {name!r} to return one number a state, shape (num_states,), got shape "
            f"{tuple(values.shape)}. Squeeze its last axis."
        )
    return values.float()


def _check_model(model: Any) -> None:
    """Refuse models whose attention or output does not fit a packed row."""
    config = model.config
    name = type(model).__name__
    if getattr(config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
        raise LearnerError(
            f"Expected a causal language model, got {name}. Give one with a single stack and output embeddings."
        )
