"""What can go wrong with one run, so that it is told as a failure and never becomes a figure."""

from __future__ import annotations

__all__ = ["BenchError", "RunFailedError"]


class BenchError(Exception):
    """Nothing can be measured here; the text says what to do about it."""


class RunFailedError(Exception):
    """One run crashed, ended with errors, or completed nothing."""
