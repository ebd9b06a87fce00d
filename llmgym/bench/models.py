"""The models that benchmarks run: the quickstart's tiny one, and a real one of 135 M parameters."""

from __future__ import annotations

from pathlib import Path

from llmgym.config import RunConfig
from llmgym.learner.tiny import TinySettings
from llmgym.run.models import prepare_model

__all__ = ["prepare_bench_model"]


def prepare_bench_model(name: str, folder: Path) -> str:
    """Return a folder or hub id of "tiny" or "smollm2", written into a folder where it has to be built."""
    tiny = TinySettings(max_context_tokens=4096)
    return prepare_model(RunConfig(env="llmgym/BabyAI-GoToLocal-v0", model=name, tiny=tiny), folder)
