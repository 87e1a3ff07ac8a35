"""What holds a disk's data: an image file, a block device of the host, memory or nothing.

Stores are opened, measured and grown here; requests are served by the engine, which is given the
file descriptors. Who may use an image beside us is the business of `vhostuser.devices.locks` and
`vhostuser.devices.block_device`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from vhostuser.devices.block_device import (
    SECTOR,
    BlockSizes,
    block_device_size,
    block_device_sizes,
    claim,
)
from vhostuser.devices.locks import ImageLock
from vhostuser.errors import StoreError
from vhostuser.fds import FdKind, OwnedFd, kind_of

__all__ = ["SECTOR", "Store", "memory_store", "null_store", "open_store"]

_log = logging.getLogger(__name__)

_PAGE = mmap.PAGESIZE
_LARGEST = (1 << 63) - SECTOR
"""Bytes; file offsets are signed."""
_LARGEST_PHYSICAL = 4096
_FORMATS = {b"QFI\xfb": "qcow2", b"QED\0": "QED", b"KDMV": "VMDK", b"vhdxfile": "VHDX"}
"""First bytes of images that are no disks themselves but have one inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What holds a disk's data.

    Attributes:
        fd: the open image, for the engine; None for the null store.
        buffered_fd: the same file through the page cache, when `fd` bypasses it.
        image: the same file once more, to lock, measure and grow it; None for the null store.
        path: where the image lies, or what to call it.
        kind: a regular file, a block device, or OTHER for what has no place on the host.
        size: in bytes, a multiple of 512.
        alignment: in bytes, what `fd` demands of addresses, offsets and lengths; 1 for nothing.
        read_only: whether writes are refused.
        blocks: in which pieces it is best used.
        locked: whether other users of the image are kept out.
    """

    fd: OwnedFd | None
    buffered_fd: OwnedFd | None = None
    image: OwnedFd | None = None
    path: Path = Path("the disk")
    kind: FdKind = FdKind.OTHER
    size: int
    alignment: int = 1
    read_only: bool = False
    blocks: BlockSizes = field(default_factory=BlockSizes)
    locked: bool = False

    def close(self) -> None:
        """Close what was not handed over; the locks end with it."""
        for fd in (self.fd, self.buffered_fd, self.image):
            if fd is not None:
                fd.close()

    def abandon(self) -> None:
        """Leave everything open until the process ends: a thread may still use it."""
        if self.image is not None:
            self.image.detach()

    def resize(self, size: int | None) -> Store:
        """Grow the image, or look how large it is now. Blocks as long as the host does.

        Args:
            size: in bytes, what it shall have; None: what it has, if others changed it.

        Returns:
            This store with its new size.

        Raises:
            StoreError: it cannot have this size; nothing has changed.
        """
        if size is not None and not SECTOR <= size <= _LARGEST:
            raise StoreError(
                errno.EINVAL, f"a disk has {SECTOR} to {_LARGEST} bytes, it cannot have {size}"
            )
        if self.image is None:  # it holds no data that could be lost
            return replace(self, size=_whole(self.size if size is None else size))
        actual = _size(self.image, self.kind)
        if size is not None:
            self._require_growth(size, actual)
            if size > actual:
                self._grow(self.image, size)
            actual = size
        if actual < SECTOR:
            raise StoreError(
                errno.EINVAL,
                f"{self.path} has {actual} bytes now: the disk keeps its {self.size}, and what "
                "lies beyond the end of the file cannot be read; make it longer again",
            )
        return replace(self, size=_whole(actual))

    def _require_growth(self, size: int, actual: int) -> None:
        if self.kind is FdKind.BLOCK_DEVICE and size != actual:
            raise StoreError(
                errno.ENOTSUP,
                f"{self.path} is a block device of {actual} bytes: change it with the tool that "
                "made it (lvextend, for example), then resize without a size",
            )
        if size < self.size:
            raise StoreError(
                errno.EINVAL,
                f"{self.path} has {self.size} bytes: cut off at {size} it would lose data; if "
                "that is meant, shorten the image with its own tool, then resize without a size",
            )
        if self.read_only and size > actual:
            raise StoreError(
                errno.EROFS,
                f"{self.path} is served read-only: grow it elsewhere, then resize without a size",
            )

    def _grow(self, image: OwnedFd, size: int) -> None:
        lock = ImageLock(image, self.path).resizing() if self.locked else contextlib.nullcontext()
        with lock:
            try:
                os.ftruncate(image.fileno(), size)
            except OSError as error:
                raise StoreError(
                    error.errno, f"cannot grow {self.path} to {size} bytes: {error.strerror}"
                ) from error


def null_store(size: int, *, read_only: bool = False) -> Store:
    """Make a store that completes every request and transfers nothing.

    Args:
        size: in bytes; rounded down to whole sectors.
        read_only: refuse writes.
    """
    return Store(fd=None, size=_whole(size), read_only=read_only)


def memory_store(size: int, *, read_only: bool = False) -> Store:
    """Make a store of zeroed memory that lives as long as the process. It can grow.

    Args:
        size: in bytes; rounded down to whole sectors.
        read_only: refuse writes.

    Raises:
        StoreError: the host has not that much.
    """
    size = _whole(size)
    fd = OwnedFd(os.memfd_create("vhostuser-disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.truncate(fd.fileno(), size)
        fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        image = fd.duplicate()
    except OSError as error:
        fd.close()
        raise StoreError(error.errno, f"cannot make a disk of {size} bytes in memory") from error
    blocks = BlockSizes(physical=_PAGE, discard=_PAGE)
    return Store(fd=fd, image=image, size=size, read_only=read_only, blocks=blocks)


def open_store(
    path: Path, *, read_only: bool = False, direct: bool = False, locking: bool = True
) -> Store:
    """Open a disk image or block device.

    Args:
        path: a regular file or a block device that the host does not use itself.
        read_only: open it for reading only, and refuse writes.
        direct: bypass the page cache (O_DIRECT) where alignment allows.
        locking: keep other users of the image out, as QEMU does.

    Raises:
        StoreError: it cannot be opened, is no disk, or is in use; the text says why.
    """
    flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
    with contextlib.ExitStack() as stack:
        kind, fd = _open(path, flags)
        buffered = stack.enter_context(fd)
        if kind is FdKind.BLOCK_DEVICE:
            image = stack.enter_context(claim(buffered, path, read_only=read_only))
        else:
            image = stack.enter_context(_reopen(buffered, path, flags))
        if locking:
            ImageLock(image, path).acquire(read_only=read_only)
        size = _checked_size(image, kind, path)
        _note_format(image, path)
        blocks = _block_sizes(image, kind)
        alignment = 1
        if direct:
            fd = stack.enter_context(_reopen(buffered, path, flags | os.O_DIRECT))
            alignment = blocks.logical if kind is FdKind.BLOCK_DEVICE else _alignment(fd)
            blocks = replace(blocks, physical=max(blocks.physical, alignment))
        # Only opening must not block: the engine's requests may wait for the store.
        os.set_blocking(buffered.fileno(), True)
        stack.pop_all()
    return Store(
        fd=fd,
        buffered_fd=buffered if direct else None,
        image=image,
        path=path,
        kind=kind,
        size=_whole(size),
        alignment=alignment,
        read_only=read_only,
        blocks=blocks,
        locked=locking,
    )


def _open(path: Path, flags: int) -> tuple[FdKind, OwnedFd]:
    """Open a disk, never anything else: a watchdog starts, a tape rewinds when it is opened."""
    try:
        with OwnedFd(os.open(path, os.O_PATH | os.O_CLOEXEC)) as place:
            kind = _require_disk(place, path)
            # Non-blocking: neither another program's lease nor an absent medium is waited for.
            same = f"/proc/self/fd/{place.fileno()}"
            return kind, OwnedFd(os.open(same, flags | os.O_NONBLOCK))
    except StoreError:
        raise
    except OSError as error:
        hint = ""
        denied = error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}
        if denied and flags & os.O_RDWR and os.access(path, os.R_OK):
            hint = "; it can be read, so --read-only would serve it"
        raise StoreError(error.errno, f"cannot open {path}: {error.strerror}{hint}") from error


def _require_disk(fd: OwnedFd, path: Path) -> FdKind:
    kind = kind_of(fd)
    if kind not in {FdKind.FILE, FdKind.BLOCK_DEVICE}:
        raise StoreError(
            errno.ENOTSUP,
            f"{path} is a {kind.value}: a disk is a regular file or a block device",
        )
    return kind


def _reopen(fd: OwnedFd, path: Path, flags: int) -> OwnedFd:
    """Open the same file again, whatever its path leads to by now."""
    try:
        return OwnedFd(os.open(f"/proc/self/fd/{fd.fileno()}", flags))
    except OSError as error:
        hint = ""
        if error.errno == errno.EINVAL and flags & os.O_DIRECT:
            hint = "; its file system does not know O_DIRECT, leave out --direct"
        raise StoreError(error.errno, f"cannot open {path}: {error.strerror}{hint}") from error


def _checked_size(fd: OwnedFd, kind: FdKind, path: Path) -> int:
    size = _size(fd, kind)
    if size < SECTOR:
        raise StoreError(errno.EINVAL, f"{path} has {size} bytes: a disk has at least {SECTOR}")
    if rest := size % SECTOR:
        _log.warning(
            "%s ends within a sector: its last %d bytes are not part of the disk", path, rest
        )
    return size


def _note_format(fd: OwnedFd, path: Path) -> None:
    """Warn of an image that holds a disk in a format of its own: a guest would destroy it.

    No more than a warning: a guest may have written these bytes to its raw disk.
    """
    start = b""
    with contextlib.suppress(OSError):  # the guest will be told
        start = os.pread(fd.fileno(), max(map(len, _FORMATS)), 0)
    for magic, name in _FORMATS.items():
        if start.startswith(magic):
            _log.warning(
                "%s looks like a %s image, but every byte of it is served as it is: end this and "
                "convert it first (qemu-img convert -O raw)",
                path,
                name,
            )


def _size(fd: OwnedFd, kind: FdKind) -> int:
    if kind is FdKind.BLOCK_DEVICE:
        return block_device_size(fd)
    return os.fstat(fd.fileno()).st_size


def _whole(size: int) -> int:
    return size - size % SECTOR


def _block_sizes(fd: OwnedFd, kind: FdKind) -> BlockSizes:
    """Find out in which pieces a store is best used.

    A file's logical blocks have 512 bytes on every host, so that the partition table in it means
    the same everywhere; its physical ones are those of the file system that holds it.
    """
    if kind is FdKind.BLOCK_DEVICE:
        return block_device_sizes(fd)
    preferred = os.fstat(fd.fileno()).st_blksize
    physical = min(max(preferred, SECTOR), _LARGEST_PHYSICAL)
    if physical & (physical - 1):
        physical = SECTOR
    return BlockSizes(physical=physical, minimum=physical, discard=physical)


def _alignment(fd: OwnedFd) -> int:
    """Find what direct I/O demands: the smaller of sector and page that a read succeeds with."""
    with mmap.mmap(-1, 2 * _PAGE) as page, memoryview(page) as view:
        try:
            os.preadv(fd.fileno(), [view[SECTOR : 2 * SECTOR]], 0)
        except OSError:
            return _PAGE
        return SECTOR
