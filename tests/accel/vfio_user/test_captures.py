"""What QEMU 11.1.3 sent to other servers, replayed against ours: the same answers, byte for byte.

The device is made of the capture, too: it has the regions that were described, and gives what was
read. VERSION alone is answered in our own words.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict, deque
from pathlib import Path

import pytest
import trio
from vfio_user_rig import RawPeer, RecordingDevice, memfd, serving

from accel.vfio_user import EmulatedRegion
from protocol import vfio_user as wire
from vhostuser.fds import OwnedFd

CAPTURES = sorted((Path(__file__).parents[2] / "captures").glob("vfio-user-qemu11-*.jsonl"))


def recorded(path):
    """Yield direction, header, payload and what each fd was."""
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        data = bytes.fromhex(entry["hex"])
        yield entry["dir"], wire.Header.parse(data), data, entry.get("fds", [])


class RecordedDevice(RecordingDevice):
    """The device of a capture."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.regions, self.irqs = {}, {0: 1}
        self.answers = defaultdict(deque)
        for direction, header, data, _ in recorded(path):
            if direction == "c2s":
                continue
            payload = data[wire.HEADER_SIZE :]
            message = wire.COMMANDS[header.command].reply.parse(payload)
            if isinstance(message, wire.RegionInfo) and message.size:
                self.regions[message.index] = EmulatedRegion(size=message.size)
            elif isinstance(message, wire.IrqInfo):
                self.irqs[message.index] = message.count
            elif isinstance(message, wire.RegionReadReply):
                self.answers[message.region, message.offset].append(message.data)

    async def read(self, region: int, offset: int, count: int) -> bytes:
        data = self.answers[region, offset].popleft()
        assert len(data) == count
        return data

    async def write(self, region: int, offset: int, data: bytes) -> None:
        self.calls.append(("write", region, offset, data))

    async def set_irqs(self, index, start, fds) -> None:
        self.calls.append(("set_irqs", index, start, [fd is not None for fd in fds]))

    async def disconnected(self) -> None:
        assert self.ranges  # QEMU left without unmapping its memory


def fd_like(what):
    """Make the kind of fd that came along."""
    if what["kind"] == "eventfd":
        return OwnedFd(os.eventfd(0))
    return memfd(what["size"])


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
async def test_qemu_gets_the_answers_that_it_got(path):
    device = RecordedDevice(path)
    traffic = list(recorded(path))
    expected = [data for direction, _, data, _ in traffic if direction == "s2c"][1:]
    answers = []

    async def send(peer):
        for direction, header, data, kinds in traffic:
            if direction == "c2s" and header.command != 1:
                fds = [fd_like(kind) for kind in kinds]
                await peer.send(data, fds)
                for fd in fds:
                    fd.close()

    async def receive(peer):
        while len(answers) < len(expected):
            header, payload = await peer.receive()
            answers.append(header.build() + payload)

    with trio.fail_after(60):
        async with serving(device) as sock:
            peer = RawPeer(sock)
            await peer.send(traffic[0][2])
            assert not (await peer.receive())[0].is_error
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, peer)
                nursery.start_soon(receive, peer)
    assert answers == expected
    writes = sum(1 for _, header, _, _ in traffic if header.command == 10 and not header.is_reply)
    assert sum(call[0] == "write" for call in device.calls) == writes
    assert not any(device.answers.values())
    device.close()


def test_there_are_captures_to_replay():
    assert len(CAPTURES) == 2
