"""From a configuration to what is served: the store, the device on it, the place of front-ends."""

from __future__ import annotations

import contextlib
import os
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
from vhostuser.disks.options import Problem
from vhostuser.errors import UsageError
from vhostuser.server import ConnectingEndpoint, ListeningEndpoint, bind_unix, endpoint_from_fd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, MutableMapping

    from vhostuser.devices import SizedDevice, Store
    from vhostuser.disks.config import DiskConfig
    from vhostuser.server import Endpoint

__all__ = ["describe_disk", "missing_socket", "open_device", "open_disk_store", "open_endpoint"]


_NOWHERE = (
    "where are front-ends? Give --socket-path PATH, --connect PATH or --fd N (in a file "
    "socket-path, connect, fd, or a systemd socket with FileDescriptorName=ID)"
)


def missing_socket(config: DiskConfig) -> Iterator[Problem]:
    """Yield that a disk has no place for front-ends, if only its options count."""
    if config.socket_path is None and config.connect is None and config.fd is None:
        yield Problem("", _NOWHERE)


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


def open_endpoint(config: DiskConfig, inherited: MutableMapping[str, int]) -> Endpoint:
    """Make the place where a disk's front-ends come from.

    Args:
        config: of the disk.
        inherited: sockets that systemd passed, by name; the one that is used is taken out.

    Raises:
        UsageError: there is none, or it cannot be used.
    """
    if config.socket_path is not None:
        sock = bind_unix(config.socket_path, mode=config.socket_mode, group=config.socket_group)
        return ListeningEndpoint(sock, config.socket_path)
    if config.connect is not None:
        return ConnectingEndpoint(config.connect)
    number = inherited.pop(config.id, None) if config.fd is None else config.fd
    if number is None:
        raise UsageError(_NOWHERE)
    if not _was_passed(number):
        raise UsageError(f"fd {number} is no open socket that was passed to this program")
    return endpoint_from_fd(number)


def _was_passed(number: int) -> bool:
    """Whether a descriptor came from the parent: this program's own are all close-on-exec."""
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


def describe_disk(config: DiskConfig, device: SizedDevice) -> str:
    """Say in a few words what is served, and where."""
    kind = "read-only disk" if config.read_only else "disk"
    if config.built_in:
        kind = f"built-in {kind} (--blk-file FILE serves an image)"
    count = device.profile.queues
    queues = "1 queue" if count == 1 else f"{count} queues"
    where = config.socket_path or config.connect or "an inherited socket"
    return f"a {kind} of {device.size} bytes with {queues} on {where}"
