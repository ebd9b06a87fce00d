"""A hosted model: one language model in this process, with functions that read its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmgym.errors import HostError
from llmgym.host.adapters import activate_adapter, borrow_adapter
from llmgym.host.forward import PassResult, run_pass
from llmgym.host.generation import Sampled, sample
from llmgym.host.inputs import Candidates, InputSettings, PassOptions, PassRequest
from llmgym.host.loading import ModelSettings, input_settings, load_language_model, load_tokenizer
from llmgym.host.rows import SCORE

__all__ = ["FunctionSpec", "HostedModel"]

FunctionSpec = nn.Module | Callable[[Any], nn.Module]
"""A module function, or what makes one from the model's config (a class will do)."""


class HostedModel(nn.Module):
    """A transformers model, decoder-only or encoder-decoder, and the module functions that read it.

    Attributes:
        language_model: the transformers model, or the PEFT model around it; an initialiser may replace it.
        functions: key to module function.
        inputs: how texts are fed to the model.
    """

    def __init__(self, language_model: Any, inputs: InputSettings, functions: Mapping[str, nn.Module]) -> None:
        """Put a loaded model and functions together.

        Raises:
            HostError: the key of a function is taken.
        """
        super().__init__()
        for key in functions:
            if key == SCORE or not key.isidentifier() or hasattr(nn.ModuleDict, key):
                raise HostError(
                    f"Expected the key of a module function to be an identifier other than {SCORE} or a name that "
                    f"torch.nn.ModuleDict takes, got {key!r}. Rename it."
                )
        self.inputs = inputs
        self.language_model = language_model
        self.functions = nn.ModuleDict(functions)

    @classmethod
    def load(
        cls,
        settings: ModelSettings,
        functions: Mapping[str, FunctionSpec] | None = None,
        *,
        devices: tuple[str, ...] = ("cpu",),
    ) -> HostedModel:
        """Load a model, and make its module functions.

        Args:
            settings: which model, and how.
            functions: key to module function, or to what makes one from the model's config.
            devices: where to put it; several spread its layers.

        Raises:
            HostError: the model cannot be loaded, or a key is taken.
        """
        tokenizer = load_tokenizer(settings)
        model = load_language_model(settings, devices)
        with torch.random.fork_rng(devices=[]):
            # One seed in every process: without an update to keep them equal, functions start and stay the same.
            torch.manual_seed(settings.seed)
            made = {
                key: spec if isinstance(spec, nn.Module) else spec(model.config)
                for key, spec in (functions or {}).items()
            }
        hosted = cls(model, input_settings(settings, model, tokenizer), made)
        hosted.functions.to(devices[0])
        return hosted

    def forward(
        self,
        keys: Sequence[str],
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        options: PassOptions | None = None,
    ) -> list[PassResult]:
        """Run module functions, differentiably: what an updater builds its loss from.

        An adapter named in the options answers and is trained from now on.

        Args:
            keys: of module functions, `SCORE` among them for log P(candidate | context).
            contexts: texts or token ids.
            candidates: for each context its candidates; None for one empty candidate each.
            options: how the pass is made.

        Returns:
            for each context, key to a tensor (or to several by name) with one entry a candidate.

        Raises:
            HostError: the request does not make sense.
            PromptError: a context does not fit into the model.
        """
        options = options or PassOptions()
        activate_adapter(self.language_model, options.adapter)
        return self._run(
            PassRequest(tuple(keys), contexts, candidates, options, with_gradients=torch.is_grad_enabled())
        )

    def run_modules(
        self,
        keys: Sequence[str],
        contexts: Sequence[Any],
        candidates: Candidates | None = None,
        options: PassOptions | None = None,
        *,
        with_gradients: bool = False,
    ) -> list[PassResult]:
        """Run module functions; see `forward`. The adapter of the options answers this call only.

        Args:
            with_gradients: whether the answer can be differentiated.
        """
        options = options or PassOptions()
        with borrow_adapter(self.language_model, options.adapter):
            return self._run(PassRequest(tuple(keys), contexts, candidates, options, with_gradients))

    def score(
        self, contexts: Sequence[Any], candidates: Candidates, options: PassOptions | None = None
    ) -> list[Tensor]:
        """Return log P(candidate | context), summed over tokens: float32 (num_candidates,) for each context."""
        results = self.run_modules([SCORE], contexts, candidates, options)
        return [result[SCORE] for result in results]  # type: ignore[misc]

    def generate(
        self,
        contexts: Sequence[Any],
        generation: Mapping[str, Any] | None = None,
        *,
        adapter: str | None = None,
        minibatch_size: int | None = None,
    ) -> list[list[Sampled]]:
        """Generate answers for every context.

        Args:
            contexts: texts or token ids.
            generation: options of transformers' `generate`, such as max_new_tokens, do_sample, num_return_sequences.
            adapter: who answers this call; None leaves the adapter that is active.
            minibatch_size: sequences generated at once.

        Raises:
            HostError: the request does not make sense.
            PromptError: a context does not fit into the model.
        """
        with borrow_adapter(self.language_model, adapter):
            return sample(self.language_model, self.inputs, contexts, generation or {}, minibatch_size)

    def _run(self, request: PassRequest) -> list[PassResult]:
        functions: Any = self.functions
        return run_pass(self.language_model, dict(functions.items()), self.inputs, request)
