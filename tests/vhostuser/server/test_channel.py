"""The back-end channel: a front-end that replaces it, closes it, or misuses it, hurts nobody."""

from __future__ import annotations

import os
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.vhost_user import CURRENT, ConfigChange, Negotiated, ProtocolFeatures
from vhostuser.fds import OwnedFd
from vhostuser.server.channel import BackendChannel
from vhostuser.testing import open_fds

HEADER = 12


@pytest.fixture
async def ends():
    """A channel and the front-end's socket."""
    ours, peer = socket.socketpair()
    negotiated = Negotiated(protocol_features=ProtocolFeatures.CONFIG)
    channel = BackendChannel(
        OwnedFd(ours.detach()), dialect=CURRENT, negotiated=negotiated, seconds=10
    )
    with peer:
        yield channel, peer
    channel.close()


async def test_closing_it_ends_its_task_and_nothing_else(ends):
    channel, peer = ends
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run)
            await wait_all_tasks_blocked()
            channel.close()
    assert peer.recv(1) == b""


async def test_closing_it_before_its_task_began_ends_that_too(ends):
    channel, _ = ends
    channel.close()
    with trio.fail_after(10):
        await channel.run()


async def test_what_is_posted_to_an_ended_channel_is_dropped_with_a_log_line(ends, caplog):
    channel, peer = ends
    peer.close()
    with trio.fail_after(10):
        await channel.run()
    channel.post(ConfigChange())
    assert "dropped" in caplog.text


async def test_what_is_posted_arrives(ends):
    channel, peer = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        channel.post(ConfigChange())
        await wait_all_tasks_blocked()
        assert len(peer.recv(100)) == HEADER
        nursery.cancel_scope.cancel()


async def test_news_that_waits_is_not_said_twice(ends, caplog):
    channel, peer = ends
    for _ in range(1000):
        channel.post(ConfigChange())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        await wait_all_tasks_blocked()
        channel.post(ConfigChange())
        await wait_all_tasks_blocked()
        assert len(peer.recv(100)) == 2 * HEADER
        nursery.cancel_scope.cancel()
    assert "dropped" not in caplog.text


async def test_fds_of_an_unfinished_message_are_closed(ends, caplog):
    channel, peer = ends
    before = open_fds()
    with OwnedFd(os.eventfd(0)) as fd:
        socket.send_fds(peer, [b"x"], [fd.fileno()])
    peer.shutdown(socket.SHUT_WR)
    with trio.fail_after(10):
        await channel.run()
    assert "back-end channel closed" in caplog.text
    assert len(open_fds()) == len(before) - 1  # the channel's own socket
