"""The write cache: who sees it, who switches it, and what a write then waits for."""

from __future__ import annotations

import contextlib

import pytest
import trio

from protocol.vhost_user import ResetDevice, SetStatus
from protocol.virtio import BLK_WRITEBACK_OFFSET, BlkFeatures, VirtioFeatures
from vhostuser.devices import BlkDevice, BlkOptions, null_store, open_store
from vhostuser.frontend import (
    TRANSPORT_FEATURES,
    BlockDriver,
    FrontendClient,
    GuestMemory,
)
from vhostuser.testing import serving

CHOOSES, FLUSHES = BlkFeatures.CONFIG_WCE, BlkFeatures.FLUSH
NEITHER = BlkFeatures(0)
OFF, ON = b"\0", b"\1"


class Flushes:
    """How often a block device was told to empty its cache."""

    def __init__(self, device):
        self._statistics = f"/sys/block/{device.name}/stat"
        self._before = self._now()

    def _now(self):
        with open(self._statistics) as file:  # noqa: PTH123 - sysfs
            return int(file.read().split()[15])

    def more(self):
        """Since the last time."""
        before, self._before = self._before, self._now()
        return self._before - before


@pytest.fixture(params=["auto", "threads"])
async def served(request, loop, tmp_path):
    """A block device that is served, its count of flushes, and a way to drive it."""
    block_device = loop()

    class Served:
        flushes = Flushes(block_device)

        @contextlib.asynccontextmanager
        async def driver(self, features):
            """A front-end whose driver has accepted these features, with a running ring."""
            with trio.fail_after(60), GuestMemory() as memory:
                async with FrontendClient.connect(tmp_path / "socket", memory) as client:
                    wanted = TRANSPORT_FEATURES | VirtioFeatures(int(features))
                    await client.negotiate(features=wanted)
                    queue = client.setup_queue(0)
                    await client.start()
                    yield client, BlockDriver([queue])

    async with (
        BlkDevice.open(open_store(block_device), BlkOptions(io=request.param)) as device,
        serving(tmp_path / "socket", device),
    ):
        yield Served()


@pytest.mark.parametrize(
    ("features", "chosen", "flushes"),
    [
        (NEITHER, None, True),
        (FLUSHES, None, False),
        (FLUSHES | CHOOSES, None, False),
        (FLUSHES | CHOOSES, ON, False),
        (FLUSHES | CHOOSES, OFF, True),
        (CHOOSES, ON, True),
        (CHOOSES, OFF, True),
    ],
)
async def test_a_write_waits_for_the_medium_where_nobody_would_flush(
    served, features, chosen, flushes
):
    async with served.driver(features) as (client, disk):
        if chosen is not None:
            await client.set_config(BLK_WRITEBACK_OFFSET, chosen)
        served.flushes.more()
        await disk.write(8, bytes(4096))
        assert bool(served.flushes.more()) is flushes
        await disk.flush()
        assert served.flushes.more() >= 1


async def test_the_cache_can_be_switched_while_requests_run(served):
    async with served.driver(FLUSHES | CHOOSES) as (client, disk):
        for value in (OFF, ON, OFF):
            await client.set_config(BLK_WRITEBACK_OFFSET, value)
            assert await client.get_config(BLK_WRITEBACK_OFFSET, 1) == value
            served.flushes.more()
            await disk.write(8, bytes(4096))
            assert bool(served.flushes.more()) is (value == OFF)


async def test_a_choice_outlives_a_reset_because_the_guest_is_not_told(served):
    async with served.driver(FLUSHES | CHOOSES) as (client, _):
        await client.set_config(BLK_WRITEBACK_OFFSET, OFF)
        await client.request(SetStatus(status=0))
        await client.request(ResetDevice())
        assert await client.get_config(BLK_WRITEBACK_OFFSET, 1) == OFF
        again = client.setup_queue(0)
        await client.start()
        served.flushes.more()
        await BlockDriver([again]).write(8, bytes(4096))
        assert served.flushes.more() >= 1


@pytest.mark.parametrize(
    ("features", "flushes"), [(FLUSHES | CHOOSES, True), (FLUSHES, False)], ids=["knows", "flushes"]
)
async def test_a_choice_outlives_a_session_for_whoever_may_still_believe_in_it(
    served, features, flushes
):
    async with served.driver(FLUSHES | CHOOSES) as (client, _):
        await client.set_config(BLK_WRITEBACK_OFFSET, OFF)
    async with served.driver(features) as (client, disk):
        assert await client.get_config(BLK_WRITEBACK_OFFSET, 1) == OFF
        served.flushes.more()
        await disk.write(8, bytes(4096))
        assert bool(served.flushes.more()) is flushes


@pytest.mark.parametrize(
    ("features", "shown"),
    [(NEITHER, ON), (FLUSHES, ON), (FLUSHES | CHOOSES, ON), (CHOOSES, OFF)],
)
async def test_a_driver_that_chooses_but_cannot_flush_finds_the_cache_off(features, shown):
    async with BlkDevice.open(null_store(1 << 20), BlkOptions()) as device:
        assert await device.read_config(BLK_WRITEBACK_OFFSET, 1) == ON
        device.use_features(VirtioFeatures(int(features)))
        assert await device.read_config(BLK_WRITEBACK_OFFSET, 1) == shown
        device.use_features(VirtioFeatures(0))
        assert await device.read_config(BLK_WRITEBACK_OFFSET, 1) == ON
