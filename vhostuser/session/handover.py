"""When a ring's notify area is offered to the front-end, as a table. Pure.

An area is offered for a ring that was started, never for one that was only enabled: such a ring is
not stopped either, and its area would outlive it. QEMU takes areas off in the background and aborts
when one of a ring is taken off while the last still goes: so the next is offered some time after
one ended, whatever ended it; kicks are relayed meanwhile. In the RFC dialects an area is the
front-end's until it is taken back: it comes and goes with the ring by itself.
Specification: VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG; RFC v2, "VFIO based accelerators".
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from protocol.vhost_user import VringHostNotifier, VringNotifyArea

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.vhost_user import Dialect

__all__ = ["PAUSE_SECONDS", "AreaEvent", "AreaState", "Handover", "area_message"]

PAUSE_SECONDS = 0.25
"""Between the end of a ring's area and the offer of the next."""


class AreaState(enum.Enum):
    """How far a ring's notify area has come."""

    NONE = "none"
    WANTED = "to be offered"
    OFFERED = "offered"
    HANDED_OVER = "handed over"
    KEPT = "kept by the front-end while the ring is stopped"
    REFUSED = "refused"


class AreaEvent(enum.Enum):
    """What happens to it."""

    START = "the ring was started"
    STOP = "the ring was stopped"
    OFFER = "the offer was sent"
    ACCEPT = "the front-end took it"
    REFUSE = "the front-end refused it, or there is none"
    END = "it must not be used any more"


_S, _E = AreaState, AreaEvent
_COMMON: Mapping[tuple[AreaState, AreaEvent], AreaState] = {
    (_S.NONE, _E.START): _S.WANTED,
    (_S.WANTED, _E.OFFER): _S.OFFERED,
    (_S.WANTED, _E.REFUSE): _S.REFUSED,
    (_S.WANTED, _E.STOP): _S.NONE,
    (_S.WANTED, _E.END): _S.REFUSED,
    (_S.OFFERED, _E.ACCEPT): _S.HANDED_OVER,
    (_S.OFFERED, _E.REFUSE): _S.REFUSED,
    (_S.OFFERED, _E.STOP): _S.NONE,
    (_S.OFFERED, _E.END): _S.REFUSED,
    (_S.HANDED_OVER, _E.STOP): _S.NONE,
    (_S.HANDED_OVER, _E.END): _S.REFUSED,
    (_S.REFUSED, _E.STOP): _S.NONE,
}
_RFC: Mapping[tuple[AreaState, AreaEvent], AreaState] = {
    **_COMMON,
    (_S.HANDED_OVER, _E.STOP): _S.KEPT,
    (_S.KEPT, _E.START): _S.HANDED_OVER,
    (_S.KEPT, _E.END): _S.NONE,
}
_LIVE = frozenset({_S.OFFERED, _S.HANDED_OVER, _S.KEPT})


class Handover:
    """The notify area of one ring.

    Args:
        dialect: of the protocol.
        now: seconds of a clock that only goes forward; a front-end that comes again has just taken
            the areas of its last connection off.

    Attributes:
        state: how far it has come.
        number: counts up with each start and end: an answer to an older offer says nothing.
    """

    def __init__(self, dialect: Dialect, now: float) -> None:
        self._table = _COMMON if dialect.row_of(VringNotifyArea) is None else _RFC
        self._ended = now
        self.state = AreaState.NONE
        self.number = 0

    def apply(self, event: AreaEvent, now: float) -> bool:
        """Note what happened; events that mean nothing in a state change nothing.

        Args:
            event: what.
            now: seconds of the clock.

        Returns:
            Whether the front-end may use an area that it must be told to give up.
        """
        before = self.state
        self.state = self._table.get((before, event), before)
        if self.state is before:
            return False
        if event in {AreaEvent.START, AreaEvent.STOP, AreaEvent.END}:
            self.number += 1
        if before in _LIVE and self.state not in _LIVE:
            self._ended = now
        return event is AreaEvent.END and before in _LIVE

    def linger(self, now: float) -> None:
        """Note that an area of an earlier start was there until now."""
        self._ended = now

    @property
    def due(self) -> float:
        """When the next may be offered, in seconds of the same clock."""
        return self._ended + PAUSE_SECONDS


def area_message(
    dialect: Dialect, index: int, *, size: int = 0, offset: int = 0, no_fd: bool = False
) -> VringHostNotifier | VringNotifyArea:
    """Return what offers a ring's area in a dialect, or takes it back.

    Args:
        dialect: of the protocol.
        index: of the ring.
        size: bytes.
        offset: bytes from the beginning of the fd.
        no_fd: take it back.
    """
    if dialect.row_of(VringNotifyArea) is not None:
        return VringNotifyArea(index=index, no_fd=no_fd, size=size, offset=offset)
    return VringHostNotifier(index=index, no_fd=no_fd, size=size, offset=offset)
