"""The kernel's VFIO driven by this project alone: blocks and frames through passed pages."""

from __future__ import annotations

from driven import BLK, LAYOUTS, NET, Network, driven, interrupts, take, use_disk

from accel.vfio import open_accelerator
from vhostuser.frontend import BLK_DRIVER_FEATURES, BlockDriver

_SHARED = ",share-device-fd=on"


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
        "by_page": sum(queue.page_kicks for queue in queues),
        "by_fd": sum(queue.fd_kicks for queue in queues),
        "interrupts": interrupts(address),
    }


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
