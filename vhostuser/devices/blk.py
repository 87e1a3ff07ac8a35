"""The block device: a disk image, a block device, memory or nothing, served as virtio-blk.

The store and the configuration are set up here; requests are served by the engine and never pass
through Python. Specification: VIRTIO 1.2, section 5.2.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import BlkConfig, BlkFeatures, VirtioFeatures
from vhostuser.datapath import SoftwareDatapath
from vhostuser.devices.base import DeviceProfile
from vhostuser.errors import StoreError, WorkerStuckError
from vhostuser.fds import FdKind, OwnedFd, kind_of
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from vhostuser.native import Pointer

__all__ = [
    "SERIAL_BYTES",
    "BlkDevice",
    "BlkOptions",
    "Store",
    "memory_store",
    "null_store",
    "open_store",
]

_log = logging.getLogger(__name__)

SECTOR = 512
SERIAL_BYTES = 20
"""Longest serial number."""
_SEG_MAX = 126
"""Data buffers a request may have: what fits a ring of 128 with header and status."""
_MAX_DISCARD_SECTORS = 1 << 22
_MAX_DISCARD_SEGMENTS = 16
_MAX_WRITE_ZEROES_SECTORS = 1 << 18
_MAX_WRITE_ZEROES_SEGMENTS = 1
"""Bound how long one request keeps a worker, also where zeroes must be written one by one."""
_BLKSSZGET = 0x1268
_BLKGETSIZE64 = 0x80081272
_PAGE = mmap.PAGESIZE

_FEATURES = (
    VirtioFeatures.VERSION_1
    | VirtioFeatures.RING_PACKED
    | VirtioFeatures.INDIRECT_DESC
    | VirtioFeatures.EVENT_IDX
    | VirtioFeatures.IN_ORDER
    | VirtioFeatures.PROTOCOL_FEATURES
)
_BLK_FEATURES = (
    BlkFeatures.SEG_MAX
    | BlkFeatures.BLK_SIZE
    | BlkFeatures.FLUSH
    | BlkFeatures.MQ
    | BlkFeatures.DISCARD
    | BlkFeatures.WRITE_ZEROES
)
_PROTOCOL_FEATURES = (
    ProtocolFeatures.MQ
    | ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.BACKEND_REQ
    | ProtocolFeatures.CONFIG
    | ProtocolFeatures.RESET_DEVICE
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
    | ProtocolFeatures.STATUS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What holds a disk's data.

    Attributes:
        fd: the open image; None for the null store.
        buffered_fd: the same file through the page cache, when `fd` bypasses it.
        size: in bytes, a multiple of 512.
        alignment: in bytes, what `fd` demands of addresses, offsets and lengths; 1 for nothing.
        read_only: whether writes are refused.
    """

    fd: OwnedFd | None
    buffered_fd: OwnedFd | None = None
    size: int
    alignment: int = 1
    read_only: bool = False

    def close(self) -> None:
        """Close what was not handed over."""
        for fd in (self.fd, self.buffered_fd):
            if fd is not None:
                fd.close()


def null_store(size: int, *, read_only: bool = False) -> Store:
    """Make a store that completes every request and transfers nothing.

    Args:
        size: in bytes; rounded down to whole sectors.
        read_only: refuse writes.
    """
    return Store(fd=None, size=size - size % SECTOR, read_only=read_only)


