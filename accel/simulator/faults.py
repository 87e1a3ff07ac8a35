"""Faults on request: what a driver, and whoever passes rings to a device, must be able to survive.

A fault is described by a text, KIND[:queue=N][:count=N][:after=N|:on-signal]; see `parse_fault`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["FAULT_SYNTAX", "FaultKind", "FaultRequest", "parse_fault"]

FAULT_SYNTAX = "KIND[:queue=N][:count=N][:after=N|:on-signal]"
_MOST = (1 << 31) - 1


class FaultKind(enum.Enum):
    """What goes wrong."""

    STUCK_QUEUE = "stuck-queue"
    """The queue takes no more requests."""
    LOST_INTERRUPT = "lost-interrupt"
    """The queue's next interrupts do not come."""
    WRONG_USED_ID = "wrong-used-id"
    """The queue gives back requests that it was not given."""
    NEEDS_RESET = "needs-reset"
    """The device says that it needs a reset."""
    SUDDEN_DEATH = "sudden-death"
    """The process ends at once, without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRequest:
    """One fault, and when it comes.

    Attributes:
        kind: what goes wrong.
        queue: of which queue; None: of every one.
        count: how often: interrupts that are lost, ids that are wrong.
        after: requests that the queue (or all of them) must have served before.
        on_signal: it comes at SIGUSR1 (or when `SimulatedDevice.signal` is called) instead.
    """

    kind: FaultKind
    queue: int | None = None
    count: int = 1
    after: int = 0
    on_signal: bool = False

    def __str__(self) -> str:
        queue = "" if self.queue is None else f" of queue {self.queue}"
        return f"{self.kind.value}{queue}"


def parse_fault(text: str) -> FaultRequest:
    """Read what a person wrote.

    Raises:
        ValueError: it means nothing; the text says what would.
    """
    name, *words = text.split(":")
    kinds = {kind.value: kind for kind in FaultKind}
    if name not in kinds:
        raise ValueError(f"a fault is {', '.join(kinds)}, not {name!a}")
    values: dict[str, int] = {}
    on_signal = False
    for word in words:
        key, _, value = word.partition("=")
        if word == "on-signal":
            on_signal = True
        elif key in {"queue", "count", "after"} and _is_number(value):
            values[key] = int(value)
        else:
            raise ValueError(f"after the kind come queue=N, count=N, after=N or on-signal: {word}")
    if on_signal and "after" in values:
        raise ValueError("a fault comes after=N requests or on-signal, not both")
    return FaultRequest(kind=kinds[name], on_signal=on_signal, **values)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < len(str(_MOST))
