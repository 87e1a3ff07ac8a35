"""A simulated disk under the virtio-pci driver: what a guest writes is what it reads."""

from __future__ import annotations

import os

import pytest
import trio
from simulator_rig import (
    DISK_SECTORS,
    DOORBELLS,
    RINGS,
    disk_guest,
    simulated_disk,
    write_and_verify,
)

from accel.simulator import PAGE_SIZES, SimulatorOptions
from accel.vfio_user import DmaRange
from vhostuser.datapath import AcceleratorNews, QueueAddresses
from vhostuser.errors import AcceleratorError
from vhostuser.frontend import BlockDriver

SECONDS = 20


@pytest.mark.parametrize("doorbells", DOORBELLS)
@pytest.mark.parametrize("ring", RINGS)
async def test_what_a_guest_writes_is_what_it_reads(ring, doorbells):
    async with (
        simulated_disk() as device,
        disk_guest(device, ring=ring, doorbells=doorbells) as guest,
    ):
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        await write_and_verify(BlockDriver(queues), 1)
        kicks = [ring.page_kicks for ring in device._datapath.statistics()]
        assert all(kicks) == any(kicks) == (doorbells == "page")


@pytest.mark.parametrize("page_size", PAGE_SIZES)
async def test_doorbells_have_pages_of_any_size_to_themselves(page_size):
    options = SimulatorOptions(page_size=page_size)
    async with simulated_disk(options=options) as device, disk_guest(device) as guest:
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        for index in range(2):
            area = await guest.accelerator.notify_area(index, page_size)
            area.fd.close()
            assert (area.offset, area.size) == (index * page_size, page_size)
        await write_and_verify(BlockDriver(queues), 2)


async def test_shared_doorbells_work_but_cannot_be_handed_over():
    options = SimulatorOptions(shared_notify=True)
    async with simulated_disk(options=options) as device, disk_guest(device) as guest:
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        await write_and_verify(BlockDriver(queues), 3)
        with pytest.raises(AcceleratorError, match="page-per-vq=off"):
            await guest.accelerator.notify_area(0, 4096)


async def test_queues_can_share_one_vector():
    options = SimulatorOptions(vectors=1)
    async with simulated_disk(options=options) as device, disk_guest(device) as guest:
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        await write_and_verify(BlockDriver(queues), 4)


@pytest.mark.parametrize("ring", RINGS)
async def test_a_queue_is_suspended_in_mid_traffic_and_goes_on(ring):
    async with simulated_disk(queues=1) as device, disk_guest(device, ring=ring) as guest:
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        driver = BlockDriver([queue])
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_and_verify, driver, 5)
                for _ in range(10):
                    state = await guest.accelerator.stop_queue(0)
                    assert state is not None
                    await guest.start_queue(queue, state)
        assert queue.in_flight == 0


@pytest.mark.parametrize("ring", RINGS)
async def test_a_queue_goes_on_in_a_device_that_was_reset(ring):
    """The position is all that is needed: what a migration or another device would be given."""
    async with simulated_disk(queues=1) as device, disk_guest(device, ring=ring) as guest:
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        driver = BlockDriver([queue])
        await write_and_verify(driver, 6)
        state = await guest.accelerator.stop_queue(0)
        await guest.accelerator.reset()
        await guest.accelerator.set_features(guest.features)
        await guest.start_queue(queue, state)
        await guest.accelerator.start()
        await write_and_verify(driver, 7)


async def test_a_guest_comes_after_the_other():
    async with simulated_disk() as device:
        for seed in range(3):
            async with disk_guest(device) as guest:
                queues = [await guest.open_queue(index) for index in range(2)]
                await guest.accelerator.start()
                await write_and_verify(BlockDriver(queues), seed)


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_mapped():
    async with simulated_disk() as device:
        before = device._memory._table.snapshot.regions
        with trio.CancelScope() as scope:
            async with disk_guest(device) as guest:
                queue = await guest.open_queue(0)
                await guest.accelerator.start()
                driver = BlockDriver([queue])
                async with trio.open_nursery() as nursery:
                    for sector in range(30):
                        nursery.start_soon(driver.write, 8 * sector, bytes(4096))
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        assert scope.cancelled_caught
        assert device._memory._table.snapshot.regions == before == ()
        async with disk_guest(device) as guest:
            queue = await guest.open_queue(0)
            await guest.accelerator.start()
            await write_and_verify(BlockDriver([queue]), 8)


async def test_what_a_former_client_mapped_rings_nothing():
    async with simulated_disk(queues=1) as device:
        async with disk_guest(device) as guest:
            await guest.open_queue(0)
            await guest.accelerator.start()
            area = await guest.accelerator.notify_area(0, 4096)
        with area.fd:
            async with disk_guest(device) as guest:
                queue = await guest.open_queue(0)
                await guest.accelerator.start()
                ours = await guest.accelerator.notify_area(0, 4096)
                with ours.fd:
                    assert not _same_file(area.fd, ours.fd)
                await write_and_verify(BlockDriver([queue]), 9)


def _same_file(one, other) -> bool:
    first, second = os.fstat(one.fileno()), os.fstat(other.fileno())
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


async def test_another_size_is_news_for_the_driver():
    async with simulated_disk() as device, disk_guest(device) as guest:
        await guest.accelerator.start()
        await device._device.resize(2 * DISK_SECTORS * 512)
        with trio.fail_after(SECONDS):
            assert await guest.accelerator.news() is AcceleratorNews.CONFIG_CHANGED
        sectors = await guest.accelerator.read_config(0, 8)
        assert int.from_bytes(sectors, "little") == 2 * DISK_SECTORS


async def test_the_write_cache_is_switched_by_the_configuration():
    async with simulated_disk() as device, disk_guest(device) as guest:
        assert await guest.accelerator.read_config(32, 1) == b"\1"
        await guest.accelerator.write_config(32, b"\0")
        assert await guest.accelerator.read_config(32, 1) == b"\0"
        await guest.accelerator.write_config(0, bytes(8))
        assert int.from_bytes(await guest.accelerator.read_config(0, 8), "little") == DISK_SECTORS


async def test_a_hostile_ring_fails_alone():
    async with simulated_disk() as device, disk_guest(device) as guest:
        good, bad = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        guest.memory.write(bad.areas.driver.gpa + 2, (999).to_bytes(2, "little"))
        bad.ring()
        with trio.fail_after(SECONDS):
            assert await guest.accelerator.news() is AcceleratorNews.FAILED
        await write_and_verify(BlockDriver([good]), 10)


@pytest.mark.parametrize(
    ("where", "words"),
    [(0x7000_0000, "not in memory that the client mapped"), (0x10_0000_0000, "without a file")],
)
async def test_a_ring_that_lies_nowhere_is_refused_in_words(where, words, caplog):
    async with simulated_disk() as device, disk_guest(device) as guest:
        no_file = DmaRange(address=0x10_0000_0000, size=4096, readable=True, writable=True)
        await device.map(no_file)
        queue = await guest.open_queue(0)
        await guest.accelerator.start()
        nowhere = QueueAddresses(num=16, desc=where, driver=where, device=where)
        await guest.accelerator.start_queue(1, nowhere, None)
        with trio.fail_after(SECONDS):
            assert await guest.accelerator.news() is AcceleratorNews.FAILED
        assert words in caplog.text
        await write_and_verify(BlockDriver([queue]), 11)
        await device.unmap(no_file)
