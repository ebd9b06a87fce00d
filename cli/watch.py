"""Which reporter watches a run: the live view on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmgym.cli.quiet import captured_output, quiet_libraries

if TYPE_CHECKING:
    from llmgym.run.report import Reporter

__all__ = ["watched"]

FIRST_STAGE = "libraries"
"""What a command does first: importing torch and vLLM takes seconds."""


@contextlib.contextmanager
def watched() -> Iterator[Reporter]:
    """Yield a reporter for a run, and keep what other libraries print out of its way."""
    quiet_libraries()
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        from llmgym.cli.plain import PlainReporter

        plain = PlainReporter(lambda line: print(line, flush=True))
        plain.stage(FIRST_STAGE, None, "")
        try:
            yield plain
        finally:
            plain.close()
        return
    from llmgym.cli.console import make_console
    from llmgym.cli.live import LiveReporter

    with captured_output() as terminal:
        live = LiveReporter(make_console(terminal))
        live.stage(FIRST_STAGE, None, "")
        try:
            yield live
        finally:
            live.close()
