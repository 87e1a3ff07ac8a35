"""What a check of `vhostuser doctor` found."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at.
        status: "ok", "note" or "warn".
        value: what is.
        advice: what to do; empty when nothing needs to be done.
    """

    name: str
    status: str
    value: str
    advice: str = ""
