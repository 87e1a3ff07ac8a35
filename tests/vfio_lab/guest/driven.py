"""For checks of devices: who has them, a guest's memory before them, and what I/O must give."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from pathlib import Path

import trio

from accel.pci import MappedArea
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import QueueAddresses
from vhostuser.frontend import BlockDriver, DriverQueue, GuestMemory, RegionLayout
from vhostuser.memory import MappedRegion

BLK, NET = "0000:01:00.0", "0000:02:00.0"
PCI = Path("/sys/bus/pci/devices")
SECTOR = 512
_VFIO = "vfio-pci"
_MEBIBYTE = 1 << 20
# Above the hole that x86 has for interrupts: where a big guest's memory goes on.
GUEST_LAYOUT = (RegionLayout(gpa=1 << 32, size=4 * _MEBIBYTE),)


def sector(number):
    """Return what a disk of the lab holds in a sector that nobody wrote."""
    return f"sector {number:08} of the lab ".encode().ljust(SECTOR, b".")


def driver_of(address):
    """Return the name of the driver that has a device; nothing when none has it."""
    path = PCI / address / "driver"
    return path.resolve().name if path.exists() else ""


def take(address):
    """Give a device to the kernel's VFIO, unless it has it."""
    if driver_of(address) == _VFIO:
        return
    if driver_of(address):
        (PCI / address / "driver" / "unbind").write_text(address)
    (PCI / address / "driver_override").write_text(_VFIO)
    (PCI.parent / "drivers_probe").write_text(address)
    assert driver_of(address) == _VFIO


def interrupts(address):
    """Return how many interrupts of a device the kernel has passed on to user space, by vector."""
    lines = Path("/proc/interrupts").read_text().splitlines()
    found = [line.split() for line in lines if f"({address})" in line and "vfio-msix" in line]
    return {words[-1]: int(words[1]) for words in found}


class _Page:
    """A notify area as another process would have it: what a queue rings."""

    def __init__(self, area):
        with area.fd:
            self._pages = MappedArea(area.fd, area.offset, area.size)

    def ring(self, index):
        self._pages.store(0, 2, index)
        return True

    def close(self):
        self._pages.close()


@contextlib.asynccontextmanager
async def driven(accelerator, features, indexes, *, pages=True, make=DriverQueue):
    """Start queues of an accelerator on memory of ours, as a data path would.

    With pages they are kicked through the notify areas that another process would get, else
    through the accelerator.
    """
    async with contextlib.AsyncExitStack() as stack:
        memory = stack.enter_context(GuestMemory(GUEST_LAYOUT))
        region = memory.regions[0]
        mapped = MappedRegion(region.description, region.hva(region.layout.gpa), region.fd)
        await accelerator.set_features(features)
        await accelerator.map(mapped)
        stack.push_async_callback(accelerator.unmap, mapped)
        queues = [make(memory, index, num=64, features=features) for index in indexes]
        for queue in queues:
            stack.callback(queue.close)
        stack.push_async_callback(accelerator.reset)
        for queue in queues:
            await _start(accelerator, queue)
        await accelerator.start()
        async with trio.open_nursery() as nursery:
            for queue in queues:
                if pages:
                    area = await accelerator.notify_area(queue.index, os.sysconf("SC_PAGESIZE"))
                    page = stack.enter_context(contextlib.closing(_Page(area)))
                    queue.switch_doorbell(page)
                else:
                    nursery.start_soon(_relay, accelerator, queue)
            yield queues
            nursery.cancel_scope.cancel()


async def _start(accelerator, queue):
    areas = queue.areas
    addresses = QueueAddresses(
        num=queue.num, desc=areas.desc.gpa, driver=areas.driver.gpa, device=areas.device.gpa
    )
    await accelerator.set_call(queue.index, queue.call)
    await accelerator.start_queue(queue.index, addresses, None)


async def _relay(accelerator, queue):
    while True:
        await trio.lowlevel.wait_readable(queue.kick.fileno())
        os.eventfd_read(queue.kick.fileno())
        await accelerator.ring(queue.index)


