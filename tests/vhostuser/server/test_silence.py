"""A guest whose kicks find nothing is mentioned; one whose requests are served is not."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import trio

from vhostuser.server.silence import kicked_in_vain
from vhostuser.testing import RawFrontend, serving
from vhostuser.testing.datapath import FakeDatapath, FakeDevice


class CountingDatapath(FakeDatapath):
    """Counts kicks and requests as the test says, from totals of earlier sessions on."""

    kicks = (7, 9)
    requests = (0, 100)
    counted = True

    def statistics(self):
        return tuple(
            replace(ring, kicks=kicks, requests=requests, counted=self.counted)
            for ring, kicks, requests in zip(
                super().statistics(), self.kicks, self.requests, strict=True
            )
        )


@pytest.mark.parametrize(
    ("kicks", "requests", "ring"),
    [
        ((8, 11), (0, 100), 1),
        ((9, 10), (0, 100), 0),
        ((9, 10), (0, 101), None),
        ((8, 10), (1, 100), None),
    ],
    ids=["second-ring", "first-ring", "other-ring-served", "served-without-kick"],
)
async def test_kicks_without_any_request_are_noticed(autojump_clock, kicks, requests, ring):
    datapath = CountingDatapath()
    async with trio.open_nursery() as nursery:

        async def look():
            assert await kicked_in_vain(datapath) == ring

        nursery.start_soon(look)
        await trio.sleep(1)
        datapath.kicks, datapath.requests = kicks, requests


async def test_buffers_to_receive_into_say_nothing(autojump_clock):
    datapath = CountingDatapath()
    async with trio.open_nursery() as nursery:

        async def look():
            assert await kicked_in_vain(datapath, receiving=(0,)) == 1
            assert trio.current_time() - begin > 100

        begin = trio.current_time()
        nursery.start_soon(look)
        await trio.sleep(1)
        datapath.kicks = (1000, 9)
        await trio.sleep(100)
        datapath.kicks = (1000, 11)


async def test_who_passes_rings_to_an_accelerator_is_never_woken(autojump_clock):
    datapath = CountingDatapath()
    datapath.counted = False
    begin = trio.current_time()
    assert await kicked_in_vain(datapath) is None
    assert trio.current_time() == begin


async def test_the_kick_of_the_start_says_nothing(autojump_clock):
    datapath = CountingDatapath()
    with trio.move_on_after(3600) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kicked_in_vain, datapath)
            await trio.sleep(1)
            datapath.kicks = (8, 10)
    assert scope.cancelled_caught


async def test_the_log_tells_to_share_memory(autojump_clock, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    device = FakeDevice(datapath=CountingDatapath())
    async with serving(tmp_path / "socket", device), RawFrontend.connect(tmp_path / "socket"):
        await trio.sleep(1)
        device.datapath.kicks = (8, 11)
        await trio.sleep(10)
    assert "ring 1 is kicked, but no request was served yet" in caplog.text
    assert "share=on" in caplog.text
