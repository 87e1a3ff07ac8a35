"""A server of an accelerator in this process, and a front-end whose rings it serves."""

from __future__ import annotations

import contextlib

import trio

from protocol.vhost_user import CURRENT
from protocol.virtio import VirtioFeatures
from vhostuser.devices import AcceleratedDevice
from vhostuser.frontend import FrontendClient, GuestMemory, RegionLayout
from vhostuser.testing import serving

SECONDS = 10
WANTED = VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures.VERSION_1
LAYOUT = [RegionLayout(gpa=0, size=1 << 20), RegionLayout(gpa=1 << 32, size=1 << 20)]


@contextlib.asynccontextmanager
async def served(tmp_path, accelerator, *, dialect=CURRENT, **options):
    """A server of the accelerator."""
    with trio.fail_after(SECONDS):
        async with (
            AcceleratedDevice.open(accelerator, dialect=dialect, **options) as device,
            serving(tmp_path / "socket", device, dialect=dialect) as server,
        ):
            yield server


@contextlib.asynccontextmanager
async def connected(tmp_path, *, features=WANTED, protocol_features=None, **options):
    """A front-end that knows the device."""
    with GuestMemory(LAYOUT) as memory:
        async with FrontendClient.connect(tmp_path / "socket", memory, **options) as client:
            await client.negotiate(features=features, protocol_features=protocol_features)
            yield client


@contextlib.asynccontextmanager
async def started(tmp_path, *, queues=1, **options):
    """A front-end whose rings run."""
    async with connected(tmp_path, **options) as client:
        for index in range(queues):
            client.setup_queue(index, num=64)
        await client.start()
        yield client


async def random_bytes(client, count=512):
    """Have the device fill a buffer; return what it did."""
    buffer = client.memory.alloc(count)
    assert await client.queues[0].transfer([], [buffer]) == count
    data = client.memory.read(buffer.gpa, count)
    client.memory.free(buffer)
    return data


async def until_broken(client):
    """Make requests until one fails."""
    while True:
        await random_bytes(client)


async def until_left(server):
    """Wait until the device was left by its front-end."""
    while server.connection is not None:
        await trio.lowlevel.checkpoint()
