"""Simulated network devices under the virtio-pci driver: what is sent is what is received."""

from __future__ import annotations

import contextlib

import pytest
import trio
from simulator_rig import DOORBELLS, RINGS, connected, driven

from accel.simulator import SimulatedDevice, SimulatorOptions
from protocol.virtio import NetFeatures, VirtioFeatures
from vhostuser.devices import NetDevice, NetOptions, NetSwitch, SwitchOptions
from vhostuser.frontend import NetDriver

SECONDS = 20
RECEIVE, SEND = 0, 1
BUFFERS = 128  # more than frames are on their way: none is lost
MAC = bytes.fromhex("020000000001")
OTHER_MAC = bytes.fromhex("020000000002")
ALONE = SwitchOptions(mode="echo")
FEATURES = VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX | VirtioFeatures(NetFeatures.MAC)


class Station:
    """A guest with a started network device."""

    def __init__(self, guest, queues):
        self.guest = guest
        self.queues = queues
        self.driver = NetDriver([(queues[RECEIVE], queues[SEND])], buffers=BUFFERS)

    async def send(self, frame: bytes) -> None:
        await self.driver.send(frame)

    async def receive(self) -> bytes:
        return (await self.driver.receive()).data

    async def pause(self, index: int) -> None:
        """Stop a queue and let it go on where it stood."""
        state = await self.guest.accelerator.stop_queue(index)
        assert state is not None
        await self.guest.start_queue(self.queues[index], state)


@contextlib.asynccontextmanager
async def station(switch, *, mac=MAC, ring="split", doorbells="page"):
    async with (
        NetDevice.open(switch, NetOptions(mac=mac)) as net,
        SimulatedDevice.open(net, SimulatorOptions(), name="net") as device,
        connected(device, doorbells) as direct,
        driven(direct, FEATURES | RINGS[ring]) as guest,
    ):
        queues = [await guest.open_queue(index, num=BUFFERS) for index in range(2)]
        await guest.accelerator.start()
        yield Station(guest, queues)


def frame(number: int) -> bytes:
    """A frame for everybody, of a size and a content of its own."""
    return b"\xff" * 6 + MAC + bytes((number + i) % 256 for i in range(48 + number))


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
        NetSwitch.open(ALONE) as switch,
        station(switch, ring=ring, doorbells=doorbells) as alone,
    ):
        await exchange(alone, alone, range(50))
        assert await alone.guest.accelerator.read_config(0, 6) == MAC


@pytest.mark.parametrize("ring", RINGS)
async def test_peers_receive_what_the_other_sends(ring):
    async with (
        NetSwitch.open() as switch,
        station(switch, ring=ring) as one,
        station(switch, mac=OTHER_MAC) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(exchange, one, other, range(50))
        nursery.start_soon(exchange, other, one, range(100, 150))


@pytest.mark.parametrize("queue", [RECEIVE, SEND])
@pytest.mark.parametrize("ring", RINGS)
async def test_a_queue_is_suspended_while_frames_come_and_none_is_lost(ring, queue):
    async with NetSwitch.open(ALONE) as switch, station(switch, ring=ring) as alone:
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
    async with NetSwitch.open(ALONE) as switch, station(switch) as alone:
        assert alone.queues[RECEIVE].in_flight == BUFFERS
        with trio.fail_after(SECONDS):
            state = await alone.guest.accelerator.stop_queue(RECEIVE)
        assert state is not None
        assert (state.avail, state.used) == (0, 0)
