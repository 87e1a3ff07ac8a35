"""The doorbells of the function: pages that a client maps, and eventfds that stand for them.

Whoever mapped the pages, or got an eventfd, keeps it: so every client gets new ones, and what a
former client does with its own reaches nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from typing import TYPE_CHECKING

from vhostuser.fds import Closing, OwnedFd
from vhostuser.native import ffi

if TYPE_CHECKING:
    from accel.simulator.layout import Layout

__all__ = ["Doorbells"]

_SENTINEL = struct.pack("<I", 0xFFFFFFFF)
"""What the engine takes for "not rung": no driver stores it, and queue 0's index is all zeros."""


class Doorbells(Closing):
    """One client's doorbells. Close them once the engine uses none any more.

    Args:
        layout: where they are.

    Attributes:
        fd: the BAR's file, sealed.

    Raises:
        OSError: the host is out of memory or file descriptors.
    """

    def __init__(self, layout: Layout, size: int) -> None:
        self._layout = layout
        with contextlib.ExitStack() as stack:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            self.fd = stack.enter_context(OwnedFd(os.memfd_create("doorbells", flags)))
            os.ftruncate(self.fd.fileno(), size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd.fileno(), fcntl.F_ADD_SEALS, seals)
            self._map = stack.enter_context(
                contextlib.closing(mmap.mmap(self.fd.fileno(), layout.notify_size))
            )
            self._pointer = ffi.from_buffer("char[]", self._map, require_writable=True)
            stack.callback(ffi.release, self._pointer)
            self._first = int(ffi.cast("uintptr_t", self._pointer))
            self.eventfds = tuple(
                stack.enter_context(OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)))
                for _ in range(layout.queues)
            )
            for index in range(layout.queues):
                place = layout.doorbell(index)
                self._map[place : place + len(_SENTINEL)] = _SENTINEL
            self._held = stack.pop_all()

    def address(self, index: int) -> int:
        """Return where a queue's doorbell is in this process."""
        return self._first + self._layout.doorbell(index)

    def close(self) -> None:
        """Unmap them and close the eventfds."""
        self._held.close()
