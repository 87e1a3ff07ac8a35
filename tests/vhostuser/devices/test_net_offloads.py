"""What a sender leaves to others is done by whoever receives, or by the engine on the way."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from net_rig import BROADCAST, LAYOUTS, LEGACY, MERGE, PACKED, SPLIT, station

from protocol.virtio import NetFeatures, NetGso, NetHeader, NetHeaderFlags, VirtioFeatures
from vhostuser.devices import NetSwitch

RECEIVES = 0
SENDER = VirtioFeatures(
    NetFeatures.CSUM
    | NetFeatures.HOST_TSO4
    | NetFeatures.HOST_TSO6
    | NetFeatures.HOST_ECN
    | NetFeatures.HOST_USO
)
CHECKS = VirtioFeatures(NetFeatures.GUEST_CSUM)
JOINS = VirtioFeatures(NetFeatures.GUEST_CSUM | NetFeatures.GUEST_TSO4 | NetFeatures.GUEST_TSO6)
JOINS_ECN = JOINS | VirtioFeatures(NetFeatures.GUEST_ECN)
JOINS_UDP = CHECKS | VirtioFeatures(NetFeatures.GUEST_USO4 | NetFeatures.GUEST_USO6)
RECEIVERS = {
    "split": SPLIT,
    "split-merged": SPLIT | MERGE,
    "packed": PACKED,
    "packed-merged": PACKED | MERGE,
    "legacy": LEGACY,
    "legacy-merged": LEGACY | MERGE,
}
ADDRESSES = {
    4: [ipaddress.ip_address(text).packed for text in ("192.0.2.1", "192.0.2.2")],
    6: [ipaddress.ip_address(text).packed for text in ("2001:db8::1", "2001:db8::2")],
}
TCP, TCP_SIZE, TCP_CHECKSUM = 6, 20, 16
UDP, UDP_SIZE, UDP_CHECKSUM = 17, 8, 6
SEGMENT = 1000
ACK, ACK_PUSH, CWR = 0x10, 0x18, 0x80
SEQUENCE = 0xFFFF_FC00
"""It wraps within a frame."""


def total(data: bytes) -> int:
    """The one's complement sum of RFC 1071."""
    words = struct.unpack(f">{-(-len(data) // 2)}H", data + b"\0" * (len(data) % 2))
    result = sum(words)
    while result > 0xFFFF:
        result = (result & 0xFFFF) + (result >> 16)
    return result


def pseudo(version: int, protocol: int, size: int) -> bytes:
    return b"".join(ADDRESSES[version]) + struct.pack(">II", size, protocol)


def packet(version: int, protocol: int, rest: bytes) -> bytes:
    """An IP packet."""
    size = len(rest)
    if version == 6:
        ip = struct.pack(">IHBB", 6 << 28, size, protocol, 64) + b"".join(ADDRESSES[6])
    else:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 100, 0, 64, protocol, 0)
        ip += b"".join(ADDRESSES[4])
        ip = ip[:10] + struct.pack(">H", 0xFFFF - total(ip)) + ip[12:]
    return ip + rest


def whole(  # noqa: PLR0913 - what makes a frame
    version: int, protocol: int, rest: bytes, to: bytes, source: bytes, *, cut: bool, gso: int
) -> tuple[bytes, NetHeader]:
    """A frame and its header: the checksum is left to the device, and so is the cutting."""
    kind = {4: b"\x08\0", 6: b"\x86\xdd"}[version]
    start = 14 + {4: 20, 6: 40}[version]
    header = NetHeader(
        flags=NetHeaderFlags.NEEDS_CSUM,
        gso_type=gso if cut else NetGso.NONE,
        hdr_len=start + {TCP: TCP_SIZE, UDP: UDP_SIZE}[protocol] if cut else 0,
        gso_size=SEGMENT if cut else 0,
        csum_start=start,
        csum_offset={TCP: TCP_CHECKSUM, UDP: UDP_CHECKSUM}[protocol],
    )
    return to + source + kind + packet(version, protocol, rest), header


def frame(
    version: int, payload: bytes, to: bytes, source: bytes, flags: int = ACK_PUSH
) -> tuple[bytes, NetHeader]:
    """TCP, whose checksum covers the pseudo header alone."""
    check = total(pseudo(version, TCP, TCP_SIZE + len(payload)))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, SEQUENCE, 7, 0x50, flags, 500, check, 0)
    gso = {4: NetGso.TCPV4, 6: NetGso.TCPV6}[version] | (NetGso.ECN if flags & CWR else 0)
    cut = len(payload) > SEGMENT
    return whole(version, TCP, tcp + payload, to, source, cut=cut, gso=gso)


