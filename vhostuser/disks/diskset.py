"""The disks of a process: each with a server and a device of its own.

Workers and memory belong to one disk alone (docs/decisions/0006).
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import trio

from protocol.vhost_user import CURRENT
from vhostuser import log
from vhostuser.disks.config import DiskConfig
from vhostuser.disks.opening import describe_disk, open_device
from vhostuser.errors import UsageError
from vhostuser.server import Server
from vhostuser.serving import Served, ServedSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from protocol.vhost_user import Dialect
    from vhostuser.devices import SizedDevice

    OpenDevice = Callable[[DiskConfig], AbstractAsyncContextManager[SizedDevice]]
    Describe = Callable[[DiskConfig, SizedDevice], str]

__all__ = ["DISKS", "Disk", "DiskSet", "ServedKind"]

_log = logging.getLogger(__name__)


@runtime_checkable
class _Resizable(Protocol):
    async def resize(self, size: int | None) -> int:
        """Give the device another size in bytes; return what it has now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedKind:
    """What the members of a set are.

    Attributes:
        open_device: makes the device of a configuration.
        describe: says in a few words what is served, and where.
        dialect: of the protocol.
    """

    open_device: OpenDevice = open_device
    describe: Describe = describe_disk
    dialect: Dialect = CURRENT


DISKS = ServedKind()
"""Disks in software."""


@dataclass(slots=True, kw_only=True, eq=False)
class Disk(Served[DiskConfig]):
    """One disk that is served.

    Attributes:
        server: what serves it, with the front-end of the moment.
        device: what is served.
        words: what it is and where, in a few words.
    """

    server: Server
    device: SizedDevice
    words: str

    @property
    def size(self) -> int:
        """Its capacity in bytes, as front-ends see it."""
        return self.device.size

    @property
    def facts(self) -> Mapping[str, object]:
        """Its size."""
        return {"size": self.size}

    def describe(self) -> str:
        """Say in a few words what is served, and where."""
        return self.words


class DiskSet(ServedSet[DiskConfig, Disk]):
    """Serves disks. Make it with `async with DiskSet.open()`; the disks end with the block.

    Args:
        nursery: in which disks are served.
        kind: what is served.
    """

    WORD: ClassVar[str] = DiskConfig.WORD

    def __init__(self, nursery: trio.Nursery, kind: ServedKind) -> None:
        super().__init__(nursery)
        self._kind = kind

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, kind: ServedKind = DISKS) -> AsyncIterator[DiskSet]:
        """Have a set, empty at first, for the length of the block.

        Args:
            kind: what is served.
        """
        async with trio.open_nursery() as nursery:
            yield cls(nursery, kind)
            nursery.cancel_scope.cancel()

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The disks that are served, in the order in which they came."""
        return self.members

    @contextlib.asynccontextmanager
    async def open_member(self, config: DiskConfig) -> AsyncIterator[Disk]:
        """Have a disk and its server for the length of the block. See `ServedSet`."""
        # First the socket: a front-end that comes too early then waits instead of failing.
        with self.endpoint(config) as endpoint:
            async with self._kind.open_device(config) as device:
                server = Server(device=device, endpoint=endpoint, dialect=self._kind.dialect)
                self.forward_events(server, config)
                words = self._kind.describe(config, device)
                yield Disk(config=config, server=server, device=device, words=words)

    async def resize(self, identity: str | None, size: int | None) -> tuple[Disk, int]:
        """Give a disk another size, and tell its front-end.

        Args:
            identity: which disk; None: the only one.
            size: in bytes; None: look how large its image is now.

        Returns:
            The disk, and the size that it has now, in bytes.

        Raises:
            UsageError: there is no such disk.
            StoreError: it cannot have this size.
        """
        disk = self.find(identity)
        if not isinstance(disk.device, _Resizable):
            raise UsageError(f"disk '{disk.id}' is of a kind that has no size")
        now = await disk.device.resize(size)
        with log.bound(disk=disk.id):
            _log.info("resized: it has %d bytes now", now)
        self.notify("BLOCK_RESIZED", {"id": disk.id, "size": now})
        return disk, now
