"""Run by test_rl_processes.py under torchrun: two processes call one model together. Prints one JSON object each."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from llmgym.compat.lamorel import BaseUpdater, Caller, lamorel_init
from llmgym.errors import HostError

lamorel_init()


class Teller(BaseUpdater):
    """Tells what it is given."""

    def perform_update(self, contexts: Any, candidates: Any, _current_batch_ids: Any, **kwargs: Any) -> list[Any]:
        return [contexts, _current_batch_ids, kwargs["tag"]]


def main(folder: str) -> None:
    config = {
        "distributed_setup_args": {"n_rl_processes": 2, "n_llm_processes": 1},
        "llm_args": {"model_type": "causal", "model_path": folder},
    }
    caller = Caller(config, Teller())
    rank = int(os.environ["RANK"])
    contexts = [["You see"], ["turn left", "go"]][rank]
    scores = caller.score(contexts, [[" a", " red ball"]] * len(contexts))
    total = torch.tensor([float(rank + 1)])
    torch.distributed.all_reduce(total, group=caller.get_rl_dist_group())
    updated = caller.update(contexts, None, tag=f"rank {rank}")
    try:
        caller.score([""], [[" a"]])
        error = "nothing was raised"
    except HostError as raised:
        error = str(raised)
    caller.close()
    caller.close()
    found = {"rank": rank, "scores": [entry.tolist() for entry in scores], "total": total.item()}
    print(json.dumps({**found, "updated": updated, "error": error}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
