"""Simulated network devices under the virtio-pci driver: what is sent is what is received."""

from __future__ import annotations

import contextlib

import pytest
import trio
from simulator_rig import DOORBELLS, RINGS, connected, driven

from accel.simulator import SimulatedDevice, SimulatorOptions
from protocol.virtio import NET_HEADER_SIZE, NetFeatures, NetHeader, VirtioFeatures
from vhostuser.devices import NetDevice, NetPorts

SECONDS = 20
RECEIVE, SEND = 0, 1
FEATURES = VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX | VirtioFeatures(NetFeatures.MAC)


class Station:
    """A guest with a started network device."""

    def __init__(self, guest, queues):
        self.guest = guest
        self.queues = queues

    async def send(self, frame: bytes) -> None:
        data = bytes(NetHeader()) + frame
        buffer = self.guest.memory.alloc(len(data))
        self.guest.memory.write(buffer.gpa, data)
        await self.queues[SEND].transfer([buffer], [])
        self.guest.memory.free(buffer)

    async def receive(self) -> bytes:
        buffer = self.guest.memory.alloc(2048)
        written = await self.queues[RECEIVE].transfer([], [buffer])
        data = self.guest.memory.read(buffer.gpa, written)
        self.guest.memory.free(buffer)
        return data[NET_HEADER_SIZE:]

    async def pause(self, index: int) -> None:
        """Stop a queue and let it go on where it stood."""
        state = await self.guest.accelerator.stop_queue(index)
        assert state is not None
        await self.guest.start_queue(self.queues[index], state)


@contextlib.asynccontextmanager
async def station(ports, port=0, *, ring="split", doorbells="page"):
    async with (
        NetDevice.open(ports, port) as net,
        SimulatedDevice.open(net, SimulatorOptions(), name=f"net{port}") as device,
        connected(device, doorbells) as direct,
        driven(direct, FEATURES | RINGS[ring]) as guest,
    ):
        queues = [await guest.open_queue(index) for index in range(2)]
        await guest.accelerator.start()
        yield Station(guest, queues)


def frame(number: int) -> bytes:
    return bytes((number + i) % 256 for i in range(60 + number))


async def exchange(sender, receiver, numbers) -> None:
    """Send and receive at once; frames keep their order."""

    async def send() -> None:
        for number in numbers:
            await sender.send(frame(number))

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for number in numbers:
                assert await receiver.receive() == frame(number)


@pytest.mark.parametrize("doorbells", DOORBELLS)
@pytest.mark.parametrize("ring", RINGS)
async def test_a_device_receives_what_it_sends(ring, doorbells):
    async with (
        NetPorts.open() as ports,
        station(ports, ring=ring, doorbells=doorbells) as alone,
    ):
        await exchange(alone, alone, range(50))
        mac = await alone.guest.accelerator.read_config(0, 6)
        assert mac == bytes.fromhex("020000000000")


@pytest.mark.parametrize("ring", RINGS)
async def test_peers_receive_what_the_other_sends(ring):
    async with NetPorts.open(2) as ports:
        ports.connect(0, 1)
        async with (
            station(ports, 0, ring=ring) as one,
            station(ports, 1) as other,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(exchange, one, other, range(50))
            nursery.start_soon(exchange, other, one, range(100, 150))


@pytest.mark.parametrize("queue", [RECEIVE, SEND])
@pytest.mark.parametrize("ring", RINGS)
async def test_a_queue_is_suspended_while_frames_come_and_none_is_lost(ring, queue):
    async with NetPorts.open() as ports, station(ports, ring=ring) as alone:
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                if queue == SEND:
                    nursery.start_soon(exchange, alone, alone, range(100))
                    for _ in range(10):
                        await alone.pause(queue)
                else:
                    # A frame for a queue that is not served would be dropped: none is on its way.
                    for number in range(10):
                        await exchange(alone, alone, [number])
                        await alone.pause(queue)
        await exchange(alone, alone, range(10))


async def test_buffers_that_wait_for_frames_do_not_keep_a_queue_from_being_suspended():
    async with NetPorts.open() as ports, station(ports) as alone:
        buffers = [alone.guest.memory.alloc(2048) for _ in range(8)]
        for buffer in buffers:
            assert alone.queues[RECEIVE].add([], [buffer]) is not None
        with trio.fail_after(SECONDS):
            state = await alone.guest.accelerator.stop_queue(RECEIVE)
        assert state is not None
        assert (state.avail, state.used) == (0, 0)
