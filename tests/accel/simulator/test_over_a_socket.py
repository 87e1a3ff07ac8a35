"""The simulated device as others see it: through vfio-user."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from simulator_rig import DISK_FEATURES, RINGS, driven, simulated_disk, write_and_verify
from vfio_user_rig import client_of, serving

from accel.simulator import SimulatorOptions
from accel.vfio_user import open_over, over
from vhostuser.datapath import EventfdDoorbell, MappedDoorbell
from vhostuser.frontend import BlockDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from accel.simulator import SimulatedDevice
    from accel.vfio_user import VfioUserDevice

SECONDS = 20


@contextlib.asynccontextmanager
async def reached(device: SimulatedDevice) -> AsyncIterator[VfioUserDevice]:
    """Be the device's client for the length of the block."""
    async with client_of(device) as client, open_over(client) as pci:
        yield pci


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("shared", [False, True], ids=["page-per-queue", "shared"])
async def test_blocks_are_written_and_read(ring, shared):
    options = SimulatorOptions(shared_notify=shared)
    async with (
        simulated_disk(options=options) as device,
        reached(device) as pci,
        driven(pci, DISK_FEATURES | RINGS[ring]) as guest,
    ):
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        assert isinstance(guest.accelerator.doorbell(0), MappedDoorbell)
        await write_and_verify(BlockDriver(queues), 1)


async def test_doorbells_are_rung_by_eventfds_where_nothing_can_be_mapped():
    async with simulated_disk() as device, reached(device) as pci:
        pci.regions = {
            number: type(region)(
                size=region.size, readable=region.readable, writable=region.writable
            )
            for number, region in pci.regions.items()
        }
        async with driven(pci, DISK_FEATURES) as guest:
            queues = [await guest.open_queue(index) for index in range(2)]
            await guest.accelerator.start()
            doorbell = guest.accelerator.doorbell(0)
            assert isinstance(doorbell, EventfdDoorbell)
            doorbell.fd.close()
            await write_and_verify(BlockDriver(queues), 2)
            assert [ring.page_kicks for ring in device._datapath.statistics()] == [0, 0]


@pytest.mark.parametrize("ring", RINGS)
async def test_a_queue_is_paused_and_resumed_in_mid_traffic(ring):
    async with (
        simulated_disk(queues=1) as device,
        reached(device) as pci,
        driven(pci, DISK_FEATURES | RINGS[ring]) as guest,
    ):
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        driver = BlockDriver([queue])
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_and_verify, driver, 3)
                for _ in range(5):
                    state = await guest.accelerator.stop_queue(0)
                    await guest.start_queue(queue, state)


async def test_a_client_that_vanishes_in_mid_traffic_leaves_nothing_and_the_next_is_served():
    async with simulated_disk() as device:
        for seed in range(3):
            async with serving(device, seconds=SECONDS) as sock:
                try:
                    await _vanish_in_mid_traffic(sock, seed)
                except* OSError:  # what a driver meets whose device is gone
                    pass
            assert device._memory._table.snapshot.regions == ()
            assert not device._rings.started


async def _vanish_in_mid_traffic(sock, seed: int) -> None:
    async with (
        over(sock, "vfio-user:test") as client,
        open_over(client) as pci,
        driven(pci, DISK_FEATURES) as guest,
    ):
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        await write_and_verify(BlockDriver([queue]), seed)
        for sector in range(20):
            assert queue.add(*_request(guest, sector)) is not None
        sock.shutdown(socket.SHUT_RDWR)


def _request(guest, sector):
    header = guest.memory.alloc(16)
    guest.memory.write(header.gpa, bytes(8) + sector.to_bytes(8, "little"))
    return [header], [guest.memory.alloc(4096), guest.memory.alloc(1)]


async def test_a_device_reset_over_the_bus_serves_again():
    async with simulated_disk() as device, reached(device) as pci:
        for seed in range(2):
            async with driven(pci, DISK_FEATURES) as guest:
                queues = [await guest.open_queue(index) for index in range(2)]
                await guest.accelerator.start()
                await write_and_verify(BlockDriver(queues), seed)
                await pci.reset()
                assert not device._rings.started
