"""Two disks of one process, one of them attacked: the other is served as if nothing were.

How fast it is meanwhile is measured by the benchmarks; here every request has its data, and nothing
of the attack is left in the process.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import hostile_load
import pytest
import trio
from attacking import attacked

from vhostuser.disks import DiskConfig, DiskSet
from vhostuser.frontend import BlockDriver, FrontendClient, GuestMemory
from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 1 << 20
REQUESTS = 500
SECONDS = 90


@contextlib.asynccontextmanager
async def disk_at(path: Path) -> AsyncIterator[BlockDriver]:
    """A good front-end's disk."""
    with GuestMemory() as memory:
        async with FrontendClient.connect(path, memory) as client:
            await client.negotiate()
            client.setup_queue(0)
            await client.start()
            yield BlockDriver([client.queues[0]])


async def write_and_read(disk: BlockDriver, first: int, count: int) -> None:
    """Requests that each find what they wrote."""
    for number in range(first, first + count):
        data = number.to_bytes(8, "little") * 512
        await disk.write(number % 1000 * 8, data)
        assert await disk.read(number % 1000 * 8, len(data)) == data


def workers(disks: DiskSet) -> int:
    """Threads that serve rings."""
    rings = [
        (disk.device, ring) for disk in disks.disks for ring in range(disk.device.profile.queues)
    ]
    return len({device.datapath._workers.at(ring) for device, ring in rings})


async def until_left(disks: DiskSet) -> None:
    while disks.find("bad").server.connection is not None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("attack", hostile_load.ATTACKS)
async def test_a_disk_is_served_while_another_is_attacked(tmp_path: Path, attack: str) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    with trio.fail_after(SECONDS):
        async with DiskSet.open() as disks:
            for path in (good, bad):
                await disks.add(DiskConfig(id=path.name, socket_path=path, memory=8 * MIB))
            assert workers(disks) == 2
            async with disk_at(good) as disk:
                async with disk_at(bad) as other:
                    await write_and_read(other, 0, 1)
                await write_and_read(disk, 0, 10)
                await until_left(disks)
                before = held()
                async with attacked(hostile_load, attack, bad):
                    await write_and_read(disk, 10, REQUESTS)
                async with disk_at(bad) as other:
                    assert await other.read(0, 4096) == bytes(4096)
                await until_left(disks)
                await write_and_read(disk, 10 + REQUESTS, 10)
                (statistics,) = disks.find("good").device.datapath.statistics()
                assert statistics.errors == 0
                assert statistics.requests == 2 * (REQUESTS + 20)
                assert not held().more_than(before)
