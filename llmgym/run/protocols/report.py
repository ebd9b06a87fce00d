"""A protocol's outcome as files: a Markdown report, the numbers as JSON, and a picture of the intervals."""

from __future__ import annotations

import json
from pathlib import Path

from llmgym.errors import RunError
from llmgym.run.folder import write_whole
from llmgym.run.protocols.figure import plot_protocol
from llmgym.run.protocols.kept import forget_kept
from llmgym.run.protocols.markdown import to_markdown
from llmgym.run.protocols.result import ProtocolResult

__all__ = ["make_report_folder", "write_report"]

REPORT, DATA, FIGURE = "report.md", "report.json", "report.png"


def make_report_folder(path: Path) -> None:
    """Make the folder of a report before anything is measured for it.

    Raises:
        RunError: it cannot be made, or holds a report already.
    """
    if (path / REPORT).exists():
        raise RunError(f"Expected a folder without a report, found {path / REPORT}. Name another, or remove it.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / REPORT).touch()
        (path / REPORT).unlink()
    except OSError as error:
        raise RunError(
            f"Expected to be able to write a report into {path}, but {error.strerror or error}. Name another folder."
        ) from error


def write_report(path: Path, result: ProtocolResult) -> None:
    """Write report.md, report.json and report.png into a folder; what was kept until then has no more use."""
    plot_protocol(path / FIGURE, result)
    write_whole(path / DATA, json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n")
    write_whole(path / REPORT, to_markdown(result, FIGURE, DATA))
    forget_kept(path)
