"""Recorded front-ends, played back to the real server: it answers where and as the recording does.

The descriptors are made anew with the recorded kinds and sizes. Where the recorded back-end offered
more than this one does, the front-end's side is adapted as that front-end would have done it: bits
that were not offered are not accepted, and messages that they unlock are not sent. Nobody plays the
driver: rings are empty, at the base that they were given.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from served_disk import QUEUES
from served_net import NET_PAIRS

from protocol import vhost_user as v
from protocol.virtio import NetFeatures
from vhostuser.fds import OwnedFd
from vhostuser.testing import RawFrontend

FOLDER = Path(__file__).parents[1] / "captures"
FILES = sorted(FOLDER.glob("vhost-user-*.jsonl"))
NET_FILES = [file for file in FILES if file.name.startswith("vhost-user-net-")]
# Answers that say what this device offers; its configuration, too, is its own.
OWN = {"GET_FEATURES", "GET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "GET_CONFIG"}
UDP_FRAGMENTS = NetFeatures.GUEST_UFO | NetFeatures.HOST_UFO
INDEX = struct.Struct("<H")


def conversations(file: Path) -> list[list[dict[str, Any]]]:
    """The messages of a recording, by connection and in order."""
    found: dict[int, list[dict[str, Any]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "hex" in record:
            found.setdefault(record["conn"], []).append(record)
    return list(found.values())


class Player:
    """Plays the recorded front-end on one connection.

    Args:
        raw: the connection.
        stack: closes what is made here.
    """

    def __init__(self, raw: RawFrontend, stack: contextlib.ExitStack) -> None:
        self.raw = raw
        self.stack = stack
        self.offered: dict[str, int] = {}
        self.taken = 0
        self.regions: list[tuple[v.MemRegion, OwnedFd]] = []
        self.rings: dict[int, v.SetVringAddr] = {}
        self.bases = dict.fromkeys(range(QUEUES), 0)

    def own(self, number: int) -> OwnedFd:
        return self.stack.enter_context(OwnedFd(number))

    def make_fd(self, info: dict[str, Any]) -> OwnedFd:
        if info["kind"] == "eventfd":
            return self.own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        if info["kind"] == "socket":
            ours, theirs = socket.socketpair()
            self.own(ours.detach())
            return self.own(theirs.detach())
        fd = self.own(os.memfd_create("guest-memory", os.MFD_CLOEXEC))
        os.truncate(fd.fileno(), info["size"])
        return fd

    def is_sent(self, row: v.MessageRow) -> bool:
        """Whether this front-end would send the message to a back-end that offers what we do."""
        if not isinstance(row.feature, v.ProtocolFeature):
            return True
        return bool(self.offered["GET_PROTOCOL_FEATURES"] & row.feature.mask)

    async def play(self, record: dict[str, Any]) -> bool:
        """Send one recorded request; return whether it was to be sent."""
        row = v.CURRENT.row(v.Channel.FRONT_END, record["req"])
        assert row is not None
        if not self.is_sent(row):
            return False
        header, payload = record_parts(record)
        message = row.message.from_fields(row.payload.parse(payload))
        if isinstance(message, v.SetFeatures):
            self.taken |= message.features
        if isinstance(message, v.SetFeatures | v.SetProtocolFeatures):
            offered = self.offered[row.name.replace("SET", "GET")]
            payload = struct.pack("<Q", message.features & offered)
        fds = [self.make_fd(info) for info in record["fdinfo"]]
        self.remember(message, fds)
        await self.raw.message(row.number, payload, flags=header.flags, fds=fds)
        return True

    def remember(self, message: v.Message, fds: list[OwnedFd]) -> None:
        match message:
            case v.AddMemReg(region=region):
                self.regions.append((region, fds[0]))
            case v.SetMemTable(regions=regions):
                self.regions = list(zip(regions, fds, strict=True))
            case v.SetVringAddr(index=index):
                self.rings[index] = message
            case v.SetVringBase(index=index, base=base):
                self.bases[index] = base
            case v.SetVringKick(index=index):
                # As if the driver had made as much available before as the base says.
                for area in (self.rings[index].avail, self.rings[index].used):
                    self.poke(area + 2, INDEX.pack(self.bases[index]))

    def poke(self, address: int, data: bytes) -> None:
        """Write guest memory at a front-end address."""
        ((region, fd),) = [
            (region, fd)
            for region, fd in self.regions
            if region.uva <= address < region.uva + region.size
        ]
        os.pwrite(fd.fileno(), data, address - region.uva + region.offset)

    async def compare(self, record: dict[str, Any]) -> None:
        """Take the answer to a request and compare it with the recorded one."""
        header, payload = record_parts(record)
        name = record["name"].removesuffix("_REPLY")
        reply = await self.raw.reply()
        assert reply is not None, name
        assert (reply.number, reply.flags, reply.fds) == (header.number, header.flags, 0), name
        assert len(reply.payload) == len(payload), name
        if name == "GET_VRING_BASE":
            index, base = struct.unpack("<II", reply.payload)
            assert base == self.bases[index]
            assert reply.payload[:4] == payload[:4]
        elif name in OWN:
            self.offered[name] = reply.value
        else:
            assert reply.payload == payload, name


def record_parts(record: dict[str, Any]) -> tuple[v.Header, bytes]:
    data = bytes.fromhex(record["hex"])
    return v.Header.parse(data[: v.HEADER_SIZE]), data[v.HEADER_SIZE :]


async def replay(path: Path, file: Path) -> list[Player]:
    """Play every conversation of a recording to the server at a path; return who played them."""
    players = []
    for conversation in conversations(file):
        with contextlib.ExitStack() as stack:
            async with RawFrontend.connect(path) as raw:
                player = Player(raw, stack)
                players.append(player)
                sent = True
                for record in conversation:
                    if record["dir"] == "f2b":
                        sent = await player.play(record)
                    elif sent:
                        await player.compare(record)
                assert player.offered["GET_PROTOCOL_FEATURES"] != 0
                assert len(player.rings) >= 1
                # The end of the recording was not the end of this server's patience.
                await raw.message(1)
                reply = await raw.reply()
                assert reply is not None
                assert reply.number == 1
    return players


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_the_server_answers_a_recorded_front_end_as_the_recorded_back_end_did(served, file):
    await replay(served.path, file)


@pytest.mark.parametrize("file", NET_FILES, ids=lambda file: file.stem)
async def test_a_network_device_answers_its_front_ends_as_the_recorded_one_did(served_net, file):
    for player in await replay(served_net.path, file):
        assert player.offered.get("GET_QUEUE_NUM", NET_PAIRS) == NET_PAIRS
        # What the recorded drivers took is offered here, too, but fragments of UDP.
        assert player.taken & ~player.offered["GET_FEATURES"] & ~int(UDP_FRAGMENTS) == 0
        assert sorted(player.rings) == list(range(2 * NET_PAIRS))
