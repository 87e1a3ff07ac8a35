"""Parts of a region in a file that the server owns, as we map them and as we hand them on."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from accel.pci import MappedArea
from vhostuser.datapath import NotifyArea
from vhostuser.errors import AcceleratorError
from vhostuser.fds import FdKind, kind_of
from vhostuser.native import ffi, lib

if TYPE_CHECKING:
    from vhostuser.fds import OwnedFd

__all__ = ["GuardedArea", "share"]

_ALIGNMENT = 4096
_LONGEST_FILE = (1 << 63) - 1
_WIDTHS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


class GuardedArea(MappedArea):
    """A mapped area that outlives its file: when the server cuts that short, stores go nowhere.

    The engine's guard does that; an ordinary mapping would end this process by SIGBUS.

    Args:
        fd: the file; stays the caller's.
        file_offset: where the area begins in it, bytes; need not be aligned.
        size: bytes.

    Raises:
        AcceleratorError: it cannot be mapped; the text says why.
    """

    def __init__(self, fd: OwnedFd, file_offset: int, size: int) -> None:
        if file_offset + size > _LONGEST_FILE:
            raise _beyond_end(file_offset, size)
        inset = file_offset % _ALIGNMENT
        ret = ffi.new("struct vhu_region **")
        code = lib.vhu_region_map(fd.fileno(), 0, 0, inset + size, file_offset - inset, ret)
        if code == -errno.ERANGE:
            raise _beyond_end(file_offset, size)
        if code < 0:
            raise AcceleratorError(
                f"a region's file cannot be mapped: {os.strerror(-code)}; it is a "
                f"{kind_of(fd).value}",
                -code,
            )
        self._region = ret[0]
        self._first = int(ffi.cast("uintptr_t", lib.vhu_region_hva(self._region))) + inset
        self._size = size
        self._closed = False

    def _place(self, offset: int, width: int) -> ctypes._SimpleCData[int]:
        if self._closed or not 0 <= offset <= self._size - width or offset % width:
            raise ValueError(f"no {width} bytes at {offset:#x} of this area")
        return _WIDTHS[width].from_address(self._first + offset)

    def close(self) -> None:
        """Unmap it; no address of it may be used any more."""
        if not self._closed:
            self._closed = True
            lib.vhu_region_unref(self._region)


def share(fd: OwnedFd, file_offset: int, size: int) -> NotifyArea:
    """Return part of a file as another process can map it.

    Args:
        fd: the file; stays the caller's.
        file_offset: where the part begins in it, bytes.
        size: bytes.

    Raises:
        AcceleratorError: it cannot be shared, in words.
        OSError: the host is out of file descriptors.
    """
    kind = kind_of(fd)
    if kind is not FdKind.FILE:
        raise AcceleratorError(
            f"the server shares the region by a {kind.value}; only a file or memfd is handed on"
        )
    # Whoever maps it dies by SIGBUS when it is shorter, or gets shorter: a seal holds where it can.
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    if os.fstat(fd.fileno()).st_size < file_offset + size:
        raise _beyond_end(file_offset, size)
    return NotifyArea(fd=fd.duplicate(), offset=file_offset, size=size)


def _beyond_end(file_offset: int, size: int) -> AcceleratorError:
    return AcceleratorError(
        f"the server announces {size:#x} bytes at {file_offset:#x} of a region's file, which ends "
        "before that",
        errno.ERANGE,
    )
