"""The exceptions of this package: a part or package that is not to be had, and why."""

from __future__ import annotations

__all__ = ["PartFailedError", "UnobtainableError"]


class PartFailedError(Exception):
    """The part could have been had, but fetching or making it went wrong."""


class UnobtainableError(PartFailedError):
    """This machine cannot get the part; the text says why and what would change that."""
