"""Front-ends that ask how many queues there are and leave are mentioned, once; others are not."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import trio

from vhostuser.testing import RawFrontend, serving
from vhostuser.testing.datapath import FakeDevice, fake_profile

GET_FEATURES, SET_VRING_NUM, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM = 1, 8, 16, 17
MQ = struct.pack("<Q", 1)


async def comes_and_leaves(server, path, *, asks=True, sets_up=False):
    async with RawFrontend.connect(path) as raw:
        await raw.message(SET_PROTOCOL_FEATURES, MQ)
        if asks:
            await raw.ask(GET_QUEUE_NUM)
        if sets_up:
            await raw.message(SET_VRING_NUM, struct.pack("<II", 0, 128))
        await raw.ask(GET_FEATURES)
    while server.connection is not None:
        await trio.lowlevel.checkpoint()


def hints(caplog):
    return [each for each in caplog.messages if "time after time" in each]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


@pytest.mark.parametrize(
    ("kind", "queue_num", "text"),
    [("block", None, "(2, see --num-queues)"), ("net", 1, "(1, see --queue-pairs)")],
)
async def test_who_asks_and_leaves_again_and_again_is_mentioned_once(
    path, caplog, kind, queue_num, text
):
    profile = replace(fake_profile(), kind=kind, queues=2, queue_num=queue_num)
    with trio.fail_after(30):
        async with serving(path, FakeDevice(profile=profile)) as server:
            for _ in range(2):
                await comes_and_leaves(server, path)
            assert hints(caplog) == []
            for _ in range(3):
                await comes_and_leaves(server, path)
    (hint,) = hints(caplog)
    assert text in hint


@pytest.mark.parametrize("other", [{"asks": False}, {"sets_up": True}], ids=["asks-not", "sets-up"])
async def test_who_does_something_else_is_not(path, caplog, other):
    with trio.fail_after(30):
        async with serving(path, FakeDevice()) as server:
            for change in ({}, {}, other, {}, {}):
                await comes_and_leaves(server, path, **change)
    assert hints(caplog) == []
