"""The server: order, memory, a device that is slow, clients that leave, several sockets."""

from __future__ import annotations

import os
import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from vfio_user_rig import (
    BAR,
    PAGE,
    RawPeer,
    client_of,
    memfd,
    message,
    raw_client_of,
    serving,
    trio_pair,
)

from accel.vfio_user import MSIX_IRQ, open_over, over, serve
from accel.vfio_user.given import GivenMemory
from protocol import vfio_user as wire
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd
from vhostuser.native import ffi
from vhostuser.stream import receive_with_fds

NO_REPLY = 0x10
IOVA = 0x10_0000


def dma_map(address, size, *, flags=3, offset=0):
    return struct.pack("=IIQQQ", 32, flags, offset, address, size)


def dma_unmap(address, size, *, flags=0):
    return struct.pack("=IIQQ", 24, flags, address, size)


def region_access(region, offset, count):
    return struct.pack("=QII", offset, region, count)


def set_irqs(flags, start, count, data=b"", *, index=MSIX_IRQ):
    return struct.pack("=5I", 20 + len(data), flags, index, start, count) + data


# Order


async def test_posted_writes_are_done_before_the_answer_to_what_comes_after_them(device):
    async with raw_client_of(device) as peer:
        posted = b"".join(
            message(10, region_access(BAR, at, 1) + bytes([at]), flags=NO_REPLY, number=at)
            for at in range(1, 100)
        )
        await peer.send(posted + message(9, region_access(BAR, 0, 100), number=500))
        header, payload = await peer.receive()
        assert header.id == 500
        assert payload[16:] == bytes(range(100))


async def test_the_client_can_post_writes_and_then_ask(device, client):
    for at in range(50):
        await client.post(BAR, at, bytes([at]))
    assert await client.read(BAR, 0, 50) == bytes(range(50))


async def test_several_writes_in_one_message_stop_at_the_first_that_is_refused(device):
    version = message(1, b"\0\0\2\0" + b'{"capabilities":{"write_multiple":true}}\0')
    writes = [(0, BAR, b"ab"), (4, BAR, b"c"), (0, 3, b"x"), (8, BAR, b"d")]
    payload = struct.pack("=Q", len(writes)) + b"".join(
        struct.pack("=QII8s", offset, region, len(data), data) for offset, region, data in writes
    )
    async with raw_client_of(device, version=version) as peer:
        header, answer = await peer.ask(15, payload)
        assert not header.is_error
        assert struct.unpack("=Q", answer) == (2,)
        assert device.registers[BAR][:9] == b"ab\0\0c\0\0\0\0"
        first_bad = struct.pack("=QQII8s", 1, 0, 3, 1, b"x")
        header, _ = await peer.ask(15, first_bad)
        assert header.is_error


# The reader goes on


async def test_a_slow_device_does_not_stop_the_reading(device):
    release = trio.Event()
    device.before = lambda kind, offset: release.wait() if offset == 0x20 else None
    async with raw_client_of(device) as peer:
        await peer.send(message(9, region_access(BAR, 0x20, 4), number=7))
        # Far more than a socket's buffers hold: this only ends when somebody reads it.
        with trio.fail_after(30):
            for at in range(200):
                block = region_access(BAR, 0, 4096) + bytes([at]) * 4096
                await peer.send(message(10, block, flags=NO_REPLY))
        release.set()
        header, _ = await peer.receive()
        assert header.id == 7
        header, payload = await peer.ask(9, region_access(BAR, 0, 1))
        assert payload[16:] == bytes([199])


async def test_reading_pauses_when_much_is_left_to_do_and_goes_on(device, monkeypatch):
    release = trio.Event()
    device.before = lambda kind, offset: release.wait() if offset == 0x20 else None
    total = 24 << 20
    sent = 0
    async with raw_client_of(device) as peer:

        async def send():
            nonlocal sent
            block = message(10, region_access(BAR, 0, 8192) + bytes(8192), flags=NO_REPLY)
            while sent < total:
                await peer.send(block)
                sent += len(block)

        await peer.send(message(9, region_access(BAR, 0x20, 4), number=7))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked(0.05)
            assert sent < total
            release.set()
        header, _ = await peer.ask(9, region_access(BAR, 0, 4), number=8)
        assert not header.is_error


async def test_a_client_that_commands_but_does_not_answer_is_left(device):
    asked = trio.Event()

    async def read_memory():
        asked.set()
        await device.memory.read(IOVA, 4)

    device.before = lambda kind, offset: read_memory() if offset == 0x20 else None
    async with raw_client_of(device) as peer:
        await peer.ask(2, dma_map(IOVA, PAGE))
        await peer.send(message(9, region_access(BAR, 0x20, 4)))
        await asked.wait()
        block = message(10, region_access(BAR, 0, 8192) + bytes(8192), flags=NO_REPLY)

        async def flood():
            while True:
                await peer.send(block)

        with trio.fail_after(30), pytest.raises(OSError, match=r"Broken pipe|reset"):
            await flood()


# Memory


