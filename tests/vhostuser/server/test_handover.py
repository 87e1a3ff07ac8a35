"""Offers of notify areas, on a clock of their own: when, how large, and when no longer."""

from __future__ import annotations

import contextlib
import os

import pytest
import trio

from protocol.vhost_user import (
    CURRENT,
    RFC_V1,
    RFC_V2,
    Connection,
    Negotiated,
    ProtocolFeatures,
    Role,
    VringHostNotifier,
    VringNotifyArea,
    VringVfioGroup,
)
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import NotifyArea
from vhostuser.fds import OwnedFd
from vhostuser.server.handover import AreaOffers
from vhostuser.session import PAUSE_SECONDS, AreaState, Session
from vhostuser.testing import FakeDatapath, fake_profile, held

PAGES = [4096, 16384, 65536]


class Channel:
    """A front-end's answers: yes, unless told otherwise; and when each was asked for."""

    def __init__(self):
        self.asked = []
        self.times = []
        self.answer = True
        self.seconds = 0.0

    async def ask(self, message, fds=()):
        self.asked.append(message)
        self.times.append(trio.current_time())
        assert all(not fd.closed for fd in fds)
        await trio.sleep(self.seconds)
        return self.answer

    def post(self, message):
        self.asked.append(message)
        self.times.append(trio.current_time())


class Areas(FakeDatapath):
    """Has an area for every ring, of the size that is asked for."""

    async def notify_area(self, index, page_size):
        await super().notify_area(index, page_size)
        fd = OwnedFd(os.memfd_create("area", os.MFD_CLOEXEC))
        os.truncate(fd.fileno(), page_size * 2)
        return NotifyArea(fd=fd, offset=page_size, size=page_size)


def everything():
    return Negotiated(VirtioFeatures((1 << 64) - 1), ProtocolFeatures((1 << 64) - 1))


@contextlib.asynccontextmanager
async def offers(dialect=CURRENT, datapath=None, negotiated=None, **options):
    """Offers, the data path and the channel; whatever was held is given back."""
    before = held()
    datapath = datapath or Areas()
    connection = Connection(Role.BACK_END, dialect=dialect, negotiated=negotiated or everything())
    session = Session(connection, fake_profile())
    channel = Channel()
    async with trio.open_nursery() as nursery:
        yield AreaOffers(session, datapath, nursery, **options), datapath, channel
    assert not held().more_than(before)


@pytest.mark.parametrize("page_size", PAGES)
async def test_an_area_has_the_size_of_the_hosts_pages(autojump_clock, page_size):
    async with offers(page_size=page_size) as (areas, datapath, channel):
        areas.use_channel(channel)
        areas.started(1)
    assert ("notify_area", 1, page_size) in datapath.calls
    assert channel.asked == [VringHostNotifier(index=1, size=page_size, offset=page_size)]
    assert ("look", 1) in datapath.calls, "a kick may have been lost in the switch"
    assert areas.states == (AreaState.NONE, AreaState.HANDED_OVER)


@pytest.mark.parametrize("dialect", [CURRENT, RFC_V2, RFC_V1])
async def test_who_has_not_negotiated_areas_is_offered_none(autojump_clock, caplog, dialect):
    async with offers(dialect, negotiated=Negotiated()) as (areas, datapath, channel):
        areas.use_channel(channel)
        areas.started(1)
    assert channel.asked == []
    assert not any(call[0] == "notify_area" for call in datapath.calls)
    assert areas.states == (AreaState.NONE, AreaState.REFUSED)
    assert not caplog.records, "the front-end has refused nothing"


async def test_a_ring_that_starts_again_waits_before_the_next_offer(autojump_clock):
    begun = trio.current_time()
    async with offers() as (areas, _, channel):
        areas.use_channel(channel)
        areas.started(0)
        await trio.sleep(1)
        for _ in range(5):
            areas.stopped(0)
            areas.started(0)
        await trio.sleep(1)
    assert channel.times == pytest.approx([begun + PAUSE_SECONDS, begun + 1 + PAUSE_SECONDS])


async def test_a_ring_that_stopped_meanwhile_is_offered_nothing(autojump_clock):
    async with offers() as (areas, _, channel):
        areas.use_channel(channel)
        areas.started(0)
        await trio.sleep(1)
        areas.stopped(0)
        areas.started(0)
        areas.stopped(0)
    assert len(channel.asked) == 1
    assert areas.states[0] is AreaState.NONE


async def test_a_late_answer_to_an_offer_of_before_says_nothing(autojump_clock):
    async with offers() as (areas, _, channel):
        areas.use_channel(channel)
        channel.seconds = 1
        areas.started(0)
        await trio.sleep(0.5)
        areas.stopped(0)
        areas.started(0)
        await trio.sleep(0.6)
        assert areas.states[0] is not AreaState.HANDED_OVER
        channel.answer = False
        await trio.sleep(2)
    assert areas.states[0] is AreaState.REFUSED


