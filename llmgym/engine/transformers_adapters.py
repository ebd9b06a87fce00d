"""Adapters of a transformers model, by name: PEFT puts them into its layers, and one at a time is in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmgym.engine.adapter_fit import check_adapter, layer_sizes
from llmgym.engine.asks import BASE
from llmgym.errors import EngineError

__all__ = ["Adapters"]


class Adapters:
    """The adapters of one model."""

    def __init__(self, model: Any) -> None:
        """Manage a transformers model, which is changed in place."""
        self._model = model
        self._sizes = layer_sizes(model)
        self._peft: Any = None
        self._keys: dict[str, str] = {}
        self._num_loaded = 0

    def __len__(self) -> int:
        return len(self._keys)

    def answering(self, name: str) -> str:
        """Return who answers to a name: the adapter, or the base weights where there is none."""
        return name if name in self._keys else BASE

    def load(self, path: str, name: str) -> None:
        """Load the PEFT adapter of a folder under a name; one of that name is replaced once this one is in place.

        Raises:
            EngineError: there is none, or it does not fit the model.
        """
        import peft

        if not (Path(path) / "adapter_config.json").is_file():
            raise EngineError(f"Expected a PEFT adapter in {path}, found no adapter_config.json there.")
        check_adapter(path, self._sizes, self._model.name_or_path or type(self._model).__name__)
        # PEFT allows no dots in its own names, and keeps the one that is replaced until this one is in place.
        self._num_loaded += 1
        key = f"adapter{self._num_loaded}"
        try:
            config = peft.PeftConfig.from_pretrained(path)
            if config.is_prompt_learning:
                raise ValueError(f"it is of the kind {config.peft_type.value}, which works on prompts.")
            config.inference_mode = True
            if self._peft is None:
                self._peft = peft.PeftModel(self._model, config, adapter_name=key)
            self._peft.load_adapter(path, adapter_name=key)
        except (OSError, ValueError, RuntimeError) as error:
            self._forget(key)
            raise EngineError(
                f"Expected an adapter that fits the model, but the one in {path} does not: {error} "
                "Give one that was trained on these base weights, such as a LoRA adapter."
            ) from error
        self._model.eval()
        self.drop(name)
        self._keys[name] = key

    def drop(self, name: str) -> None:
        """Forget the adapter of a name; an unknown name is ignored."""
        key = self._keys.pop(name, None)
        if key is not None:
            self._forget(key)

    def use(self, name: str) -> None:
        """Put the adapter of a name in force, or the base weights where there is none."""
        if self._peft is None:
            return
        if name in self._keys:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._keys[name])
        else:
            self._peft.base_model.disable_adapter_layers()

    def _forget(self, key: str) -> None:
        """Take an adapter out of the model's layers, and PEFT with the last of them."""
        if self._peft is None:
            return
        others = [other for other in self._peft.peft_config if other != key]
        if others:
            if key in self._peft.peft_config:
                self._peft.set_adapter(others[0])
                self._peft.delete_adapter(key)
        else:
            self._peft.unload()
            self._peft = None
