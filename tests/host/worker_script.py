"""Run by test_workers.py as a program of its own: spawned processes import what is defined here.

python worker_script.py MODE FOLDER        prints one JSON object
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmgym.errors import LLMGymError
from llmgym.host import SCORE, Host, HostedModel, ModelSettings, ModelSpec, Placement, Rows, Shard

CONTEXTS = ["You", "You see a red ball", "turn left turn", "go forward", "drop"]
CANDIDATES = [[" turn left", " go"], [" pick up", " drop", " toggle toggle"], [" a"], [], [" go", " left"]]


class Value(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(config.hidden_size, 1)

    def read(self, rows: Rows, named: Mapping[str, Any]) -> Tensor:
        values: Tensor = self.layer(rows.states()).squeeze(-1)
        return values


class Ascent:
    """One gradient step that makes the first candidates likelier; keeps its optimizer."""

    optimizer: Any = None

    def update(self, module: Any, shard: Shard) -> dict[str, Any]:
        if "sleep" in shard.data:
            time.sleep(shard.data["sleep"])
        if "fail" in shard.data and 0 in shard.indices:
            raise ValueError("on purpose")
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        self.optimizer.zero_grad()
        results = module([SCORE, "value"], shard.contexts, shard.candidates)
        weights = [shard.data["weights"][index] for index in shard.indices]
        losses = [w * (-r[SCORE][0] + r["value"][0] ** 2) for w, r in zip(weights, results, strict=True)]
        loss = torch.stack(losses).mean()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss), "indices": list(shard.indices)}


def freeze_embeddings(hosted: HostedModel) -> None:
    hosted.language_model.get_input_embeddings().weight.requires_grad_(False)


def make_host(folder: str, num_workers: int) -> Host:
    spec = ModelSpec(ModelSettings(folder), {"value": Value}, freeze_embeddings, Ascent())
    return Host({"main": spec}, {"main": Placement(num_workers, timeout_seconds=120)})


def told(function: Any) -> str:
    try:
        function()
    except LLMGymError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def answers(host: Host) -> dict[str, Any]:
    def listed(results: list[dict[str, Any]]) -> list[list[float]]:
        return [[*result[SCORE].tolist(), *result["value"].tolist()] for result in results]

    def steps(some: slice, weights: list[float]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = host.update(CONTEXTS[some], CANDIDATES[some], {"weights": weights})
        return found

    keys = [SCORE, "value"]
    found: dict[str, Any] = {
        "many": listed(host.run_modules(keys, CONTEXTS, CANDIDATES)),
        "one": listed(host.run_modules(keys, CONTEXTS[1:2], CANDIDATES[1:2])),
        "alone": [result["value"].tolist() for result in host.run_modules(["value"], CONTEXTS[:1])],
        "generated": [some[0].token_ids for some in host.generate(CONTEXTS, {"max_new_tokens": 4})],
        "bad": told(lambda: host.score(["a", "b"], [["c"], [""]])),
        "two": [steps(slice(0, 2), [1.0, 2.0]), steps(slice(0, 2), [3.0, 0.5])],
    }
    found["after"] = listed(host.run_modules(keys, CONTEXTS, CANDIDATES))
    found["single"] = steps(slice(1, 2), [2.0])
    found["after_single"] = listed(host.run_modules(keys, CONTEXTS, CANDIDATES))
    found["uneven"] = steps(slice(0, 3), [1.0, 1.0, 1.0])
    return found


def compare(folder: str) -> dict[str, Any]:
    with make_host(folder, 0) as host:
        local = answers(host)
    with make_host(folder, 2) as host:
        spread = answers(host)
        gradients = told(lambda: host.run_modules([SCORE], ["a"], [["b"]], with_gradients=True))
        started = time.monotonic()
        failed = told(lambda: host.update(CONTEXTS[:2], None, {"fail": True, "weights": [1.0, 1.0]}))
        seconds = time.monotonic() - started
        gone = told(lambda: host.score(["a"], [["b"]]))
    closed = told(lambda: host.score(["a"], [["b"]]))
    return {"local": local, "spread": spread, "gradients": gradients, "failed": failed, "failed_seconds": seconds,
            "gone": gone, "closed": closed, "children": num_children()}  # fmt: skip


def die(folder: str) -> dict[str, Any]:
    host = make_host(folder, 2)
    victims = [int(pid) for pid in children()]
    killer = threading.Timer(1.0, lambda: os.kill(victims[1], signal.SIGKILL))
    killer.start()
    started = time.monotonic()
    message = told(lambda: host.update(CONTEXTS[:2], CANDIDATES[:2], {"weights": [1.0, 1.0], "sleep": 60}))
    return {"message": message, "seconds": time.monotonic() - started, "children": num_children()}


def children() -> list[int]:
    """Process ids of the workers alive."""
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def num_children() -> int:
    return len(children())


def abandon(folder: str) -> dict[str, Any]:
    """Be killed without a chance to close anything; the pids are printed before."""
    host = make_host(folder, 1)
    print(json.dumps({"pids": children(), "score": host.score(["a"], [["b"]])[0].tolist()}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


if __name__ == "__main__":
    mode, model_folder = sys.argv[1:]
    torch.use_deterministic_algorithms(True)
    print(json.dumps({"compare": compare, "die": die, "abandon": abandon}[mode](model_folder)), flush=True)
