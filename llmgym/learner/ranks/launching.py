"""The launcher as the driver sees it: started, ended, and what it tells of a death."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmgym.errors import LearnerError
from llmgym.learner.ranks.plan import Plan

__all__ = ["end_ranks", "launch_ranks", "read_death"]

FAREWELL_SECONDS = 10.0
"""How long ranks may take to end by themselves."""
KILL_SECONDS = 5.0


def launch_ranks(plan: Plan) -> subprocess.Popen[bytes]:
    """Start the launcher, in a session of its own: Ctrl-C is the driver's affair."""
    Path(plan.log_dir).mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": str(plan.num_threads),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    with (Path(plan.log_dir) / "launcher.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "llmgym.learner.ranks.launcher", plan.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def end_ranks(launcher: subprocess.Popen[bytes], lines: list[Connection], plan: Plan, *, is_orderly: bool) -> None:
    """End launcher and ranks, with force where they do not end by themselves, and remove what they met through."""
    if is_orderly:
        for line in lines:
            with contextlib.suppress(OSError):
                line.send_bytes(b"")
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=FAREWELL_SECONDS)
    launcher.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(timeout=KILL_SECONDS)
    # What is left of the launcher's process group: itself, ranks, and the process that ranks are forked from.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    for line in lines:
        line.close()
    lines.clear()
    shutil.rmtree(plan.folder, ignore_errors=True)


def read_death(launcher: subprocess.Popen[bytes], plan: Plan) -> LearnerError:
    """Return an error that tells who died first and why, with the traceback as its note.

    Args:
        launcher: that has ended.
    """
    if not plan.report.is_file():
        return LearnerError(
            f"Expected the launcher of {plan.num_ranks} learner ranks to run, but it ended with exit code "
            f"{launcher.returncode}. Its log: {Path(plan.log_dir) / 'launcher.log'}"
        )
    found: dict[str, Any] = json.loads(plan.report.read_text(encoding="utf-8"))
    rank, exitcode = found["rank"], found["exitcode"]
    reason = found["error"] or (_signal_name(exitcode) if exitcode < 0 else f"exit code {exitcode}")
    logs = sorted(Path(plan.log_dir).rglob(f"{rank}/stderr.log"))
    who, end = f"all {plan.num_ranks} learner ranks", f"rank {rank} died of {reason}; the others were ended."
    if plan.num_ranks == 1:
        who, end = "the learner's process", f"it died of {reason}."
    error = LearnerError(f"Expected {who} to live, but {end} Its log: {logs[-1] if logs else plan.log_dir}")
    if found["traceback"]:
        error.add_note(found["traceback"].rstrip())
    return error


def _signal_name(exitcode: int) -> str:
    """Name the signal that a process ended by."""
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"
