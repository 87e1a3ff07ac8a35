"""What a sender leaves to others is done by whoever receives, or by the engine on the way."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from net_rig import LAYOUTS, MERGE, SPLIT, station

from protocol.virtio import NetFeatures, NetGso, NetHeader, NetHeaderFlags, VirtioFeatures
from vhostuser.devices import NetSwitch

RECEIVES = 0
SENDER = VirtioFeatures(NetFeatures.CSUM | NetFeatures.HOST_TSO4 | NetFeatures.HOST_TSO6)
CHECKS = VirtioFeatures(NetFeatures.GUEST_CSUM)
JOINS = VirtioFeatures(NetFeatures.GUEST_CSUM | NetFeatures.GUEST_TSO4 | NetFeatures.GUEST_TSO6)
ADDRESSES = {
    4: [ipaddress.ip_address(text).packed for text in ("192.0.2.1", "192.0.2.2")],
    6: [ipaddress.ip_address(text).packed for text in ("2001:db8::1", "2001:db8::2")],
}
TCP, TCP_SIZE, TCP_CHECKSUM = 6, 20, 16
SEGMENT = 1000
ACK, ACK_PUSH = 0x10, 0x18
SEQUENCE = 0xFFFF_FC00
"""It wraps within a frame."""


def total(data: bytes) -> int:
    """The one's complement sum of RFC 1071."""
    words = struct.unpack(f">{-(-len(data) // 2)}H", data + b"\0" * (len(data) % 2))
    result = sum(words)
    while result > 0xFFFF:
        result = (result & 0xFFFF) + (result >> 16)
    return result


def pseudo(version: int, size: int) -> bytes:
    return b"".join(ADDRESSES[version]) + struct.pack(">II", size, TCP)


def packet(version: int, payload: bytes) -> bytes:
    """An IP packet with TCP in it, whose checksum covers the pseudo header alone."""
    size = TCP_SIZE + len(payload)
    check = total(pseudo(version, size))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, SEQUENCE, 7, 0x50, ACK_PUSH, 500, check, 0)
    if version == 6:
        ip = struct.pack(">IHBB", 6 << 28, size, TCP, 64) + b"".join(ADDRESSES[6])
    else:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 100, 0, 64, TCP, 0)
        ip += b"".join(ADDRESSES[4])
        ip = ip[:10] + struct.pack(">H", 0xFFFF - total(ip)) + ip[12:]
    return ip + tcp + payload


def frame(version: int, payload: bytes, to: bytes, source: bytes) -> tuple[bytes, NetHeader]:
    """A frame and its header: the checksum is left to the device, and so is the cutting."""
    kind = {4: b"\x08\0", 6: b"\x86\xdd"}[version]
    start = 14 + {4: 20, 6: 40}[version]
    cut = len(payload) > SEGMENT
    header = NetHeader(
        flags=NetHeaderFlags.NEEDS_CSUM,
        gso_type={4: NetGso.TCPV4, 6: NetGso.TCPV6}[version] if cut else NetGso.NONE,
        hdr_len=start + TCP_SIZE if cut else 0,
        gso_size=SEGMENT if cut else 0,
        csum_start=start,
        csum_offset=TCP_CHECKSUM,
    )
    return to + source + kind + packet(version, payload), header


def check_whole(version: int, data: bytes) -> tuple[int, int, bytes]:
    """Check all sums of a frame; return its sequence number, its flags and its payload."""
    ip = data[14:]
    if version == 4:
        assert total(ip[:20]) == 0xFFFF
        assert struct.unpack_from(">H", ip, 2) == (len(ip),)
    tcp = ip[{4: 20, 6: 40}[version] :]
    assert total(pseudo(version, len(tcp)) + tcp) == 0xFFFF
    (sequence,) = struct.unpack_from(">I", tcp, 4)
    return sequence, tcp[13], tcp[TCP_SIZE:]


@pytest.fixture
async def switch():
    async with NetSwitch.open() as switch:
        yield switch


PAYLOAD = bytes(range(256)) * 12


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ring", LAYOUTS)
async def test_a_receiver_that_does_what_the_sender_left_gets_the_frame_as_it_is(
    switch, ring, version
):
    features = LAYOUTS[ring]
    async with (
        station(switch, features | SENDER) as one,
        station(switch, features | JOINS | MERGE) as other,
    ):
        for payload in (b"short", PAYLOAD):
            data, header = frame(version, payload, other.mac, one.mac)
            await one.driver.send(data, header)
            received = await other.driver.receive()
            assert received.data == data
            assert received.buffers == received.header.num_buffers == 1 + (len(data) > 2000)
            assert received.header.flags == NetHeaderFlags.NEEDS_CSUM
            assert received.header.gso_type == header.gso_type
            assert received.header.gso_size == header.gso_size
        assert other.counters(RECEIVES).segments == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ring", LAYOUTS)
@pytest.mark.parametrize("able", [VirtioFeatures(0), MERGE], ids=["one-buffer", "merged"])
async def test_one_that_does_not_gets_segments_with_their_checksums(switch, able, ring, version):
    features = LAYOUTS[ring]
    async with (
        station(switch, features | SENDER) as one,
        station(switch, features | able) as other,
    ):
        data, header = frame(version, PAYLOAD, other.mac, one.mac)
        await one.driver.send(data, header, sizes=[12, 100, 700])
        received = b""
        for number in range(4):
            part = await other.driver.receive()
            assert part.header == NetHeader(num_buffers=1)
            assert part.data[:14] == data[:14]
            sequence, flags, payload = check_whole(version, part.data)
            assert sequence == (SEQUENCE + len(received)) % (1 << 32)
            assert flags == (ACK_PUSH if number == 3 else ACK)
            assert len(payload) == min(SEGMENT, len(PAYLOAD) - len(received))
            received += payload
        assert received == PAYLOAD
        counters = other.counters(RECEIVES)
        assert (counters.frames, counters.segments) == (4, 4)


@pytest.mark.parametrize("version", [4, 6])
async def test_a_missing_checksum_is_computed_for_who_cannot(switch, version):
    async with (
        station(switch, SPLIT | SENDER) as one,
        station(switch) as other,
        station(switch, SPLIT | CHECKS) as third,
    ):
        data, header = frame(version, b"payload", b"\xff" * 6, one.mac)
        await one.driver.send(data, header)
        received = await other.driver.receive()
        assert received.header.flags & NetHeaderFlags.NEEDS_CSUM == 0
        assert check_whole(version, received.data)[2] == b"payload"
        received = await third.driver.receive()
        assert received.header.flags & NetHeaderFlags.NEEDS_CSUM
        assert received.data == data
