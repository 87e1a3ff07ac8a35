"""The real server in this process, for front-ends that behave like real ones."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from vhostuser import testing
from vhostuser.devices import BlkDevice, BlkOptions, default_sector, default_store
from vhostuser.frontend import BLK_DRIVER_FEATURES, QEMU, TRANSPORT_FEATURES, FrontendClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from vhostuser.devices import Device
    from vhostuser.frontend import BlockDriver, GuestMemory
    from vhostuser.server import Server

QUEUES = 4
_PATIENCE = 60


@dataclass
class Served:
    """A running server.

    Attributes:
        path: where it listens.
        server: what serves.
        expected: what it may warn of; everything else is a fault.
    """

    path: Path
    server: Server
    expected: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def client(
        self, memory: GuestMemory, *, features: int | None = None, **options: Any
    ) -> AsyncIterator[FrontendClient]:
        """Connect in some front-end's order, and negotiate."""
        order = options.pop("order", QEMU)
        wanted = TRANSPORT_FEATURES | BLK_DRIVER_FEATURES if features is None else features
        async with FrontendClient.connect(self.path, memory, order=order) as client:
            await client.negotiate(features=type(TRANSPORT_FEATURES)(wanted), **options)
            yield client


async def reads(disk: BlockDriver, sectors: range = range(8)) -> None:
    """The disk gives what the built-in one holds, request by request."""
    for sector in sectors:
        assert await disk.read(sector, 512) == default_sector(sector)


@contextlib.asynccontextmanager
async def serving(path: Path, device: Device) -> AsyncIterator[Served]:
    """Serve a device on `path` for the length of the block."""
    with trio.fail_after(_PATIENCE):
        async with testing.serving(path, device) as server:
            yield Served(path, server)
            while server.connection is not None:  # the session of a front-end that just left
                await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def serving_disk(path: Path) -> AsyncIterator[Served]:
    """Serve the built-in disk for the length of the block."""
    options = BlkOptions(queues=QUEUES, serial="spec-disk")
    async with (
        BlkDevice.open(default_store(), options) as device,
        serving(path, device) as served,
    ):
        yield served
