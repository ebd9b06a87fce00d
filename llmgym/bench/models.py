"""The models that benchmarks run: the quickstart's tiny one, and a real one of 135 M parameters."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from llmgym.config import RunConfig
from llmgym.learner.tiny import TinySettings
from llmgym.run.models import prepare_model

__all__ = ["measure_models", "prepare_bench_model"]

_logger = logging.getLogger(__name__)


def measure_models(names: Iterable[str], measure: Callable[[str], dict[str, float]]) -> dict[str, float]:
    """Return the figures of several models, each under "MODEL_FIGURE".

    Args:
        names: of models, see `prepare_bench_model`.
        measure: from a model's folder or hub id to its figures.
    """
    figures: dict[str, float] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(prepare_bench_model(name, Path(folder) / name))
        _logger.info("%s: measured", name)
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return figures


def prepare_bench_model(name: str, folder: Path) -> str:
    """Return a folder or hub id of "tiny" or "smollm2", written into a folder where it has to be built."""
    tiny = TinySettings(max_context_tokens=4096)
    return prepare_model(RunConfig(env="llmgym/BabyAI-GoToLocal-v0", model=name, tiny=tiny), folder)
