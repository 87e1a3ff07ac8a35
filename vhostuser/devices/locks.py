"""Locks that keep two users of one image apart, on the same bytes that QEMU locks.

A user says by shared locks what it does with the image (byte 100 + number of the permission) and
what it does not let others do (byte 200 + number); then it looks whether anybody does what it does
not allow, or does not allow what it does. Of two who come at once, both may be turned away, but
never do both get in. The locks belong to an open file description, so that a second disk of this
process meets them, too, and they end with it, however the process ends.

Nothing here opens or closes a file. The scheme is QEMU's (block/file-posix.c); it has no
specification.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhostuser.fds import OwnedFd

__all__ = ["ImageLock", "Permission"]

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock: type, whence, start, length, process."""
_DOES = 100
_FORBIDS = 200
_IN_USE = {errno.EAGAIN, errno.EACCES}


class Permission(enum.Enum):
    """What a user of an image does; the numbers are QEMU's bits."""

    READ = 0
    WRITE = 1
    WRITE_UNCHANGED = 2
    RESIZE = 3


_NAMES = {
    Permission.READ: "read",
    Permission.WRITE: "write",
    Permission.WRITE_UNCHANGED: "rewrite",
    Permission.RESIZE: "resize",
}
_FORBIDDEN = (Permission.WRITE, Permission.RESIZE)
"""What no disk lets others do: the guest believes that its data and its size are its own."""


class ImageLock:
    """The locks of one disk on its image.

    Args:
        fd: the image; the locks last as long as its open file description. It stays the caller's.
        path: for messages.
    """

    def __init__(self, fd: OwnedFd, path: Path) -> None:
        self._fd = fd
        self._path = path

    def acquire(self, *, read_only: bool) -> None:
        """Take the locks of a disk that is served.

        Args:
            read_only: others may read it as well.

        Raises:
            StoreError: somebody else uses the image, or it cannot be locked.
        """
        does = (Permission.READ,) if read_only else (Permission.READ, Permission.WRITE)
        self._take(does, _FORBIDDEN)

    @contextlib.contextmanager
    def resizing(self) -> Iterator[None]:
        """Hold the lock of a resize for the length of the block. Raises as `acquire`."""
        try:
            self._take((Permission.RESIZE,), ())
            yield
        finally:
            self._set(_DOES, Permission.RESIZE, fcntl.F_UNLCK)

    def _take(self, does: tuple[Permission, ...], forbids: tuple[Permission, ...]) -> None:
        for permission in does:
            self._set(_DOES, permission, fcntl.F_RDLCK)
        for permission in forbids:
            self._set(_FORBIDS, permission, fcntl.F_RDLCK)
        for permission in does:
            if self._is_held(_FORBIDS, permission):
                how = f"does not let others {_NAMES[permission]} it"
                raise self._in_use(_FORBIDS, permission, how)
        for permission in forbids:
            if self._is_held(_DOES, permission):
                raise self._in_use(_DOES, permission, f"holds its {_NAMES[permission]} lock")

    def _set(self, base: int, permission: Permission, kind: int) -> None:
        try:
            self._fcntl(fcntl.F_OFD_SETLK, base, permission, kind)
        except OSError as error:
            if error.errno in _IN_USE:
                raise self._in_use(base, permission, "has locked it") from error
            raise StoreError(
                error.errno,
                f"cannot lock {self._path}: {error.strerror}; if its file system knows no locks, "
                "--no-locking serves it without",
            ) from error

    def _is_held(self, base: int, permission: Permission) -> bool:
        """Whether anybody but this disk has locked a byte."""
        answer = self._fcntl(fcntl.F_OFD_GETLK, base, permission, fcntl.F_WRLCK)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _fcntl(self, command: int, base: int, permission: Permission, kind: int) -> bytes:
        lock = _FLOCK.pack(kind, os.SEEK_SET, base + permission.value, 1, 0)
        answer = fcntl.fcntl(self._fd.fileno(), command, lock)
        assert isinstance(answer, bytes)  # as the argument was
        return answer

    def _in_use(self, base: int, permission: Permission, how: str) -> StoreError:
        inode = os.fstat(self._fd.fileno()).st_ino
        who = _holder(inode, base + permission.value, self._fd.fileno())
        return StoreError(
            errno.EBUSY,
            f"{self._path} is in use: {who} {how}; end that first, or serve it with --read-only "
            "at both places (--no-locking looks away)",
        )


def _holder(inode: int, byte: int, ours: int) -> str:
    """Name who has locked a byte of a file, as far as this process may look at others.

    The kernel does not say it of these locks, but shows each with the descriptors it came by.
    """
    for info in Path("/proc").glob("[0-9]*/fdinfo/*"):
        process = info.parts[2]
        mine = process == str(os.getpid())
        if mine and info.name == str(ours):
            continue
        try:
            locks = [line.split() for line in info.read_text().splitlines() if "OFDLCK" in line]
            if any(_is_of(lock, inode, byte) for lock in locks):
                name = info.parents[1].joinpath("comm").read_text().strip()
                return "another disk of this process" if mine else f"process {process} ({name})"
        except OSError:  # it ended, or is not ours to look at
            continue
    return "another process, or another disk of this one,"


def _is_of(lock: list[str], inode: int, byte: int) -> bool:
    """Whether a line of fdinfo is of a lock on this byte; the last three words say where it is."""
    place, start, end = lock[-3:]
    last = byte if end == "EOF" else int(end)
    return place.endswith(f":{inode}") and int(start) <= byte <= last