async def test_a_channel_that_comes_late_is_used_for_rings_that_run(autojump_clock):
    async with offers() as (areas, _, channel):
        areas.started(0)
        await trio.sleep(1)
        assert channel.asked == []
        areas.use_channel(channel)
    assert areas.states[0] is AreaState.HANDED_OVER


async def test_an_area_that_ends_is_taken_back_and_not_offered_again(autojump_clock):
    async with offers() as (areas, datapath, channel):
        areas.use_channel(channel)
        areas.started(0)
        await trio.sleep(1)
        datapath.calls.clear()
        channel.seconds = 1
        areas.end(0)
        await trio.sleep(0.5)
        assert datapath.calls == []
        await trio.sleep(1)
        assert datapath.calls == [("look", 0)], "kicks went to the area until it was taken back"
    assert channel.asked[1:] == [VringHostNotifier(index=0, no_fd=True)]
    assert areas.states[0] is AreaState.REFUSED


async def test_what_was_stored_into_an_area_that_ended_is_looked_for(autojump_clock):
    async with offers() as (areas, datapath, channel):
        areas.use_channel(channel)
        areas.started(0)
        await trio.sleep(1)
        channel.seconds = 1
        datapath.calls.clear()
        areas.end(0)
        await trio.sleep(0.9)
        assert datapath.calls == [], "the front-end may still write there"
    assert datapath.calls == [("look", 0)]


async def test_a_front_end_that_keeps_an_area_is_warned_of(autojump_clock, caplog):
    async with offers() as (areas, _, channel):
        areas.use_channel(channel)
        areas.started(0)
        await trio.sleep(1)
        channel.answer = False
        areas.end(0)
    assert "does not give its notify area back" in caplog.text


async def test_offers_of_starts_that_are_over_are_not_sent(autojump_clock):
    async with offers() as (areas, _, channel):
        areas.use_channel(channel)
        channel.seconds = 10
        areas.started(0)
        await trio.sleep(1)
        areas.started(1)
        await trio.sleep(1)
        areas.stopped(1)
    assert [message.index for message in channel.asked] == [0]


async def test_an_area_that_was_taken_after_its_start_was_over_is_taken_back_first(autojump_clock):
    async with offers() as (areas, _, channel):
        areas.use_channel(channel)
        channel.seconds = 1
        areas.started(0)
        await trio.sleep(0.5)
        areas.stopped(0)
        areas.started(0)
        await trio.sleep(5)
    assert [message.no_fd for message in channel.asked] == [False, True, False]
    offered, taken_back, again = channel.times
    assert taken_back - offered == pytest.approx(1)
    assert again - taken_back == pytest.approx(1 + PAUSE_SECONDS), "after the answer"
    assert areas.states[0] is AreaState.HANDED_OVER


async def test_when_the_front_end_leaves_nothing_is_asked(autojump_clock):
    async with offers() as (areas, _, channel):
        areas.use_channel(channel)
        areas.started(0)
        await trio.sleep(1)
        areas.close()
    areas.end(0)
    assert len(channel.asked) == 1


@pytest.mark.parametrize("dialect", [RFC_V1, RFC_V2])
async def test_an_area_of_the_rfc_is_offered_once_with_its_group(autojump_clock, dialect):
    with OwnedFd(os.eventfd(0)) as group:
        datapath = Areas(vfio_group=group)
        async with offers(dialect, datapath) as (areas, _, channel):
            areas.use_channel(channel)
            areas.started(0)
            await trio.sleep(1)
            areas.stopped(0)
            areas.started(0)
            await trio.sleep(1)
    size = datapath.calls[0][2]
    assert channel.asked == [
        VringVfioGroup(index=0),
        VringNotifyArea(index=0, size=size, offset=size),
    ]
    assert areas.states[0] is AreaState.HANDED_OVER


@pytest.mark.parametrize("dialect", [RFC_V1, RFC_V2])
async def test_the_group_goes_with_the_area_of_a_device_that_is_gone(autojump_clock, dialect):
    with OwnedFd(os.eventfd(0)) as group:
        async with offers(dialect, Areas(vfio_group=group)) as (areas, _, channel):
            areas.use_channel(channel)
            for index in range(2):
                areas.started(index)
            await trio.sleep(1)
            del channel.asked[:]
            areas.end(0)
            await trio.sleep(1)
            areas.end(0)
            await trio.sleep(1)
    assert channel.asked == [
        VringNotifyArea(index=0, no_fd=True),
        VringVfioGroup(index=0, no_fd=True),
    ]


async def test_without_an_area_nothing_is_asked(autojump_clock):
    async with offers(datapath=FakeDatapath()) as (areas, _, channel):
        areas.use_channel(channel)
        areas.started(0)
    assert channel.asked == []
    assert areas.states[0] is AreaState.REFUSED
