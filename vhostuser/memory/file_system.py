"""Which file systems may hold guest memory.

A fault in guest memory is answered by the file system of its file. Where that is a process, its
owner decides when, and a worker that others share would wait for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from vhostuser.fds import OwnedFd

__all__ = ["FUSE", "file_system_of", "require_kernel_memory"]

FUSE = 0x65735546
"""FUSE_SUPER_MAGIC; virtiofs has the same."""

_STATFS_BYTES = 256
"""More than any architecture's struct statfs, which begins with f_type as a long."""

_libc = ctypes.CDLL(None, use_errno=True)


def file_system_of(fd: OwnedFd) -> int:
    """Return the number by which statfs(2) tells the file system of a file.

    Blocks as long as that file system does: call it in a thread.

    Raises:
        OSError: it does not tell.
    """
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(fd.fileno(), found) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_long.from_buffer(found).value


def require_kernel_memory(file_system: int) -> None:
    """Check that no process answers the faults of a file.

    Args:
        file_system: as `file_system_of` tells it.

    Raises:
        RequestError: one does.
    """
    if file_system == FUSE:
        raise RequestError(
            errno.EOPNOTSUPP,
            "guest memory must not be a file of FUSE or virtiofs, whose server could hold up "
            "everybody here: use a memfd (QEMU: memory-backend-memfd,share=on), or a file in "
            "/dev/shm or on hugetlbfs",
            field="fd",
            value="a file of FUSE",
        )
