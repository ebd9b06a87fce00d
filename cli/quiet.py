"""What other libraries print: kept low, and kept out of a live view. Knows the variables they listen to."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import IO

__all__ = ["captured_output", "quiet_libraries"]

_DEFAULTS = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_TAIL_BYTES = 4000


def quiet_libraries() -> None:
    """Ask vLLM, torch, transformers and tqdm for errors only, where the user has not said otherwise.

    To be called before they are imported.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # for processes that are started from here


@contextlib.contextmanager
def captured_output() -> Iterator[IO[str]]:
    """Keep everything that is written to stdout and stderr away from the terminal; yield a file that is the terminal.

    Works on the file descriptors, because compiled code and child processes write there. If an exception leaves the
    context, the end of what was captured is written to stderr: it may tell why.
    """
    import tempfile

    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8")
    saved_stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 1)
        os.dup2(captured.fileno(), 2)
        try:
            yield terminal
        except BaseException as error:
            _restore(terminal, saved_stderr)
            if not isinstance(error, KeyboardInterrupt):
                _print_tail(captured)
            raise
        else:
            _restore(terminal, saved_stderr)


def _restore(terminal: IO[str], saved_stderr: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    terminal.flush()
    os.dup2(terminal.fileno(), 1)
    os.dup2(saved_stderr, 2)
    terminal.close()
    os.close(saved_stderr)


def _print_tail(captured: IO[bytes]) -> None:
    """Write the last lines of a file to stderr."""
    size = captured.seek(0, os.SEEK_END)
    captured.seek(max(0, size - _TAIL_BYTES))
    text = captured.read().decode("utf-8", errors="replace").strip()
    if text:
        sys.stderr.write(f"--- what the libraries printed last ---\n{text}\n---\n")
