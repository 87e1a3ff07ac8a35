"""The peer's commands between the task that reads them and the one that carries them out.

The reader must go on while a command of ours waits for its answer, for the answer may stand behind
commands of the peer. So what has been read and not carried out is bounded twice: beyond the first
bound reading pauses unless we wait for an answer, beyond the second the peer abuses that.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vfio_user import Closeable

__all__ = ["Backlog", "Held"]


class Held(Protocol):
    """Something that holds fds until it is dealt with."""

    @property
    def fds(self) -> Sequence[Closeable]:
        """The fds."""


_T = TypeVar("_T", bound=Held)

_PAUSE_AT = 8 << 20
_FULL_AT = 2 * _PAUSE_AT
# Beside its bytes, what an entry costs here, and an fd out of the process's limit of them.
_ENTRY_WEIGHT = 1 << 10
_FD_WEIGHT = 64 << 10


class Backlog(Generic[_T]):
    """Commands in the order of their arrival. Close it to close the fds of those left over.

    Args:
        pause_at: weight at which reading should pause, in bytes.
        full_at: weight at which it is full, in bytes.
    """

    def __init__(self, *, pause_at: int = _PAUSE_AT, full_at: int = _FULL_AT) -> None:
        self._pause_at = pause_at
        self._full_at = full_at
        self._entries: deque[tuple[_T, int]] = deque()
        self._weight = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._finished = False

    @property
    def busy(self) -> bool:
        """Whether reading should pause."""
        return self._weight >= self._pause_at

    @property
    def full(self) -> bool:
        """Whether there is room for nothing more."""
        return self._weight >= self._full_at

    def put(self, entry: _T, size: int) -> None:
        """Add an entry.

        Args:
            entry: taken over, with its fds.
            size: of the message, bytes.
        """
        if self._finished:
            _close_fds(entry)
            return
        weight = size + _ENTRY_WEIGHT + _FD_WEIGHT * len(entry.fds)
        self._entries.append((entry, weight))
        self._weight += weight
        self._changed.unpark_all()

    async def get(self) -> _T | None:
        """Wait for the next entry, which is the caller's; None: there will be no more."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while not self._entries:
            if self._finished:
                return None
            await self._changed.park()
            waited = True
        entry, weight = self._entries.popleft()
        self._weight -= weight
        self._changed.unpark_all()
        if not waited:  # else the others have run, and the peer waits
            await trio.lowlevel.cancel_shielded_checkpoint()
        return entry

    async def changed(self) -> None:
        """Wait until something was put in or taken out, or `wake` was called."""
        await self._changed.park()

    def wake(self) -> None:
        """Let whoever waits for a change look again."""
        self._changed.unpark_all()

    def finish(self) -> None:
        """Take nothing more; `get` returns None once it has returned what is left."""
        self._finished = True
        self._changed.unpark_all()

    def close(self) -> None:
        """Take nothing more, and drop what is left with its fds."""
        self.finish()
        for entry, _ in self._entries:
            _close_fds(entry)
        self._entries.clear()
        self._weight = 0


def _close_fds(entry: Held) -> None:
    for fd in entry.fds:
        fd.close()
