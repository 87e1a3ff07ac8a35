"""The server on a device that only remembers: whole sessions over real sockets, no engine."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from protocol.vhost_user import SetVringKick
from vhostuser import testing
from vhostuser.datapath import StopMode
from vhostuser.fds import OwnedFd
from vhostuser.frontend import QEMU, FrontendClient, GuestMemory, RequestRefusedError
from vhostuser.server import ConnectingEndpoint, Server, bind_unix
from vhostuser.testing import NEED_REPLY, VERSION, RawFrontend, held, raw_message
from vhostuser.testing.datapath import FakeDatapath, FakeDevice
from vhostuser.virtqueue import Fault

GET_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_NUM, SET_VRING_CALL = 1, 16, 8, 13
SET_BACKEND_REQ_FD = 21
ACK = VERSION | NEED_REPLY


@dataclass
class Served:
    """A running server and what it said."""

    path: os.PathLike[str]
    server: Server
    device: FakeDevice
    events: list[tuple[str, dict]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(path, *, seconds=10.0, device=None):
    device = device or FakeDevice()
    with trio.fail_after(30):
        async with testing.serving(path, device, seconds=seconds) as server:
            served = Served(path, server, device)
            server.notify = lambda name, data: served.events.append((name, dict(data)))
            yield served


@pytest.fixture
async def served(tmp_path):
    async with serving(tmp_path / "socket") as served:
        yield served


async def idle(server):
    """Wait until the last session has ended."""
    while server.connection is not None:
        await trio.lowlevel.checkpoint()


async def negotiate(raw):
    await raw.message(SET_PROTOCOL_FEATURES, struct.pack("<Q", 0x8))


async def test_a_whole_session_reaches_the_data_path_in_order(served):
    with GuestMemory() as memory:
        async with FrontendClient.connect(served.path, memory) as client:
            await client.negotiate(queues=2)
            client.setup_queue(0)
            await client.start()
            await client.stop()
    await idle(served.server)
    kinds = [call[0] for call in served.device.datapath.calls]
    assert kinds.index("commit_memory") < kinds.index("start_queue") < kinds.index("stop_queue")
    assert ("stop_queue", 0, StopMode.DRAIN) in served.device.datapath.calls
    assert kinds[-1] == "leave"


async def test_events_tell_who_came_and_went(served):
    async with RawFrontend.connect(served.path) as raw:
        assert (await raw.ask(GET_FEATURES)).number == GET_FEATURES
        number = served.server.connection.number
    await idle(served.server)
    assert served.events == [
        ("CONNECTED", {"connection": number}),
        ("DISCONNECTED", {"connection": number}),
    ]


async def test_a_second_front_end_waits_and_is_named_in_the_log(served, caplog):
    caplog.set_level(logging.INFO)
    async with RawFrontend.connect(served.path) as first:
        await first.ask(GET_FEATURES)
        async with RawFrontend.connect(served.path) as second:
            await second.message(GET_FEATURES)
            while "another front-end waits" not in caplog.text:
                await trio.lowlevel.checkpoint()
            first.sock.close()
            assert (await second.reply()).number == GET_FEATURES
    assert caplog.text.count("another front-end waits") == 1


async def test_messages_may_come_byte_by_byte_and_many_at_once(served):
    async with RawFrontend.connect(served.path) as raw:
        for byte in raw_message(GET_FEATURES):
            await raw.send(bytes([byte]))
        assert (await raw.reply()).number == GET_FEATURES
        await raw.send(raw_message(GET_FEATURES) * 1000)
        for _ in range(1000):
            assert (await raw.reply()).number == GET_FEATURES


async def test_a_message_that_stalls_ends_its_connection_only(tmp_path, caplog):
    async with serving(tmp_path / "socket", seconds=0.05) as served:
        async with RawFrontend.connect(served.path) as raw:
            await raw.send(raw_message(GET_FEATURES)[:5])
            assert await raw.reply() is None
        assert "field=length value=5" in caplog.text
        async with RawFrontend.connect(served.path) as raw:
            assert (await raw.ask(GET_FEATURES)).number == GET_FEATURES


async def test_an_idle_connection_has_no_deadline(tmp_path):
    async with (
        serving(tmp_path / "socket", seconds=0.01) as served,
        RawFrontend.connect(served.path) as raw,
    ):
        assert (await raw.ask(GET_FEATURES)).number == GET_FEATURES
        with trio.move_on_after(0.05):
            await raw.reply()
            pytest.fail("an idle connection was closed")


async def test_a_refused_request_leaves_the_connection_as_it_was(served, caplog):
    async with RawFrontend.connect(served.path) as raw:
        await negotiate(raw)
        assert (await raw.ask(SET_VRING_NUM, struct.pack("<II", 0, 999), flags=ACK)).value != 0
        assert (await raw.ask(SET_VRING_NUM, struct.pack("<II", 0, 128), flags=ACK)).value == 0
    assert caplog.text.count("refused") == 1
    assert "message=SET_VRING_NUM field=num value=999" in caplog.text


async def test_the_same_without_need_reply_closes_the_connection(served, caplog):
    async with RawFrontend.connect(served.path) as raw:
        await negotiate(raw)
        assert await raw.ask(SET_VRING_NUM, struct.pack("<II", 0, 999), flags=VERSION) is None
    await idle(served.server)
    assert "closed: message=SET_VRING_NUM field=num value=999" in caplog.text


async def test_a_start_that_the_data_path_refuses_is_nacked_and_the_fd_closed(served, caplog):
    served.device.datapath.fail = OSError(14, "desc address 0x0: not in the memory table")
    with GuestMemory() as memory:
        async with FrontendClient.connect(served.path, memory) as client:
            await client.negotiate(queues=1)
            client.setup_queue(0)
            with pytest.raises(Exception, match=r"SET_VRING_KICK|SetVringKick"):
                await client.start()
            kick = OwnedFd(os.eventfd(0))
            with kick:  # the same message is fine now: nothing was changed by the failure
                await client.request(SetVringKick(index=0, no_fd=False), [kick])
    assert "desc address 0x0" in caplog.text


async def test_memory_that_the_data_path_cannot_use_is_nacked_and_unmapped(served, caplog):
    served.device.datapath.fail_memory = OSError(12, "no room for another mapping")
    with GuestMemory() as memory:
        (region,) = memory.regions
        async with FrontendClient.connect(served.path, memory) as client:
            await client.negotiate()
            before = held()
            with pytest.raises(RequestRefusedError):
                await client.add_region(region)
            assert held().more_than(before) == ""
            assert served.server.connection.carrier.memory.snapshot.number == 0
            await client.add_region(region)
            steps = [call for call in served.device.datapath.calls if "memory" in call[0]]
            assert steps == [("prepare_memory", 1), ("commit_memory", 1), ("release_memory", 0)]
    assert "no room for another mapping" in caplog.text


async def test_fds_of_refused_and_replaced_messages_are_closed(served):
    async with RawFrontend.connect(served.path) as raw:
        await negotiate(raw)
        with OwnedFd(os.eventfd(0)) as fd:
            await raw.ask(SET_VRING_CALL, struct.pack("<Q", 0), flags=ACK, fds=[fd])
            before = held()
            for index in (0, 0, 7, 0):
                await raw.ask(SET_VRING_CALL, struct.pack("<Q", index), flags=ACK, fds=[fd])
            await raw.ask(SET_VRING_CALL, struct.pack("<Q", 0), flags=ACK, fds=[fd] * 5)
            assert held().more_than(before) == ""


async def test_fds_of_a_message_whose_payload_never_comes_are_closed(tmp_path):
    async with serving(tmp_path / "socket", seconds=0.01) as served:
        before = held()
        async with RawFrontend.connect(served.path) as raw:
            with OwnedFd(os.eventfd(0)) as fd:
                await raw.send(raw_message(SET_VRING_CALL, size=8), [fd])
            assert await raw.reply() is None
        await idle(served.server)
        assert held().more_than(before) == ""


async def test_fds_that_come_after_the_first_byte_end_the_connection(served, caplog):
    async with RawFrontend.connect(served.path) as raw:
        message = raw_message(SET_VRING_CALL, struct.pack("<Q", 0))
        with OwnedFd(os.eventfd(0)) as fd:
            await raw.send(message[:1])
            await wait_all_tasks_blocked()  # else one read would take both parts
            await raw.send(message[1:], [fd])
        assert await raw.reply() is None
    assert "first byte of a message" in caplog.text


async def test_a_bug_ends_the_session_with_a_traceback_and_the_server_goes_on(tmp_path, caplog):
    class Buggy(FakeDevice):
        async def read_config(self, offset, size):
            raise ZeroDivisionError("a bug")

    async with serving(tmp_path / "socket", device=Buggy()) as served:
        with GuestMemory() as memory, pytest.raises(Exception, match="closed"):
            async with FrontendClient.connect(served.path, memory) as client:
                await client.negotiate(queues=1)
        await idle(served.server)
        assert "ended by a bug" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        async with RawFrontend.connect(served.path) as raw:
            assert (await raw.ask(GET_FEATURES)).number == GET_FEATURES


async def test_cancelling_the_server_leaves_the_device_clean(tmp_path):
    device = FakeDevice()
    before = held()
    async with serving(tmp_path / "socket", device=device) as served:
        with GuestMemory() as memory:
            async with FrontendClient.connect(served.path, memory) as client:
                await client.negotiate(queues=2)
                client.setup_queue(0)
                await client.start()
    assert device.datapath.calls[-1] == ("leave",)
    assert held().more_than(before) == ""


async def test_a_broken_ring_is_logged_told_and_can_be_started_anew(served, caplog):
    with GuestMemory() as memory:
        async with FrontendClient.connect(served.path, memory) as client:
            await client.negotiate(queues=1)
            client.setup_queue(0)
            await client.start()
            served.device.datapath.events.ring_broken(0, Fault.HEAD, 0x1234)
            assert served.server.connection.session.state.vrings[0].broken
            await client.stop()
            await client.start()
            assert not served.server.connection.session.state.vrings[0].broken
    assert "ring 0 stopped: HEAD = 0x1234" in caplog.text
    assert ("RING_BROKEN", 0x1234) in [(name, data.get("value")) for name, data in served.events]


async def test_a_changed_configuration_reaches_the_front_end_on_the_back_end_channel(served):
    told = trio.Event()
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.connect(os.fspath(served.path))

    def accept(request):
        told.set()
        return True

    with GuestMemory() as memory:
        async with FrontendClient.over(sock, memory, order=QEMU, accept=accept) as client:
            await client.negotiate(queues=1)
            served.device.datapath.events.config_changed()
            with trio.fail_after(10):
                await told.wait()


async def test_a_second_socket_for_the_back_end_channel_replaces_the_first(served):
    ends = [socket.socketpair() for _ in range(2)]
    async with RawFrontend.connect(served.path) as raw:
        await raw.message(SET_PROTOCOL_FEATURES, struct.pack("<Q", 0x228))
        for _, theirs in ends:
            with OwnedFd(theirs.detach()) as fd:
                assert (await raw.ask(SET_BACKEND_REQ_FD, flags=ACK, fds=[fd])).value == 0
            await wait_all_tasks_blocked()
        assert ends[0][0].recv(1) == b""
        served.device.datapath.events.config_changed()
        await wait_all_tasks_blocked()
        assert len(ends[1][0].recv(100)) == 12
        assert (await raw.ask(GET_FEATURES)).number == GET_FEATURES
    for ours, _ in ends:
        ours.close()


async def test_a_server_that_connects_waits_for_its_front_end_and_comes_back(
    tmp_path, autojump_clock
):
    path = tmp_path / "front-end"
    server = Server(device=FakeDevice(), endpoint=ConnectingEndpoint(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await trio.sleep(5)
        with trio.socket.from_stdlib_socket(bind_unix(path)) as listener:
            for _ in range(2):
                sock, _ = await listener.accept()
                raw = RawFrontend(sock)
                assert (await raw.ask(GET_FEATURES)).number == GET_FEATURES
                sock.close()
        nursery.cancel_scope.cancel()


async def test_two_servers_do_not_disturb_each_other(tmp_path):
    async with (
        serving(tmp_path / "one") as one,
        serving(tmp_path / "two", device=FakeDevice(datapath=FakeDatapath())) as two,
        RawFrontend.connect(one.path) as bad,
        RawFrontend.connect(two.path) as good,
    ):
        await good.ask(GET_FEATURES)
        await bad.send(b"\xff" * 4096)
        assert await bad.reply() is None
        assert (await good.ask(GET_FEATURES)).number == GET_FEATURES
