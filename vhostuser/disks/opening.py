"""From a configuration to what is served: the store, and the device on it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from vhostuser.devices import (
    BlkDevice,
    BlkOptions,
    default_store,
    memory_store,
    null_store,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vhostuser.devices import SizedDevice, Store
    from vhostuser.disks.config import DiskConfig

__all__ = ["describe_disk", "open_device", "open_disk_store"]


def open_disk_store(config: DiskConfig) -> Store:
    """Open what holds a disk's data. Blocks as long as the host does.

    Raises:
        StoreError: it cannot be served.
    """
    if config.null is not None:
        return null_store(config.null, read_only=config.read_only)
    if config.memory is not None:
        return memory_store(config.memory, read_only=config.read_only)
    if config.blk_file is not None:
        return open_store(
            config.blk_file,
            read_only=config.read_only,
            direct=config.direct,
            locking=config.locking,
        )
    return default_store(read_only=config.read_only)


@contextlib.asynccontextmanager
async def open_device(config: DiskConfig) -> AsyncIterator[BlkDevice]:
    """Have the device of a disk for the length of the block.

    Raises:
        OSError: its store cannot be served, or the host is out of something.
    """
    store = await trio.to_thread.run_sync(open_disk_store, config)
    options = BlkOptions(
        queues=config.num_queues,
        queue_size=config.queue_size,
        serial=config.serial,
        block_size=config.block_size,
        workers=config.workers,
        poll_us=config.poll_us,
        busy_poll=config.busy_poll,
        io=config.io,
    )
    async with BlkDevice.open(store, options) as device:
        yield device


def describe_disk(config: DiskConfig, device: SizedDevice) -> str:
    """Say in a few words what is served, and where."""
    kind = "read-only disk" if config.read_only else "disk"
    if config.built_in:
        kind = f"built-in {kind} (--blk-file FILE serves an image)"
    count = device.profile.queues
    queues = "1 queue" if count == 1 else f"{count} queues"
    return f"a {kind} of {device.size} bytes with {queues} on {config.place}"
