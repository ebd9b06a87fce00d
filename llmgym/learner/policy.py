"""The policy that learns: a causal language model, its adapter and its heads. Knows no losses and no engines."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmgym.errors import LearnerError
from llmgym.learner.attention import use_packed_attention
from llmgym.learner.freezing import TrainedSettings, freeze_others
from llmgym.learner.heads import HeadSpec, build_heads, reads_of, trunk_of
from llmgym.learner.lora import LoraSettings, attach_lora
from llmgym.learner.packing import Pack
from llmgym.learner.precision import autocast
from llmgym.learner.row import Row
from llmgym.learner.settings import Precision
from llmgym.learner.trunk import trunk_states
from llmgym.nf4 import is_nf4
from llmgym.progress import without_progress_bars

__all__ = ["Policy"]


class Policy(nn.Module):
    """A language model with heads, in evaluation mode but for an adapter's own dropout, where that is asked for.

    The model's dropout would make the learner another policy than the one that acted: the first ratio would not be 1.
    """

    def __init__(
        self,
        model: Any,
        heads: Mapping[str, HeadSpec],
        lora: LoraSettings | None,
        *,
        trained: TrainedSettings | None = None,
        precision: Precision = "float32",
        seed: int = 0,
    ) -> None:
        """Put an adapter and heads on a model.

        Args:
            model: a transformers PreTrainedModel; it is changed in place.
            heads: name to module, or to what makes one.
            lora: which weights get an adapter; None to learn the model's own weights.
            trained: which of these learn; all if None.
            precision: what the model computes in; see `llmgym.learner.precision`.
            seed: of the first weights of adapter and heads.

        Raises:
            LearnerError: the model is no causal language model of one stack, or a setting does not fit it.
        """
        super().__init__()
        self.config, self.precision = model.config, precision
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
        has_critic = any(trunk_of(head) == "separate" for head in self.heads.values())
        self.critic = copy.deepcopy(self.model) if has_critic else None
        self.to(model.device)
        self.eval()

    def train(self, mode: bool = True) -> Policy:
        """Stay in evaluation mode, whatever is asked for."""
        super().train(False)
        return self

    @contextmanager
    def dropping_out(self, seed: int) -> Iterator[None]:
        """Let the adapter's dropout work as long as the context lasts, drawn with a seed; torch's own draws go on."""
        layers = [
            module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Dropout) and ".lora_dropout." in name
        ]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            try:
                for layer in layers:
                    layer.train()
                yield
            finally:
                for layer in layers:
                    layer.eval()

    @property
    def causal_model(self) -> Any:
        """Return the transformers model, under the adapter where there is one."""
        return self.model.get_base_model() if self.lora is not None else self.model

    @property
    def name(self) -> str:
        """Folder or hub id of the model, or its class where it has none."""
        return str(self.causal_model.name_or_path or type(self.causal_model).__name__)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.causal_model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the model's activations."""
        dtype: torch.dtype = self.causal_model.dtype
        return torch.bfloat16 if self.precision == "bf16" else dtype

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

    @property
    def reads_candidates(self) -> bool:
        """Whether a head reads the ends of candidates, so that rows have to feed them."""
        return any(reads_of(head) == "candidates" for head in self.heads.values())

    def hidden_states(self, pack: Pack) -> Tensor:
        """Return the last hidden states, after the final norm: (R*T, D), the rows one behind the other."""
        with autocast(self.precision, self.device):
            return trunk_states(self.causal_model, pack)

    def critic_states(self, pack: Pack) -> Tensor:
        """Return the same of the separate critic, which is there where a head has this trunk."""
        assert self.critic is not None, "a head has a trunk of its own"
        with autocast(self.precision, self.device):
            return trunk_states(self.critic.get_base_model() if self.lora is not None else self.critic, pack)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Return float32 (num_positions, V): next-token logits at hidden states (num_positions, D)."""
        model = self.causal_model
        with autocast(self.precision, self.device):
            logits: Tensor = model.get_output_embeddings()(hidden_states).float()
        if (multiplier := getattr(self.config, "logit_scale", None)) is not None:
            logits = logits * multiplier
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (softcap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    def model_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and parameters of the model, or of its adapter, that are learned."""
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    def critic_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the same of the separate critic; nothing where there is none."""
        named = () if self.critic is None else self.critic.named_parameters()
        return ((name, value) for name, value in named if value.requires_grad)

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

    def base_mark(self) -> str:
        """Return a short text that tells the weights under the adapter from others: names, shapes and some numbers."""
        mark = hashlib.sha256()
        for name, value in self.causal_model.named_parameters():
            # Weights of 4 bits are packed in another way on every kind of device.
            if "lora_" not in name and value.is_floating_point():
                some = value.detach().reshape(-1)[:: max(1, value.numel() // 64)].float().cpu().numpy()
                mark.update(f"{_without_lora(name)}{tuple(value.shape)}".encode() + some.tobytes())
        return mark.hexdigest()[:16]

    def write_adapter(self, folder: str) -> None:
        """Write the adapter in PEFT's format."""
        self.model.save_pretrained(folder, save_embedding_layers=False)

    def load_adapter_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the adapter's weights, by PEFT's names.

        Raises:
            RuntimeError: they do not fit.
        """
        from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

        learned = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        expected = {name: tuple(value.shape) for name, value in learned.items()}
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if odd := sorted(expected.keys() ^ found.keys()):
            raise RuntimeError(f"the adapter's weights have other names than the model's, {odd[0]} for one.")
        if odd := sorted(name for name, shape in expected.items() if shape != found[name]):
            raise RuntimeError(
                f"the adapter's {odd[0]} has shape {found[odd[0]]}, where the model asks for {expected[odd[0]]}."
            )
        set_peft_model_state_dict(self.model, dict(tensors))


def _merged(layer: Any) -> Tensor:
    """Return the weight of a linear layer with its adapter: what it makes of the unit vectors, less its bias."""
    base = layer.base_layer
    dtype = base.weight.dtype if base.weight.is_floating_point() else torch.float32
    images: Tensor = layer(torch.eye(layer.in_features, device=base.weight.device, dtype=dtype))
    images = images if base.bias is None else images - base.bias
    return images if type(base).__name__ == "Conv1D" else images.T.contiguous()


def _without_lora(name: str) -> str:
    """Return a weight's own name from the one it has under an adapter."""
    return name.replace(".base_layer.", ".")


def _check_model(model: Any) -> None:
    """Refuse models whose attention or output does not fit a packed row."""
    config = model.config
    name = type(model).__name__
    if getattr(config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
        raise LearnerError(
            f"Expected a causal language model, got {name}. Give one with a single stack and output embeddings."
        )
