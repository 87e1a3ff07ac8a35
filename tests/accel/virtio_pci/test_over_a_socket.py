"""The driver on a simulated disk at the other end of a socket: the whole way to a device."""

from __future__ import annotations

import contextlib
import random

import pytest
import trio
from simulator_rig import DISK_SECTORS, RINGS, driven, simulated_disk

from accel.simulator import SimulatorOptions
from accel.vfio_user import open_over, over, serve_connection
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import AcceleratorNews, EventfdDoorbell, MappedDoorbell
from vhostuser.errors import AcceleratorError, leaves
from vhostuser.frontend import BLK_DRIVER_FEATURES, BlockDriver
from vhostuser.testing import held

FEATURES = BLK_DRIVER_FEATURES | VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX
SECONDS = 30


@contextlib.asynccontextmanager
async def _guest(ring="split", options=None):
    """Be a guest that drives a disk of another process, as it were; see that nothing is left."""
    before = held()
    ours, theirs = trio.socket.socketpair()
    async with simulated_disk(options=options) as disk, trio.open_nursery() as nursery:
        server = trio.CancelScope()

        async def serve() -> None:
            with server:
                await serve_connection(theirs, disk)

        nursery.start_soon(serve)
        async with (
            over(ours, "the disk") as client,
            open_over(client) as device,
            driven(device, FEATURES | RINGS[ring]) as guest,
        ):
            yield guest, server
    assert not held().more_than(before)


async def _write_and_read(driver, seed):
    source = random.Random(seed)  # noqa: S311 - no secret
    pieces = {at: source.randbytes(4096) for at in source.sample(range(0, DISK_SECTORS, 8), 24)}
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for at, piece in pieces.items():
                nursery.start_soon(driver.write, at, piece)
        for at, piece in pieces.items():
            assert await driver.read(at, len(piece)) == piece


@pytest.mark.parametrize("ring", RINGS)
async def test_a_queue_that_was_suspended_goes_on_where_it_stood(ring):
    async with _guest(ring) as (guest, _):
        accelerator = guest.accelerator
        assert accelerator.identity.device_id == 2
        capacity = await accelerator.read_config(0, 8)
        assert int.from_bytes(capacity, "little") == DISK_SECTORS
        queues = [await guest.open_queue(index) for index in range(2)]
        assert isinstance(accelerator.doorbell(0), MappedDoorbell)
        await accelerator.start()
        driver = BlockDriver(queues)
        await _write_and_read(driver, 1)
        for _ in range(3):
            state = await accelerator.stop_queue(0)
            assert (state.avail, state.avail_wrap) == (state.used, state.used_wrap)
            assert state.avail != 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.write, 0, bytes(512))
                await guest.start_queue(queues[0], state)
            await _write_and_read(driver, state.avail)


async def test_doorbells_that_share_a_page_are_rung_all_the_same():
    async with _guest(options=SimulatorOptions(shared_notify=True)) as (guest, _):
        queues = [await guest.open_queue(index) for index in range(2)]
        doorbell = guest.accelerator.doorbell(1)
        if isinstance(doorbell, EventfdDoorbell):
            doorbell.fd.close()
        with pytest.raises(AcceleratorError, match="page-per-vq=off"):
            await guest.accelerator.notify_area(1, 4096)
        await guest.accelerator.start()
        await _write_and_read(BlockDriver(queues), 2)


async def test_a_server_that_dies_is_news(caplog):
    async def lose() -> None:
        async with _guest() as (guest, server):
            await guest.open_queue(0)
            await guest.accelerator.start()
            server.cancel()
            with trio.fail_after(SECONDS):
                assert await guest.accelerator.news() is AcceleratorNews.FAILED

    with pytest.raises(ExceptionGroup) as caught:
        await lose()
    # What is left to say: the rig's own reset, of a device that is not there any more.
    assert all(isinstance(error, AcceleratorError) for error in leaves(caught.value))
    assert "the disk was left as it is" in caplog.text