def datagrams(version: int, payload: bytes, to: bytes, source: bytes) -> tuple[bytes, NetHeader]:
    """UDP: several datagrams in one, each of which is to have a header of its own."""
    size = UDP_SIZE + len(payload)
    udp = struct.pack(">HHHH", 1, 2, size, total(pseudo(version, UDP, size)))
    return whole(version, UDP, udp + payload, to, source, cut=True, gso=NetGso.UDP_L4)


def check_whole(version: int, data: bytes, protocol: int = TCP) -> bytes:
    """Check all sums of a frame; return what is in its IP packet."""
    ip = data[14:]
    if version == 4:
        assert total(ip[:20]) == 0xFFFF
        assert struct.unpack_from(">H", ip, 2) == (len(ip),)
    rest = ip[{4: 20, 6: 40}[version] :]
    assert total(pseudo(version, protocol, len(rest)) + rest) == 0xFFFF
    return rest


def check_summed(version, part, protocol):
    """As `check_whole`, but finish the checksum first if the receiver is to do that."""
    data, header = bytearray(part.data), part.header
    if header.flags & NetHeaderFlags.NEEDS_CSUM:
        place = header.csum_start + header.csum_offset
        check = 0xFFFF - total(data[header.csum_start :])
        struct.pack_into(">H", data, place, check or 0xFFFF)
    return check_whole(version, bytes(data), protocol)


def check_segment(version: int, data: bytes) -> tuple[int, int, bytes]:
    """Check a frame with TCP; return its sequence number, its flags and its payload."""
    tcp = check_whole(version, data)
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
@pytest.mark.parametrize("features", RECEIVERS.values(), ids=RECEIVERS)
async def test_one_that_does_not_gets_segments_with_their_checksums(switch, features, version):
    async with (
        station(switch, (features & ~MERGE) | SENDER) as one,
        station(switch, features) as other,
    ):
        data, header = frame(version, PAYLOAD, other.mac, one.mac)
        await one.driver.send(data, header, sizes=[12, 100, 700])
        received = b""
        for number in range(4):
            part = await other.driver.receive()
            assert part.header == NetHeader(num_buffers=1)
            assert part.data[:14] == data[:14]
            sequence, flags, payload = check_segment(version, part.data)
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
        assert check_segment(version, received.data)[2] == b"payload"
        received = await third.driver.receive()
        assert received.header.flags & NetHeaderFlags.NEEDS_CSUM
        assert received.data == data


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("features", RECEIVERS.values(), ids=RECEIVERS)
async def test_datagrams_that_were_sent_as_one_arrive_as_several(switch, features, version):
    async with (
        station(switch, (features & ~MERGE) | SENDER) as one,
        station(switch, features | JOINS) as other,  # which is of TCP
        station(switch, features | JOINS_UDP | MERGE) as third,
    ):
        data, header = datagrams(version, PAYLOAD, BROADCAST, one.mac)
        await one.driver.send(data, header)
        received = await third.driver.receive()
        assert received.data == data
        assert (received.header.gso_type, received.header.gso_size) == (NetGso.UDP_L4, SEGMENT)
        for start in range(0, len(PAYLOAD), SEGMENT):
            wanted = PAYLOAD[start : start + SEGMENT]
            part = await other.driver.receive()
            assert part.header.gso_type == NetGso.NONE
            udp = check_summed(version, part, UDP)
            assert struct.unpack_from(">H", udp, 4) == (UDP_SIZE + len(wanted),)
            assert udp[UDP_SIZE:] == wanted
        assert other.counters(RECEIVES).segments == 4


@pytest.mark.parametrize("version", [4, 6])
async def test_who_knows_nothing_of_congestion_gets_segments_the_first_of_which_tells_it(
    switch, version
):
    async with (
        station(switch, SPLIT | SENDER) as one,
        station(switch, SPLIT | JOINS | MERGE) as other,
        station(switch, SPLIT | JOINS_ECN | MERGE) as third,
    ):
        data, header = frame(version, PAYLOAD, BROADCAST, one.mac, ACK_PUSH | CWR)
        await one.driver.send(data, header)
        received = await third.driver.receive()
        assert received.data == data
        assert received.header.gso_type == header.gso_type
        told = []
        for _ in range(4):
            part = await other.driver.receive()
            assert part.header.gso_type == NetGso.NONE
            told.append(check_summed(version, part, TCP)[13] & CWR)
        assert told == [CWR, 0, 0, 0]
