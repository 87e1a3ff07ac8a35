"""The block device: a store served as a virtio disk by the engine.

What it says of itself is in `vhostuser.devices.blk_profile`, what holds its data in
`vhostuser.devices.store`; requests never pass through Python. Specification: VIRTIO 1.2, section
5.2.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from protocol.virtio import BLK_SECTOR_SIZE, BLK_WRITEBACK_OFFSET, BlkFeatures
from vhostuser.datapath import SoftwareDatapath, WorkerOptions
from vhostuser.devices.blk_profile import (
    LIMITS,
    SERIAL_BYTES,
    blk_config,
    blk_profile,
    disk_blocks,
    disk_sectors,
)
from vhostuser.errors import RequestError, StoreError, WorkerStuckError
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from protocol.virtio import VirtioFeatures
    from vhostuser.devices.blk_profile import BlkOptions
    from vhostuser.devices.store import Store
    from vhostuser.native import Pointer

__all__ = ["BlkDevice"]


class BlkDevice:
    """A disk. Make it with `async with BlkDevice.open(store, options)`.

    Args:
        store: what holds its data.
        options: how it is served.
        native: the engine's `struct vhu_blk` of this store.
        datapath: what serves its rings.

    Attributes:
        profile: what it offers.
        store: what holds its data, with the size of today in whole blocks.
    """

    def __init__(
        self, store: Store, options: BlkOptions, native: Pointer, datapath: SoftwareDatapath
    ) -> None:
        self.profile = blk_profile(store, options)
        self.datapath = datapath
        self._options = options
        self._native = native
        self._blocks = disk_blocks(store, options)
        self.store = self._in_blocks(store)
        self._features = BlkFeatures(0)
        self._cached = True
        self._resizing = trio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, store: Store, options: BlkOptions) -> AsyncIterator[BlkDevice]:
        """Serve `store` for the length of the block; it is closed at the end.

        Args:
            store: taken over.
            options: how to serve it.

        Raises:
            StoreError: it has not one block.
            OSError: the host is out of threads, memory or file descriptors.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(store.close)
            native = _create_native(store, options)
            stack.callback(lib.vhu_blk_destroy, native)
            try:
                workers = WorkerOptions(
                    count=options.workers,
                    poll_us=options.poll_us,
                    busy_poll=options.busy_poll,
                    io=options.io,
                )
                async with SoftwareDatapath.open(
                    functools.partial(_create_queue, native),
                    queues=options.queues,
                    workers=workers,
                ) as datapath:
                    yield cls(store, options, native, datapath)
            except WorkerStuckError:
                stack.pop_all()  # the thread still uses the store
                store.abandon()
                raise

    def _in_blocks(self, store: Store) -> Store:
        """Leave away what is no whole block."""
        size = disk_sectors(store.size, self._blocks) * BLK_SECTOR_SIZE
        if size == 0:
            raise StoreError(
                errno.EINVAL,
                f"{store.path} has {store.size} bytes: not one block of {self._blocks.logical}",
            )
        return replace(store, size=size)

    @property
    def writeback(self) -> bool:
        """Whether the configuration space has the write cache on: who relies on data flushes.

        The driver's choice outlives resets and sessions. QEMU tells us of it once, shows it to its
        guest from then on and says nothing when it connects again: a cache that came back by itself
        would hold data that no guest flushes. A driver that chooses, but cannot flush, begins
        without a cache (VIRTIO 1.2, 5.2.5.2).
        """
        can_choose = BlkFeatures.CONFIG_WCE in self._features
        return self._cached and (not can_choose or BlkFeatures.FLUSH in self._features)

    def use_features(self, features: VirtioFeatures) -> None:
        """Learn what the driver has accepted. See `Device`."""
        self._features = BlkFeatures(int(features))
        self._use_writeback()

    def _use_writeback(self) -> None:
        """Tell the engine, which knows by itself of drivers that cannot flush."""
        # Whoever does not know the field flushes; before features came, it may still be known.
        unknown = bool(self._features) and BlkFeatures.CONFIG_WCE not in self._features
        lib.vhu_blk_set_writeback(self._native, self.writeback or unknown)

    @property
    def size(self) -> int:
        """Capacity in bytes, as front-ends see it."""
        return self.store.size

    async def read_config(self, offset: int, size: int) -> bytes:
        """Return part of the configuration space; zeros beyond its end. See `Device`."""
        await trio.lowlevel.checkpoint()
        return self._config(offset, size)

    def _config(self, offset: int, size: int) -> bytes:
        config = blk_config(
            self.store.size // BLK_SECTOR_SIZE,
            self._blocks,
            queues=self._options.queues,
            writeback=self.writeback,
        )
        return bytes(config)[offset : offset + size].ljust(size, b"\0")

    async def write_config(self, offset: int, data: bytes, *, migration: bool) -> None:
        """Switch the write cache: no other field can be written. See `Device`."""
        await trio.lowlevel.checkpoint()
        new = dict(enumerate(data, start=offset))
        old = dict(enumerate(self._config(offset, len(data)), start=offset))
        writeback = new.pop(BLK_WRITEBACK_OFFSET, None)
        for place, value in new.items():
            if not migration or value != old[place]:
                raise RequestError(
                    errno.EPERM,
                    f"read-only; only writeback, the byte at {BLK_WRITEBACK_OFFSET}, is written",
                    field="offset",
                    value=place,
                )
        if writeback not in {None, 0, 1}:
            raise RequestError(
                errno.EINVAL, "0 (no write cache) or 1", field="writeback", value=writeback
            )
        if writeback is not None:
            self._cached = writeback == 1
            self._use_writeback()

    async def resize(self, size: int | None = None) -> int:
        """Grow the disk, or look how large its image is by now, and tell the front-end.

        Args:
            size: in bytes, a multiple of the block size; None: as large as the image is.

        Returns:
            The size that the disk has from now on, in bytes.

        Raises:
            StoreError: it cannot have this size; nothing has changed. The text says what to do.

        Not cancelled once it has begun.
        """
        async with self._resizing:
            block = self._blocks.logical
            if size is not None and size % block:
                raise StoreError(
                    errno.EINVAL, f"a disk has whole blocks: {size} is no multiple of {block}"
                )
            store = self._in_blocks(await trio.to_thread.run_sync(self.store.resize, size))
            check(lib.vhu_blk_resize(self._native, store.size // BLK_SECTOR_SIZE), "resize")
            before, self.store = self.store, store
            if store.size != before.size:
                self.datapath.config_changed()
            return store.size


def _create_queue(native: Pointer, worker: Pointer, index: int, event_fd: int) -> Pointer:
    del index  # they are all alike
    ret = ffi.new("struct vhu_queue **")
    check(lib.vhu_queue_create(worker, native, event_fd, ret), "create a queue")
    return ret[0]


def _create_native(store: Store, options: BlkOptions) -> Pointer:
    serial = options.serial.encode("ascii", "replace")[:SERIAL_BYTES]
    config = ffi.new("struct vhu_blk_config *")
    config.alignment = store.alignment
    config.sectors = disk_sectors(store.size, disk_blocks(store, options))
    config.size_max = LIMITS.size_max
    config.seg_max = LIMITS.seg_max
    config.max_discard_sectors = LIMITS.discard_sectors
    config.max_discard_segments = LIMITS.discard_segments
    config.max_write_zeroes_sectors = LIMITS.write_zeroes_sectors
    config.max_write_zeroes_segments = LIMITS.write_zeroes_segments
    config.read_only = store.read_only
    ffi.memmove(config.serial, serial, len(serial))
    config.fd = -1 if store.fd is None else store.fd.detach()
    config.buffered_fd = -1 if store.buffered_fd is None else store.buffered_fd.detach()
    ret = ffi.new("struct vhu_blk **")
    check(lib.vhu_blk_create(config, ret), "create the disk")
    return ret[0]
