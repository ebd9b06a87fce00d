"""The launcher: `python -m llmgym.learner.ranks.launcher PLAN` starts the ranks under torch elastic and watches them.

A process of its own: elastic's agent wants the main thread and its signals, and the driver has an engine to run. The
ranks meet through files, so there is neither a port nor an address to give. When one dies, elastic ends the others, and
what it knows of the death is written down for the driver. Nothing is started again.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
from functools import partial
from multiprocessing import forkserver
from typing import TYPE_CHECKING

from llmgym.learner.ranks.plan import Plan, watch_parent

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

__all__ = ["main"]

PRELOADED = (
    "llmgym.learner.ranks.worker",
    "llmgym.learner.learner",
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
)
"""What every rank needs and takes longest to import: done once, in the process that they are forked from."""
HEARTBEAT_SECONDS = 24 * 3600
"""Between elastic's signs of life. There is no other agent to read them, and its file grows by each."""


def main() -> None:
    """Start the ranks of a plan, and wait for them."""
    plan = Plan.from_json(sys.argv[1])
    # Torch imports its compiler to format the log of an error, which takes longer than to end the ranks and to report.
    logging.disable(logging.ERROR)
    watch_parent(plan.driver_pid, partial(_end, plan))
    # CUDA does not survive a fork. Without it, ranks are forked from a process that has imported everything; it begins
    # with that at once, while torch is imported here.
    start_method = "spawn" if plan.device == "cuda" else "forkserver"
    if start_method == "forkserver":
        multiprocessing.set_forkserver_preload(list(PRELOADED))
        forkserver.ensure_running()
    _run(plan, start_method)


def _run(plan: Plan, start_method: str) -> None:
    """Run the ranks under elastic, and report the first that fails."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from llmgym.learner.ranks.worker import run_rank

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=plan.num_ranks,
        run_id="group",
        rdzv_backend="c10d",
        rdzv_endpoint=plan.rendezvous,
        rdzv_configs={"store_type": "file", "keep_alive_interval": HEARTBEAT_SECONDS},
        max_restarts=0,
        monitor_interval=0.1,
        start_method=start_method,
        logs_specs=DefaultLogsSpecs(log_dir=plan.log_dir, redirects=Std.ALL),
        local_addr="localhost",
    )
    try:
        elastic_launch(config, run_rank)(plan)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        plan.report.write_text(json.dumps(_report(rank, failure)), encoding="utf-8")
        sys.exit(1)
    except SignalException:
        sys.exit(1)


def _report(rank: int, failure: ProcessFailure) -> dict[str, object]:
    """Return what is known of a rank that failed: its exit code, and the error that it raised, if it did."""
    raised = failure.error_file_data.get("message")
    known = raised if isinstance(raised, dict) else {}
    return {
        "rank": rank,
        "exitcode": failure.exitcode,
        "error": known.get("message", ""),
        "traceback": known.get("extraInfo", {}).get("py_callstack", ""),
    }


def _end(plan: Plan) -> None:
    """End this process and all that it has started, of which no one is left to hear; leave no file behind."""
    shutil.rmtree(plan.folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