def mapped(size):
    """Return memory of this process and the range that it makes."""
    memory = ffi.new("char[]", size)
    address = int(ffi.cast("uintptr_t", memory))
    return memory, GivenMemory(address=IOVA, size=size, hva=address)


async def test_the_device_reaches_memory_without_a_file_by_messages(device, client):
    memory, given = mapped(3 << 20)
    await client.map(given, None, 0)
    data = os.urandom((2 << 20) + 5)
    await device.memory.write(IOVA + 3, data)
    assert ffi.buffer(memory)[3 : 3 + len(data)] == data
    assert await device.memory.read(IOVA + 3, len(data)) == data
    await client.unmap(given)
    with pytest.raises(AcceleratorError, match="not mapped"):
        await device.memory.read(IOVA, 1)


async def test_a_device_may_reach_memory_while_it_is_being_read(device, client):
    """A server that stopped reading here would wait for an answer that it never reads."""
    memory, given = mapped(PAGE)
    ffi.buffer(memory)[:4] = b"from"

    async def copy():
        await device.memory.write(IOVA + 8, await device.memory.read(IOVA, 4))

    device.before = lambda kind, offset: copy() if offset == 0x20 else None
    await client.map(given, None, 0)
    with trio.fail_after(30):
        await client.read(BAR, 0x20, 4)
    assert ffi.buffer(memory)[8:12] == b"from"
    await client.unmap(given)


async def test_the_device_may_run_through_ranges_that_follow_each_other(device):
    async with raw_client_of(device) as peer:
        with memfd(2 * PAGE) as low, memfd(2 * PAGE) as high:
            await peer.ask(2, dma_map(IOVA, PAGE), [low])
            await peer.ask(2, dma_map(IOVA + PAGE, PAGE, offset=PAGE), [high])
            await device.memory.write(IOVA + PAGE - 2, b"abcd")
            assert os.pread(low.fileno(), 2, PAGE - 2) == b"ab"
            assert os.pread(high.fileno(), 2, PAGE) == b"cd"


@pytest.mark.parametrize(("flags", "reads", "writes"), [(1, True, False), (2, False, True)])
async def test_the_device_obeys_what_a_range_allows(device, flags, reads, writes):
    async with raw_client_of(device) as peer:
        with memfd(PAGE) as fd:
            await peer.ask(2, dma_map(IOVA, PAGE, flags=flags), [fd])
        for allowed, attempt in (
            (reads, device.memory.read(IOVA, 1)),
            (writes, device.memory.write(IOVA, b"x")),
        ):
            if allowed:
                await attempt
            else:
                with pytest.raises(AcceleratorError, match="may not"):
                    await attempt


async def test_memory_is_taken_away_only_when_the_device_has_finished_with_it(device):
    async with raw_client_of(device) as peer:
        await peer.ask(2, dma_map(IOVA, PAGE))
        read = []

        async def use():
            read.append(await device.memory.read(IOVA, 4))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            header, _ = await peer.receive()
            assert (header.command, header.is_reply) == (11, False)
            await peer.send(message(3, dma_unmap(IOVA, PAGE), number=2))
            await wait_all_tasks_blocked()
            assert len(device.ranges) == 1
            reply = wire.Header(id=header.id, command=11, size=36, flags=1).build()
            await peer.send(reply + struct.pack("=QQ4s", IOVA, 4, b"data"))
            header, _ = await peer.receive()
            assert (header.id, header.command, header.is_error) == (2, 3, False)
        assert read == [b"data"]
        assert device.ranges == []


async def test_all_memory_can_be_taken_away_at_once(device):
    async with raw_client_of(device) as peer:
        for at in range(5):
            await peer.ask(2, dma_map(IOVA + at * PAGE, PAGE))
        header, payload = await peer.ask(3, dma_unmap(0, 0, flags=2))
        assert not header.is_error
        assert payload == dma_unmap(0, 0, flags=2)
        assert device.ranges == []


# Interrupts


async def test_the_client_can_trigger_interrupts_itself(device):
    fds = [OwnedFd(os.eventfd(0, os.EFD_NONBLOCK)) for _ in range(3)]
    async with raw_client_of(device) as peer:
        await peer.ask(8, set_irqs(0x24, 1, 3), fds)
        await peer.ask(8, set_irqs(0x21, 0, 4))
        await peer.ask(8, set_irqs(0x22, 1, 3, b"\1\0\1"))
        assert [os.eventfd_read(fd.fileno()) for fd in (fds[0], fds[2])] == [2, 2]
        assert os.eventfd_read(fds[1].fileno()) == 1
        await peer.ask(8, set_irqs(0x21, 0, 0))
        assert device.vectors == [None] * 4
    for fd in fds:
        fd.close()


async def test_an_eventfd_that_is_full_keeps_nobody_waiting(device):
    with OwnedFd(os.eventfd(0)) as fd:
        os.eventfd_write(fd.fileno(), (1 << 64) - 2)
        async with raw_client_of(device) as peer:
            await peer.ask(8, set_irqs(0x24, 0, 1), [fd])
            with trio.fail_after(30):
                header, _ = await peer.ask(8, set_irqs(0x21, 0, 1))
            assert not header.is_error


