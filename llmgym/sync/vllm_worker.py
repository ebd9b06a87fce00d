"""What runs inside every vLLM worker: the engine's side of a full-weight swap, and what vLLM's own worker lacks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

__all__ = ["PolicyWorker"]


class PolicyWorker:
    """Methods added to vLLM's worker class (`worker_extension_cls`); called by name through `collective_rpc`."""

    model_runner: Any
    first_non_finite: str
    watches: list[Any]

    def load_policy_weights(self, path: str) -> None:
        """Replace the worker's weights (its shard of them) by those of a safetensors file.

        Args:
            path: names are the Hugging Face model's own.
        """
        from safetensors import safe_open

        def tensors() -> Iterator[tuple[str, Any]]:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                    yield name, file.get_tensor(name)

        self._replace_weights(tensors())

    def load_policy_tensors(self, named_tensors: list[tuple[str, Any]]) -> None:
        """Replace the worker's weights by copies of tensors of the same process; see `load_policy_weights`."""
        self._replace_weights(iter(named_tensors))

    def _replace_weights(self, named_tensors: Iterator[tuple[str, Any]]) -> None:
        self.model_runner.reload_weights(weights_iterator=named_tensors)
        _repack_tied_head(self.model_runner.get_model())

    def bypass_head_adapters(self) -> None:
        """Compute logits without an adapter's part in the output head.

        With room for adapters, vLLM adds that part to the logits of every position, but has indices for the sampled
        ones only: prompt log-probabilities fail (vLLM 0.32 on a CPU). No adapter that is served has such a part.
        """
        for module in self.model_runner.get_model().modules():
            if type(module).__name__ == "LogitsProcessorWithLoRA":
                module._get_logits = partial(_base_logits, module.base_layer)

    def spare_generators(self) -> None:
        """Draw nothing from the generator of a request whose prompt is not read to its end.

        vLLM samples for it, too, drops what it got and sets the generator back, which one on a CPU cannot be: the step
        fails (vLLM 0.32: "CPU Generator does not use offset").
        """
        runner = self.model_runner
        if runner.device.type == "cpu":
            runner.sample_tokens = partial(_sample_tokens, runner, runner.sample_tokens)

    def watch_modules(self) -> None:
        """Note from now on the first module whose output is not a number."""
        self.first_non_finite = ""
        model = self.model_runner.get_model()
        self.watches = [
            module.register_forward_hook(partial(self._watch, name)) for name, module in model.named_modules()
        ]

    def unwatch_modules(self) -> str:
        """Stop watching; return the name of the module that was noted, or ""."""
        for watch in self.watches:
            watch.remove()
        return self.first_non_finite

    def _watch(self, name: str, module: Any, inputs: Any, output: Any) -> None:
        """Note a module, unless one inside it or before it was noted."""
        outputs = output if isinstance(output, tuple) else (output,)
        if self.first_non_finite or not name:
            return
        if any(hasattr(one, "isfinite") and not bool(one.isfinite().all()) for one in outputs):
            self.first_non_finite = name


def _base_logits(processor: Any, hidden_states: Any, lm_head: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what vLLM's logits processor says of the head without its adapter."""
    return processor._get_logits(hidden_states, getattr(lm_head, "base_layer", lm_head), *args, **kwargs)


def _repack_tied_head(model: Any) -> None:
    """Rebuild the packed copy of an output head that shares the input embedding's weight, on a CPU.

    Reloading fills the embedding in place, and leaves the packed copy from which a CPU multiplies as it was: without
    this the engine goes on answering with the old head, silently (seen in vLLM 0.32).
    """
    head = getattr(model, "lm_head", None)
    weight = getattr(head, "weight", None)
    if weight is None or weight.device.type != "cpu":
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def _sample_tokens(runner: Any, sample_tokens: Any, grammar_output: Any) -> Any:
    """Let vLLM sample a step's tokens without the generators of the requests whose token is dropped."""
    batch = runner.input_batch
    dropped = runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
    spared = {row: batch.generators.pop(row) for row in dropped if row in batch.generators}
    try:
        return sample_tokens(grammar_output)
    finally:
        batch.generators.update(spared)