def memory_store(size: int, *, read_only: bool = False) -> Store:
    """Make a store of zeroed memory that lives as long as the process.

    Args:
        size: in bytes; rounded down to whole sectors.
        read_only: refuse writes.

    Raises:
        StoreError: the host has not that much.
    """
    size -= size % SECTOR
    fd = OwnedFd(os.memfd_create("vhostuser-disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.truncate(fd.fileno(), size)
        seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd.fileno(), fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        fd.close()
        raise StoreError(error.errno, f"cannot make a disk of {size} bytes in memory") from error
    return Store(fd=fd, size=size, read_only=read_only)


def open_store(path: Path, *, read_only: bool = False, direct: bool = False) -> Store:
    """Open a disk image or block device.

    Args:
        path: a regular file or a block device.
        read_only: open it for reading only, and refuse writes.
        direct: bypass the page cache (O_DIRECT) where alignment allows.

    Raises:
        StoreError: it cannot be opened or is no disk; the text says why.
    """
    with contextlib.ExitStack() as stack:
        flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
        buffered = stack.enter_context(_open(path, flags))
        kind = kind_of(buffered)
        if kind not in {FdKind.FILE, FdKind.BLOCK_DEVICE}:
            raise StoreError(
                errno.ENOTSUP,
                f"{path} is a {kind.value}: a disk is a regular file or a block device",
            )
        size = _size(buffered, kind)
        if size < SECTOR:
            raise StoreError(errno.EINVAL, f"{path} has {size} bytes: a disk has at least {SECTOR}")
        if rest := size % SECTOR:
            _log.warning(
                "%s ends within a sector: its last %d bytes are not part of the disk", path, rest
            )
        if not direct:
            fd, second, alignment = OwnedFd(buffered.detach()), None, 1
        else:
            fd = stack.enter_context(_open(path, flags | os.O_DIRECT))
            alignment = _direct_alignment(fd, kind)
            fd, second = OwnedFd(fd.detach()), OwnedFd(buffered.detach())
    return Store(
        fd=fd,
        buffered_fd=second,
        size=size - size % SECTOR,
        alignment=alignment,
        read_only=read_only,
    )


def _open(path: Path, flags: int) -> OwnedFd:
    try:
        # Non-blocking, so that opening a FIFO cannot hang; it means nothing for files and disks.
        return OwnedFd(os.open(path, flags | os.O_NONBLOCK))
    except OSError as error:
        hint = ""
        denied = error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}
        if denied and flags & os.O_RDWR and os.access(path, os.R_OK):
            hint = "; it can be read, so --read-only would serve it"
        if error.errno == errno.EINVAL and flags & os.O_DIRECT:
            hint = "; its file system does not know O_DIRECT, leave out --direct"
        raise StoreError(error.errno, f"cannot open {path}: {error.strerror}{hint}") from error


def _size(fd: OwnedFd, kind: FdKind) -> int:
    if kind is FdKind.FILE:
        return os.fstat(fd.fileno()).st_size
    raw = fcntl.ioctl(fd.fileno(), _BLKGETSIZE64, bytes(8))
    return int(struct.unpack("Q", raw)[0])


def _direct_alignment(fd: OwnedFd, kind: FdKind) -> int:
    """Find what direct I/O demands: the smaller of sector and page that a read succeeds with."""
    if kind is FdKind.BLOCK_DEVICE:
        raw = fcntl.ioctl(fd.fileno(), _BLKSSZGET, bytes(4))
        return int(struct.unpack("i", raw)[0])
    with mmap.mmap(-1, 2 * _PAGE) as page, memoryview(page) as view:
        try:
            os.preadv(fd.fileno(), [view[SECTOR : 2 * SECTOR]], 0)
        except OSError:
            return _PAGE
        return SECTOR


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkOptions:
    """How a disk is served.

    Attributes:
        queues: number of request queues.
        queue_size: largest ring size accepted, in descriptors.
        serial: what GET_ID returns, at most 20 bytes of ASCII.
        workers: engine threads.
        poll_us: longest time to poll an idle ring before sleeping, in microseconds.
        busy_poll: never sleep; each worker keeps a processor busy.
    """

    queues: int = 1
    queue_size: int = 1024
    serial: str = ""
    workers: int = 1
    poll_us: int = 50
    busy_poll: bool = False


class BlkDevice:
    """A disk. Make it with `async with BlkDevice.open(store, options)`.

    Args:
        profile: what it offers.
        config: its configuration space.
        datapath: what serves its rings.
        store: what it holds.
    """

    def __init__(
        self, profile: DeviceProfile, config: bytes, datapath: SoftwareDatapath, store: Store
    ) -> None:
        self.profile = profile
        self.datapath = datapath
        self.store = store
        self._config = config

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store: Store, options: BlkOptions) -> AsyncIterator[BlkDevice]:
        """Serve `store` for the length of the block; it is closed at the end.

        Args:
            store: taken over.
            options: how to serve it.

        Raises:
            OSError: the host is out of threads, memory or file descriptors.
        """
        native = _create_native(store, options)
        with contextlib.ExitStack() as stack:
            stack.callback(lib.vhu_blk_destroy, native)
            try:
                async with SoftwareDatapath.open(
                    native,
                    queues=options.queues,
                    workers=options.workers,
                    poll_us=options.poll_us,
                    busy_poll=options.busy_poll,
                ) as datapath:
                    yield cls(_profile(store, options), _config(store, options), datapath, store)
            except WorkerStuckError:
                stack.pop_all()  # the thread still uses the store
                raise

    def read_config(self, offset: int, size: int) -> bytes:
        """Return part of the configuration space; zeros beyond its end. See `Device`."""
        return self._config[offset : offset + size].ljust(size, b"\0")


def _profile(store: Store, options: BlkOptions) -> DeviceProfile:
    features = int(_FEATURES) | int(_BLK_FEATURES)
    if store.read_only:
        features |= int(BlkFeatures.RO)
        features &= ~int(BlkFeatures.DISCARD | BlkFeatures.WRITE_ZEROES)
    return DeviceProfile(
        kind="block",
        queues=options.queues,
        queue_size=options.queue_size,
        features=VirtioFeatures(features),
        protocol_features=_PROTOCOL_FEATURES,
    )


def _config(store: Store, options: BlkOptions) -> bytes:
    config = BlkConfig(
        capacity=store.size // SECTOR,
        seg_max=_SEG_MAX,
        blk_size=max(SECTOR, store.alignment),
        num_queues=options.queues,
        max_discard_sectors=_MAX_DISCARD_SECTORS,
        max_discard_seg=_MAX_DISCARD_SEGMENTS,
        discard_sector_alignment=max(SECTOR, store.alignment) // SECTOR,
        max_write_zeroes_sectors=_MAX_WRITE_ZEROES_SECTORS,
        max_write_zeroes_seg=_MAX_WRITE_ZEROES_SEGMENTS,
        write_zeroes_may_unmap=1,
    )
    return bytes(config)


def _create_native(store: Store, options: BlkOptions) -> Pointer:
    serial = options.serial.encode("ascii", "replace")[:SERIAL_BYTES]
    config = ffi.new("struct vhu_blk_config *")
    config.alignment = store.alignment
    config.sectors = store.size // SECTOR
    config.seg_max = _SEG_MAX
    config.max_discard_sectors = _MAX_DISCARD_SECTORS
    config.max_discard_segments = _MAX_DISCARD_SEGMENTS
    config.max_write_zeroes_sectors = _MAX_WRITE_ZEROES_SECTORS
    config.max_write_zeroes_segments = _MAX_WRITE_ZEROES_SEGMENTS
    config.read_only = store.read_only
    ffi.memmove(config.serial, serial, len(serial))
    config.fd = -1 if store.fd is None else store.fd.detach()
    config.buffered_fd = -1 if store.buffered_fd is None else store.buffered_fd.detach()
    ret = ffi.new("struct vhu_blk **")
    check(lib.vhu_blk_create(config, ret), "create the disk")
    return ret[0]
