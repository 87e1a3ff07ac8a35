"""The function's MSI-X vectors: the eventfds that a client bound to them."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

import trio

from vhostuser.fds import FdKind, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.fds import OwnedFd

__all__ = ["Vectors"]


class Vectors:
    """What each vector signals. The fds are the server's."""

    def __init__(self) -> None:
        self._fds: dict[int, OwnedFd] = {}
        self._signalling = trio.CapacityLimiter(1)

    def set(self, start: int, fds: Sequence[OwnedFd | None]) -> None:
        """Bind vectors from `start` on.

        Raises:
            OSError: one of the fds is no eventfd; nothing has changed.
        """
        for fd in fds:
            if fd is not None and kind_of(fd) is not FdKind.EVENTFD:
                raise OSError(
                    errno.EINVAL, f"a vector signals an eventfd, not a {kind_of(fd).value}"
                )
        for vector, fd in enumerate(fds, start=start):
            if fd is None:
                self._fds.pop(vector, None)
            else:
                self._fds[vector] = fd

    def duplicate(self, vector: int) -> OwnedFd | None:
        """Return a second fd of what a vector signals; None: nothing.

        Raises:
            OSError: no fd is free.
        """
        fd = self._fds.get(vector)
        return None if fd is None else fd.duplicate()

    async def signal(self, vector: int) -> None:
        """Signal a vector once. Cancellable.

        In a thread: the client can fill its eventfd and make it block whoever writes to it. One
        that blocks keeps the next signals of this device waiting, nothing else.

        Raises:
            OSError: no fd is free.
        """
        fd = self.duplicate(vector)
        if fd is None:
            return
        async with self._signalling:
            await trio.to_thread.run_sync(_signal, fd, abandon_on_cancel=True)

    def clear(self) -> None:
        """Forget all fds."""
        self._fds.clear()


def _signal(fd: OwnedFd) -> None:
    with fd:
        room = select.poll()
        room.register(fd, select.POLLOUT)
        if room.poll(0):  # else it holds a signal already
            os.eventfd_write(fd.fileno(), 1)
