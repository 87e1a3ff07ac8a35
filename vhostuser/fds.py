"""Owned file descriptors: taken once, closed once, handed over explicitly.

Everything that arrives from a peer is wrapped in an `OwnedFd` at once, so that no bare number
travels through the code and every error path can simply close what it holds. Nothing here reads or
writes.
"""

from __future__ import annotations

import abc
import enum
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Closing", "FdKind", "OwnedFd", "kind_of"]

_CLOSED = -1


class Closing(abc.ABC):
    """Something that is closed at the end of a `with` block."""

    __slots__ = ()

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what is held; a second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class OwnedFd(Closing):
    """One open file descriptor with exactly one owner.

    Args:
        fd: the descriptor's number; this object owns it from now on.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = _CLOSED
        if fd < 0:
            msg = f"a file descriptor is 0 or more, not {fd}"
            raise ValueError(msg)
        self._fd = fd

    @property
    def closed(self) -> bool:
        """Whether the descriptor was closed or handed over."""
        return self._fd == _CLOSED

    def fileno(self) -> int:
        """Return the number, which stays owned by this object.

        Raises:
            ValueError: it was closed or handed over.
        """
        if self._fd == _CLOSED:
            msg = "this file descriptor was closed or handed over"
            raise ValueError(msg)
        return self._fd

    def detach(self) -> int:
        """Hand the descriptor over: return its number and own it no longer.

        Raises:
            ValueError: it was closed or handed over before.
        """
        fd = self.fileno()
        self._fd = _CLOSED
        return fd

    def duplicate(self) -> OwnedFd:
        """Return a second descriptor of the same open file, close-on-exec.

        Raises:
            OSError: no descriptor is free.
        """
        return OwnedFd(os.dup(self.fileno()))

    def close(self) -> None:
        """Close the descriptor; nothing happens when it was closed or handed over before."""
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            os.close(fd)

    def __del__(self) -> None:
        if self._fd != _CLOSED:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=1)
            self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({'closed' if self.closed else self._fd})"


class FdKind(enum.Enum):
    """What a descriptor refers to, as far as the protocol tells them apart."""

    EVENTFD = "eventfd"
    PIPE = "pipe"
    SOCKET = "socket"
    FILE = "regular file"
    DIRECTORY = "directory"
    BLOCK_DEVICE = "block device"
    CHARACTER_DEVICE = "character device"
    OTHER = "other"


_BY_FORMAT = {
    stat.S_IFIFO: FdKind.PIPE,
    stat.S_IFSOCK: FdKind.SOCKET,
    stat.S_IFREG: FdKind.FILE,
    stat.S_IFDIR: FdKind.DIRECTORY,
    stat.S_IFBLK: FdKind.BLOCK_DEVICE,
    stat.S_IFCHR: FdKind.CHARACTER_DEVICE,
}


def kind_of(fd: OwnedFd | int) -> FdKind:
    """Tell what kind of file a descriptor refers to.

    Args:
        fd: the descriptor, which stays the caller's.

    Raises:
        OSError: the descriptor is not open.
    """
    number = fd if isinstance(fd, int) else fd.fileno()
    found = _BY_FORMAT.get(stat.S_IFMT(os.fstat(number).st_mode))
    if found is not None:
        return found
    # An eventfd is an anonymous inode without a file type: its name is all that tells it apart.
    name = str(Path(f"/proc/self/fd/{number}").readlink())
    return FdKind.EVENTFD if name == "anon_inode:[eventfd]" else FdKind.OTHER
