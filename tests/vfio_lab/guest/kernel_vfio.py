"""The kernel's VFIO driven by this project alone: blocks and frames through passed pages."""

from __future__ import annotations

import os

import trio
from driven import (
    BLK,
    LAYOUTS,
    NET,
    SECTOR,
    Network,
    driven,
    interrupts,
    sector,
    take,
    use_disk,
)

from accel.vfio import open_accelerator
from vhostuser.frontend import BLK_DRIVER_FEATURES, BlockDriver, DriverQueue

_SHARED = ",share-device-fd=on"
_INTERRUPTED = 40


async def _disk(layout, *, at, pages=True):
    take(BLK)
    async with open_accelerator(BLK + _SHARED) as accelerator:
        features = (BLK_DRIVER_FEATURES | LAYOUTS[layout]) & accelerator.features
        assert features & LAYOUTS[layout] == LAYOUTS[layout]
        async with driven(accelerator, features, [0, 1], pages=pages) as queues:
            requests = await use_disk(BlockDriver(queues), at=at, seed=at)
            return _notes(BLK, requests, queues)


async def _network(layout):
    take(NET)
    async with open_accelerator(NET + _SHARED) as accelerator:
        features = LAYOUTS[layout]
        assert features & accelerator.features == features
        async with driven(accelerator, features, [0, 1]) as queues:
            frames = await Network(*queues).use(seed=5)
            return _notes(NET, frames, queues)


def _notes(address, requests, queues):
    return {
        "requests": requests,
        "by_page": sum(queue.kicks.page for queue in queues),
        "by_fd": sum(queue.kicks.eventfd for queue in queues),
        "interrupts": interrupts(address),
    }


class _InterruptedQueue(DriverQueue):
    """A queue that looks at the ring only when the device has interrupted."""

    async def complete(self, identity):
        await trio.lowlevel.wait_readable(self.call.fileno())
        assert os.eventfd_read(self.call.fileno()) == 1
        return await super().complete(identity)


async def check_every_request_interrupts_once():
    take(BLK)
    before = interrupts(BLK)
    assert before == {}, before
    async with (
        open_accelerator(BLK + _SHARED) as accelerator,
        # Without EVENT_IDX nothing holds the interrupts back.
        driven(accelerator, LAYOUTS["plain"], [1], make=_InterruptedQueue) as queues,
    ):
        disk = BlockDriver(queues)
        for number in range(_INTERRUPTED):
            assert await disk.read(number, SECTOR) == sector(number)
        return _notes(BLK, _INTERRUPTED, queues)


async def check_a_split_disk_by_page():
    return await _disk("split", at=64)


async def check_a_packed_disk_by_page():
    return await _disk("packed", at=2112)


async def check_a_split_disk_by_the_accelerator():
    return await _disk("split", at=64, pages=False)


async def check_a_split_network_by_page():
    return await _network("split")


async def check_a_packed_network_by_page():
    return await _network("packed")
