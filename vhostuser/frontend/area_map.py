"""Maps what a back-end offers as a notify area, after every check that can be made beforehand.

Everything here may block: the file may lie on a file system that is slow to answer. Call it in a
thread. Files are mapped by the engine, which survives their being truncated afterwards. Device
memory is mapped as it is: when its owner turns it off, the next store ends this process, as it
would a hypervisor.
"""

from __future__ import annotations

import abc
import ctypes
import errno
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser.errors import RequestError
from vhostuser.fds import Closing, FdKind, kind_of
from vhostuser.native import ffi, lib

if TYPE_CHECKING:
    from vhostuser.fds import OwnedFd

__all__ = ["FileIdentity", "MappedPages", "identify_file", "map_pages"]

_libc = ctypes.CDLL(None)
_VFIO_DEVICE = "anon_inode:[vfio-device]"
_MAPPABLE = "a regular file, a memfd, a VFIO device or another character device"


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Which file a descriptor refers to, whatever its number is.

    Attributes:
        device: number of the file system.
        inode: number of the file on it.
    """

    device: int
    inode: int


def identify_file(fd: OwnedFd) -> FileIdentity:
    """Return which file a descriptor refers to.

    Raises:
        OSError: the host cannot tell.
    """
    status = os.fstat(fd.fileno())
    return FileIdentity(status.st_dev, status.st_ino)


class MappedPages(Closing):
    """Pages that somebody else owns, mapped here for stores.

    Attributes:
        address: of the first byte.
    """

    address: int

    def store(self, value: int) -> None:
        """Store 16 bits at the first byte, at once: a device sees one write of two bytes."""
        ctypes.c_uint16.from_address(self.address).value = value

    @property
    @abc.abstractmethod
    def lost(self) -> bool:
        """Whether the file was truncated meanwhile, and stores reach nobody."""


class _FilePages(MappedPages):
    def __init__(self, fd: OwnedFd, offset: int, size: int) -> None:
        region = ffi.new("struct vhu_region **")
        _check(lib.vhu_region_map(fd.fileno(), 0, 0, size, offset, region))
        memory = ffi.new("struct vhu_mem **")
        code = lib.vhu_mem_create(region, 1, memory)
        # The table of one region keeps it mapped from here on.
        lib.vhu_region_unref(region[0])
        _check(code)
        self._memory = memory[0]
        self._place = ffi.new("uint64_t *")
        self.address = int(ffi.cast("uintptr_t", lib.vhu_mem_gpa_to_hva(self._memory, 0, size)))
        # It is the device's, not this process's: a dump has no business with it.
        _libc.madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(size), mmap.MADV_DONTDUMP)

    @property
    def lost(self) -> bool:
        return bool(lib.vhu_mem_faulted(self._memory, self._place))

    def close(self) -> None:
        memory, self._memory = self._memory, ffi.NULL
        if memory != ffi.NULL:
            lib.vhu_mem_unref(memory)


class _DevicePages(MappedPages):
    def __init__(self, fd: OwnedFd, offset: int, size: int) -> None:
        self._map = mmap.mmap(fd.fileno(), size, mmap.MAP_SHARED, offset=offset)
        self._map.madvise(mmap.MADV_DONTDUMP)
        pointer = ffi.from_buffer("char[]", self._map, require_writable=True)
        self.address = int(ffi.cast("uintptr_t", pointer))
        ffi.release(pointer)

    @property
    def lost(self) -> bool:
        return False

    def close(self) -> None:
        self._map.close()


def map_pages(fd: OwnedFd, offset: int, size: int) -> MappedPages:
    """Map exactly [offset, offset + size) of a file, shared and writable.

    A regular file must be that long. What lies outside a device's regions its driver refuses to
    map: nothing else tells where they end.

    Args:
        fd: stays the caller's, and is not needed afterwards.
        offset: bytes, a multiple of the page size.
        size: bytes, a multiple of the page size.

    Raises:
        RequestError: it cannot be mapped; nothing is.
        OSError: the host cannot say what the descriptor is.
    """
    kind = kind_of(fd)
    if kind is FdKind.FILE:
        end = os.fstat(fd.fileno()).st_size
        if offset + size > end:
            raise RequestError(
                errno.ERANGE,
                f"an area lies inside its file, which ends at {end:#x}",
                field="offset+size",
                value=offset + size,
            )
    elif not _is_device(fd, kind):
        raise RequestError(errno.ENODEV, f"an area is in {_MAPPABLE}", field="fd", value=kind.value)
    make = _FilePages if kind is FdKind.FILE else _DevicePages
    try:
        return make(fd, offset, size)
    except OSError as error:
        number = error.errno or errno.EIO
        raise RequestError(
            number,
            f"an area can be mapped shared and writable: {os.strerror(number)}",
            field="fd",
            value=kind.value,
        ) from error


def _is_device(fd: OwnedFd, kind: FdKind) -> bool:
    if kind is FdKind.OTHER:
        return str(Path(f"/proc/self/fd/{fd.fileno()}").readlink()) == _VFIO_DEVICE
    return kind is FdKind.CHARACTER_DEVICE


def _check(code: int) -> None:
    if code < 0:
        raise OSError(-code, os.strerror(-code))
