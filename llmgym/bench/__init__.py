"""One benchmark a file, each beside its rivals in the same run. A benchmark is a module with `run() -> Report`."""

from llmgym.bench.report import Report

__all__ = ["Report"]
