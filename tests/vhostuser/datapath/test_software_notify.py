"""Notify pages, kicks that come another way, and faults on request, through Python."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os

import pytest
import trio
import trio.testing

from protocol.virtio import VirtioFeatures
from vhostuser.datapath import RingFd, RingStart
from vhostuser.datapath.software import ENGINE_FAULTS
from vhostuser.devices import BlkDevice, BlkOptions, default_sector, default_store
from vhostuser.frontend import BlockDriver, DriverQueue, GuestMemory, RingError
from vhostuser.memory import MemoryTable
from vhostuser.virtqueue import RingState

FEATURES = VirtioFeatures.VERSION_1
ARMED = 0xFFFF_FFFF


class Page:
    """A notify page as a device has it."""

    def __init__(self):
        self.area = mmap.mmap(-1, mmap.PAGESIZE)
        self.word = ctypes.c_uint32.from_buffer(self.area)
        self.address = ctypes.addressof(self.word)

    def close(self):
        del self.word
        self.area.close()


@pytest.fixture
async def running():
    """A served ring, and its data path."""
    with GuestMemory() as guest, trio.fail_after(60):
        async with BlkDevice.open(default_store(), BlkOptions(poll_us=0)) as device:
            table = MemoryTable()
            datapath = device.datapath
            (region,) = guest.regions
            change = table.prepare_replace([(region.description, region.fd)])
            await datapath.commit_memory(change.snapshot)
            change.commit()
            change.release()
            with contextlib.closing(DriverQueue(guest, 0, num=16, features=FEATURES)) as queue:
                start = RingStart(
                    features=FEATURES,
                    num=queue.num,
                    desc=guest.uva(queue.areas.desc.gpa),
                    driver=guest.uva(queue.areas.driver.gpa),
                    device=guest.uva(queue.areas.device.gpa),
                    state=RingState(avail=0, used=0, avail_wrap=False, used_wrap=False),
                )
                await datapath.set_fd(0, RingFd.CALL, queue.call.duplicate())
                await datapath.set_enabled(0, enabled=True)
                with contextlib.closing(queue.kick.duplicate()) as kick:
                    os.set_blocking(kick.fileno(), False)
                    await datapath.start_queue(0, start, None)
                    yield datapath, queue, kick
                await datapath.leave()
            table.close()


async def kick_by(kick, ring):
    """Ring another doorbell for each kick of a driver."""
    while True:
        await trio.lowlevel.wait_readable(kick.fileno())
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(kick.fileno())
        await ring()


async def test_a_store_into_a_page_kicks(running):
    datapath, queue, kick = running
    with contextlib.closing(Page()) as page:
        await datapath.set_notify_page(0, page.address)
        assert page.word.value == ARMED

        async def store():
            await trio.lowlevel.checkpoint()
            ctypes.c_uint16.from_buffer(page.area).value = 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kick_by, kick, store)
            for number in range(50):
                assert await BlockDriver([queue]).read(number, 512) == default_sector(number)
            nursery.cancel_scope.cancel()
        (statistics,) = datapath.statistics()
        assert statistics.kicks == 0
        assert 0 < statistics.page_kicks <= 50
        await datapath.set_notify_page(0, None)
    assert (await read_by_look(running)) == default_sector(3)


async def read_by_look(running):
    datapath, queue, kick = running
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kick_by, kick, lambda: datapath.look(0))
        data = await BlockDriver([queue]).read(3, 512)
        nursery.cancel_scope.cancel()
    return data


async def test_a_ring_can_be_looked_at_without_a_kick(running):
    assert await read_by_look(running) == default_sector(3)


async def test_a_queue_can_be_stuck_for_a_while(running):
    datapath, queue, kick = running
    datapath.set_fault(0, "stuck-queue", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kick_by, kick, lambda: datapath.look(0))
        with trio.move_on_after(0.05) as scope:
            await BlockDriver([queue]).read(0, 512)
        assert scope.cancelled_caught
        assert datapath.statistics()[0].requests == 0
        datapath.set_fault(0, "stuck-queue", 0)
        nursery.cancel_scope.cancel()


async def test_a_wrong_id_is_seen_by_the_driver(running):
    datapath, queue, kick = running
    datapath.set_fault(0, "wrong-used-id", 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kick_by, kick, lambda: datapath.look(0))
        with pytest.raises(RingError, match="not in flight"):
            await BlockDriver([queue]).read(0, 512)
        nursery.cancel_scope.cancel()


async def test_every_fault_has_a_name_and_ends(running):
    datapath, _, _ = running
    for fault in ENGINE_FAULTS:
        datapath.set_fault(0, fault, 3)
        datapath.set_fault(0, fault, 0)
    assert await read_by_look(running) == default_sector(3)
