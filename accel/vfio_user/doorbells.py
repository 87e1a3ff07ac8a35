"""The eventfds by which a server lets a region be written to.

Specification: vfio-user, DEVICE_GET_REGION_IO_FDS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.vfio_user.describe import IOEVENTFD_DATAMATCH
from protocol.vfio_user import IoFdType
from vhostuser.fds import Closing, FdKind, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vfio_user import IoFd
    from vhostuser.fds import OwnedFd

__all__ = ["Doorbells"]


class Doorbells(Closing):
    """The eventfds of one region.

    Args:
        entries: what each does; those that are no plain eventfd are left out.
        fds: taken over.
    """

    def __init__(self, entries: Sequence[IoFd] = (), fds: Sequence[OwnedFd] = ()) -> None:
        self._fds = fds
        eventfds = {at for at, fd in enumerate(fds) if kind_of(fd) is FdKind.EVENTFD}
        self._entries = [
            entry
            for entry in entries
            if entry.type == IoFdType.IOEVENTFD and entry.fd_index in eventfds
        ]

    def find(self, offset: int, width: int, value: int) -> OwnedFd | None:
        """Return a duplicate of the eventfd that does the same as a write, if there is one.

        Raises:
            OSError: the host is out of file descriptors.
        """
        for entry in self._entries:
            any_value = not entry.flags & IOEVENTFD_DATAMATCH
            if (
                entry.offset == offset
                and entry.size in {0, width}
                and (any_value or entry.value == value)
            ):
                return self._fds[entry.fd_index].duplicate()
        return None

    def close(self) -> None:
        """Close the eventfds; duplicates stay."""
        for fd in self._fds:
            fd.close()