async def use_disk(disk: BlockDriver, *, at: int, seed: int) -> int:
    """Read what the host wrote, write a MiB from sector `at` on and read it back, by every queue.

    Returns:
        How many requests that took.
    """
    requests = 0
    for number in (0, 3, 17, 8191):
        for queue in disk.queues:
            assert await disk.read(number, SECTOR, queue=queue) == sector(number), number
            requests += 1
    data = random.Random(seed).randbytes(_MEBIBYTE)  # noqa: S311 - no secret
    sizes = (1, 8, 64, 128)
    pieces = []
    start = 0
    while start < len(data):
        size = min(sizes[len(pieces) % len(sizes)] * SECTOR, len(data) - start)
        pieces.append((at + start // SECTOR, data[start : start + size]))
        start += size
    async with trio.open_nursery() as nursery:
        limit = trio.CapacityLimiter(8)
        for place, piece in pieces:
            nursery.start_soon(_write, disk, limit, place, piece)
    for place, piece in pieces:
        assert await disk.read(place, len(piece)) == piece, place
    return requests + 2 * len(pieces)


async def _write(disk, limit, place, piece):
    async with limit:
        await disk.write(place, piece)


class Network:
    """A network card's two queues, and the gateway behind it, which echoes.

    Args:
        receive, transmit: its running queues.
    """

    _HEADER = 12
    _ROOM = 2048
    _MAC = bytes.fromhex("525400123456")
    _US, _GATEWAY = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))

    def __init__(self, receive, transmit):
        self._receive, self._transmit = receive, transmit
        self._memory = receive.memory
        self._rooms = [self._memory.alloc(self._ROOM) for _ in range(16)]
        self._waiting = [(receive.add([], [room]), room) for room in self._rooms]
        self._gateway = b"\xff" * 6

    async def send(self, kind, payload):
        frame = self._gateway + self._MAC + struct.pack(">H", kind) + payload
        data = bytes(self._HEADER) + frame.ljust(60, b"\0")
        buffer = self._memory.alloc(len(data))
        self._memory.write(buffer.gpa, data)
        await self._transmit.transfer([buffer], [])
        self._memory.free(buffer)

    async def next_frame(self):
        """Wait for the next frame from the gateway; return its kind and what follows."""
        identity, room = self._waiting.pop(0)
        written = await self._receive.complete(identity)
        frame = self._memory.read(room.gpa, written)[self._HEADER :]
        self._memory.write(room.gpa, bytes(self._ROOM))
        self._waiting.append((self._receive.add([], [room]), room))
        assert frame[:6] in {self._MAC, b"\xff" * 6}, frame
        return struct.unpack_from(">H", frame, 12)[0], frame[14:]

    async def use(self, *, seed: int) -> int:
        """Find the gateway, then have it echo frames of all sizes; return how many."""
        who = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + self._MAC + self._US + bytes(6)
        await self.send(0x0806, who + self._GATEWAY)
        kind, answer = await self.next_frame()
        assert (kind, answer[6:8], answer[14:18]) == (0x0806, b"\0\2", self._GATEWAY), answer
        self._gateway = answer[8:14]
        source = random.Random(seed)  # noqa: S311 - no secret
        sizes = [0, 1, 17, 18, 19, 1471, 1472, *(source.randrange(1473) for _ in range(41))]
        for number, size in enumerate(sizes):
            payload = source.randbytes(size)
            await self.send(0x0800, self._ping(number, payload))
            kind, packet = await self.next_frame()
            assert (kind, packet[12:16], packet[20]) == (0x0800, self._GATEWAY, 0), packet
            assert packet[26:28] == struct.pack(">H", number), packet
            assert packet[28 : 28 + size] == payload, (number, size)
        return len(sizes)

    def _ping(self, number, payload):
        echo = struct.pack(">BBHHH", 8, 0, 0, 7, number) + payload
        echo = echo[:2] + _checksum(echo) + echo[4:]
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(echo), number, 0, 64, 1, 0)
        head += self._US + self._GATEWAY
        return head[:10] + _checksum(head) + head[12:] + echo


def _checksum(data):
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", total ^ 0xFFFF)


LAYOUTS = {
    "plain": VirtioFeatures.VERSION_1,
    "split": VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX,
    "packed": VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX | VirtioFeatures.RING_PACKED,
}
"""Features beside those of the kind of device, by the layout of the rings."""