# Clients come and go


async def test_a_client_that_leaves_takes_its_memory_and_eventfds_along_and_the_state_stays(device):
    async with raw_client_of(device) as peer:
        with memfd(PAGE) as fd, OwnedFd(os.eventfd(0)) as irq:
            await peer.ask(2, dma_map(IOVA, PAGE), [fd])
            await peer.ask(8, set_irqs(0x24, 0, 1), [irq])
        await peer.ask(10, region_access(BAR, 0, 4) + b"kept")
        (dma,), irq = device.ranges, device.vectors[0]
        device.calls.clear()
    assert device.calls == [("disconnected",), ("unmap", IOVA, PAGE)]
    assert dma.fd.closed
    assert irq.closed
    async with client_of(device) as client:
        assert await client.read(BAR, 0, 4) == b"kept"


async def test_what_was_posted_before_the_client_left_is_still_done(device):
    async with raw_client_of(device) as peer:
        await peer.send(message(10, region_access(BAR, 0, 1) + b"!", flags=NO_REPLY))
    assert device.registers[BAR][0] == ord("!")


async def test_a_client_that_leaves_while_the_device_reaches_for_its_memory(device):
    failed = []

    async def reach():
        try:
            await device.memory.read(IOVA, 4)
        except OSError as error:
            failed.append(str(error))

    device.before = lambda kind, offset: reach() if offset == 0x20 else None
    async with raw_client_of(device) as peer:
        await peer.ask(2, dma_map(IOVA, PAGE))
        await peer.send(message(9, region_access(BAR, 0x20, 4)))
        await peer.receive()
    assert len(failed) == 1
    assert "closed the connection" in failed[0]


async def test_a_device_that_is_stuck_in_a_command_of_a_client_that_left_is_let_go(device):
    stuck = trio.Event()

    async def hang():
        stuck.set()
        await trio.sleep_forever()

    device.before = lambda kind, offset: hang()
    with trio.fail_after(30):
        async with raw_client_of(device, seconds=0.05) as peer:
            await peer.send(message(9, region_access(BAR, 0, 4)))
            await stuck.wait()
    assert device.calls[-1] == ("disconnected",)


async def test_a_bug_of_the_device_costs_its_client_only(device, caplog):
    def bug(kind, offset):
        raise ZeroDivisionError

    device.before = bug
    async with raw_client_of(device) as peer:
        with memfd(PAGE) as fd:
            device.before = lambda kind, offset: None
            await peer.ask(2, dma_map(IOVA, PAGE), [fd])
        device.before = bug
        await peer.send(message(9, region_access(BAR, 0, 4)))
        await peer.ended()
    assert "ended by a bug of this program" in caplog.text
    device.before = lambda kind, offset: None
    async with client_of(device) as client:
        assert await client.read(BAR, 0, 1) == b"\0"


async def test_clients_are_served_one_after_the_other(device, caplog):
    class Endpoint:
        def __init__(self, socks):
            self.socks = socks

        async def accept(self):
            return self.socks.pop(0) if self.socks else None

        async def another_waits(self):
            if not self.socks:
                await trio.sleep_forever()

        def close(self):
            pass

    caplog.set_level("INFO")
    pairs = [trio_pair() for _ in range(2)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Endpoint([theirs for _, theirs in pairs]), device)
        for ours, _ in pairs:
            async with over(ours, "vfio-user:test") as client:
                await client.write(BAR, 0, b"x")
    assert caplog.text.count("another client waits") == 1
    assert [call[0] for call in device.calls] == ["connected", "write", "disconnected"] * 2


# The twin socket


async def test_a_client_that_asks_for_it_gets_the_servers_commands_on_a_socket_of_their_own(device):
    capabilities = b'{"capabilities":{"twin_socket":{"supported":true}}}\0'
    async with serving(device) as sock:
        peer = RawPeer(sock)
        await peer.send(message(1, b"\0\0\2\0" + capabilities))
        data, fds, _ = await receive_with_fds(sock, 1 << 16)
        assert b'"twin_socket": {"supported": true, "fd_index": 0}' in data
        (fd,) = fds
        twin = RawPeer(trio.socket.from_stdlib_socket(socket.socket(fileno=fd.detach())))
        await peer.ask(2, dma_map(IOVA, PAGE))

        async def answer():
            header, payload = await twin.receive()
            assert (header.command, payload) == (11, struct.pack("=QQ", IOVA, 4))
            await twin.send(
                wire.Header(id=header.id, command=11, size=36, flags=1).build()
                + struct.pack("=QQ4s", IOVA, 4, b"twin")
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await device.memory.read(IOVA, 4) == b"twin"
        # What comes there unasked ends both.
        await twin.send(message(9, region_access(BAR, 0, 4)))
        await twin.ended()
        await peer.ended()
        twin.close()


async def test_pci_devices_are_served_to_their_clients_again_and_again(device):
    for _ in range(3):
        async with client_of(device) as client, open_over(client) as pci:
            await pci.reset()
    assert [call[0] for call in device.calls].count("reset") == 3
