"""Network devices: frames between drivers in the same process, through real engine threads."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from protocol.virtio import (
    NET_HEADER_SIZE,
    NetConfig,
    NetFeatures,
    NetHeader,
    NetStatus,
    VirtioFeatures,
)
from vhostuser.datapath import RingActual, RingFd, RingStart, StopMode
from vhostuser.devices import NetDevice, NetOptions, NetPorts
from vhostuser.errors import RequestError
from vhostuser.frontend import DriverQueue, GuestMemory
from vhostuser.memory import MemoryTable
from vhostuser.testing import held
from vhostuser.virtqueue import RingState

SPLIT = VirtioFeatures.VERSION_1
PACKED = SPLIT | VirtioFeatures.RING_PACKED
MERGE = VirtioFeatures(NetFeatures.MRG_RXBUF)
HEADER = bytes(NetHeader())


@dataclass
class Station:
    """A device, and a driver that knows it."""

    device: NetDevice
    guest: GuestMemory
    features: VirtioFeatures
    rx: DriverQueue
    tx: DriverQueue

    async def start(self):
        for index, queue in enumerate((self.rx, self.tx)):
            await self.start_ring(index, queue)

    async def start_ring(self, index, queue, state=None):
        datapath = self.device.datapath
        packed = VirtioFeatures.RING_PACKED in self.features
        start = RingStart(
            features=self.features,
            num=queue.num,
            desc=self.guest.uva(queue.areas.desc.gpa),
            driver=self.guest.uva(queue.areas.driver.gpa),
            device=self.guest.uva(queue.areas.device.gpa),
            state=state or RingState(avail=0, used=0, avail_wrap=packed, used_wrap=packed),
        )
        await datapath.set_fd(index, RingFd.CALL, queue.call.duplicate())
        await datapath.set_enabled(index, enabled=True)
        await datapath.start_queue(index, start, queue.kick.duplicate())

    async def send(self, frame, header=HEADER):
        """Send a frame; return once the device has given it back."""
        buffer = self.guest.alloc(len(header) + len(frame))
        self.guest.write(buffer.gpa, header + frame)
        await self.tx.transfer([buffer], [])
        self.guest.free(buffer)

    async def receive(self, size=2048):
        """Offer a buffer; return the header and what came with it."""
        buffer = self.guest.alloc(size)
        written = await self.rx.transfer([], [buffer])
        data = self.guest.read(buffer.gpa, written)
        self.guest.free(buffer)
        return NetHeader.parse(data[:NET_HEADER_SIZE]), data[NET_HEADER_SIZE:]


@contextlib.asynccontextmanager
async def station(ports, port, features):
    """A started device at a port."""
    with GuestMemory() as guest:
        async with NetDevice.open(ports, port) as device:
            table = MemoryTable()
            (region,) = guest.regions
            change = table.prepare_replace([(region.description, region.fd)])
            await device.datapath.commit_memory(change.snapshot)
            change.commit()
            change.release()
            with (
                contextlib.closing(DriverQueue(guest, 0, num=64, features=features)) as rx,
                contextlib.closing(DriverQueue(guest, 1, num=64, features=features)) as tx,
            ):
                yield Station(device, guest, features, rx, tx)
                await device.datapath.leave()
            table.close()


@pytest.fixture(autouse=True)
def nothing_leaks():
    before = held()
    yield
    assert held().more_than(before) == ""


@pytest.fixture
async def loop():
    with trio.fail_after(60):
        async with NetPorts.open() as ports:
            yield ports


def frame(number, size=60):
    return bytes((number + i) % 256 for i in range(size))


async def exchange(sender, receiver, number, size):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, frame(number, size))
        header, received = await receiver.receive()
    assert header == NetHeader(num_buffers=1)
    assert received == frame(number, size)


@pytest.mark.parametrize("features", [SPLIT, PACKED, SPLIT | MERGE, PACKED | MERGE])
async def test_a_port_gets_back_what_it_sends(loop, features):
    async with station(loop, 0, features) as one:
        await one.start()
        for number in range(100):
            await exchange(one, one, number, (14, 60, 1514)[number % 3])
        assert loop.counters(0).frames == 100
        rx, tx = one.device.datapath.statistics()
        assert (rx.requests, tx.requests, tx.errors) == (100, 100, 0)
        assert rx.bytes_read == tx.bytes_written > 0


async def test_peers_get_what_the_other_sends():
    with trio.fail_after(60):
        async with NetPorts.open(3) as ports:
            ports.connect(0, 1)
            async with station(ports, 0, SPLIT) as one, station(ports, 1, PACKED) as two:
                await one.start()
                await two.start()
                for number in range(50):
                    await exchange(one, two, number, 60)
                    await exchange(two, one, number, 333)
                assert [ports.counters(port).frames for port in range(3)] == [50, 50, 0]


async def test_a_device_may_come_and_go_beside_its_peer():
    with trio.fail_after(60):
        async with NetPorts.open(2) as ports:
            ports.connect(0, 1)
            async with station(ports, 0, SPLIT) as one:
                await one.start()
                for number in range(3):
                    await one.send(frame(0))
                    assert ports.counters(0).no_receiver == number + 1
                    async with station(ports, 1, SPLIT) as two:
                        await two.start()
                        await exchange(one, two, number, 60)


async def test_a_frame_waits_for_a_buffer_and_survives_a_pause(loop):
    async with station(loop, 0, SPLIT) as one:
        await one.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, frame(5))
            await trio.testing.wait_all_tasks_blocked()
            state = await one.device.datapath.stop_queue(1, StopMode.DRAIN)
            assert (state.avail, state.used) == (0, 0)
            await one.start_ring(1, one.tx, state)
            assert (await one.receive())[1] == frame(5)


async def test_what_cannot_be_sent_is_dropped_and_counted(loop):
    async with station(loop, 0, SPLIT) as one:
        await one.start()
        await one.send(frame(0, 13))
        await one.send(frame(0), header=bytes(NetHeader(flags=1)))
        await one.send(b"", header=b"short")
        assert loop.counters(0).bad == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.receive, 100)
            await trio.testing.wait_all_tasks_blocked()
            await one.send(frame(0, 500))
            assert loop.counters(0).too_large == 1
            await one.send(frame(0))
        assert one.device.datapath.statistics()[1].errors == 4


async def test_a_broken_ring_breaks_alone(loop):
    async with station(loop, 0, SPLIT) as one:
        await one.start()
        one.guest.write(one.rx.areas.driver.gpa + 2, (65).to_bytes(2, "little"))
        await one.send(frame(0))
        rx, tx = one.device.datapath.statistics()
        assert rx.actual is RingActual.BROKEN
        assert tx.actual is RingActual.RUNNING


async def test_the_configuration_says_address_link_and_mtu(loop):
    options = NetOptions(mac=b"\x52\x54\0\x12\x34\x56", mtu=9000)
    async with NetDevice.open(loop, 0, options) as device:
        config = NetConfig.parse(await device.read_config(0, 17))
        assert config == NetConfig(mac=options.mac, status=NetStatus.LINK_UP, mtu=9000)
        assert await device.read_config(16, 8) == b"\xff" + bytes(7)
        with pytest.raises(RequestError) as caught:
            await device.write_config(0, b"\x52", migration=False)
        assert caught.value.errno == errno.EPERM
        await device.write_config(0, b"\x52", migration=True)
        with pytest.raises(RequestError):
            await device.write_config(0, b"\x53", migration=True)


async def test_ports_have_addresses_of_their_own():
    async with NetPorts.open(300) as ports, NetDevice.open(ports, 299) as device:
        assert await device.read_config(0, 6) == bytes.fromhex("02000000012b")


async def test_there_must_be_such_ports():
    with pytest.raises(OSError, match="make 0 network ports"):
        async with NetPorts.open(0):
            pass
    async with NetPorts.open(1) as ports:
        with pytest.raises(OSError, match="connect ports 0 and 1"):
            ports.connect(0, 1)
        with pytest.raises(OSError, match="create a queue"):
            async with NetDevice.open(ports, 1):
                pass
