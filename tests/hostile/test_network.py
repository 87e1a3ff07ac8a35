"""Items 97-100 and 102 of the catalogue: frames that no good driver sends.

What is dropped is counted once, for its reason, and nobody receives any of it; what is legal,
however odd, comes as it is, after a header that says nothing but what the receiver has agreed to.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import pytest
from hostile_net import (
    ATTACKER,
    JOINS,
    LEAVES,
    RECEIVES,
    SENDS,
    VICTIM,
    chain,
    difference,
    party,
)
from net_rig import LEGACY, MERGE, SPLIT, exchange, frame

from protocol.virtio import NetFeatures, NetGso, NetHeader, NetHeaderFlags, VirtioFeatures
from vhostuser.frontend import RegionLayout

NONE = VirtioFeatures(0)
RINGS = {"split": NONE, "packed": VirtioFeatures.RING_PACKED}
HEADER, LEGACY_HEADER = 12, 10
NO_OFFLOAD = bytes(HEADER)
PLAIN = NetHeader()
NEEDS_CSUM = NetHeaderFlags.NEEDS_CSUM
LONG, SHORT = 3000, 60
IP, TCP, TCP_CHECKSUM, UDP_CHECKSUM = 14, 34, 16, 6
MODERN = SPLIT & ~MERGE
GIB = 1 << 30


def plain(size: int = SHORT) -> bytes:
    return frame(VICTIM, ATTACKER, size=max(size, 14))[:size]


def segmented(payload: int = LONG - 54) -> bytes:
    """A frame of TCP over IPv4 whose checksums nobody looks at here."""
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 40 + payload, 1, 0, 64, 6, 0, b"\xc0\0\2\1", b"\xc0\0\2\2"
    )
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x10, 500, 0, 0)
    return VICTIM + ATTACKER + b"\x08\0" + ip + tcp + bytes(payload)


def summed(data: bytes, start: int, offset: int) -> bytes:
    """What a device makes of it that computes the checksum (RFC 1071)."""
    covered = data[start:] + b"\0" * ((len(data) - start) % 2)
    total = sum(struct.unpack(f">{len(covered) // 2}H", covered))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    place = start + offset
    return data[:place] + struct.pack(">H", 0xFFFF - total or 0xFFFF) + data[place + 2 :]


CUT = NetHeader(
    flags=NEEDS_CSUM,
    gso_type=NetGso.TCPV4,
    hdr_len=54,
    gso_size=1000,
    csum_start=TCP,
    csum_offset=TCP_CHECKSUM,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is sent, and what must become of it.

    Attributes:
        out: contents of the readable buffers of the chain.
        room: sizes of the writable ones.
        drop: why it is dropped, where it is.
        drop_at: the ring that counts that.
        header: what the victim gets before the frame, where it is not dropped ...
        data: ... and the frame.
        attacker, victim: features.
        indirect: whether the chain is a table.
    """

    out: tuple[bytes, ...]
    room: tuple[int, ...] = ()
    drop: str | None = None
    drop_at: int = SENDS
    header: NetHeader = PLAIN
    data: bytes = b""
    attacker: VirtioFeatures = SPLIT | LEAVES
    victim: VirtioFeatures = SPLIT | MERGE | JOINS
    indirect: bool = False


def dropped(*out: bytes, why: str = "length", attacker: VirtioFeatures = MODERN) -> Case:
    return Case(out=out, drop=why, attacker=attacker)


def passes(*out: bytes, attacker: VirtioFeatures = MODERN, size: int = HEADER) -> Case:
    return Case(out=out, data=b"".join(out)[size:], attacker=attacker)


def bad(header: NetHeader, data: bytes, features: VirtioFeatures = LEAVES) -> Case:
    """A header that makes no sense, or asks for what was not negotiated."""
    return Case(out=(bytes(header) + data,), drop="header", attacker=SPLIT | features)


def good(header: NetHeader, data: bytes, **received: int) -> Case:
    """A header that is legal; fields in which what the victim gets differs from it."""
    return Case(out=(bytes(header) + data,), header=replace(header, **received), data=data)


def uncut(header: NetHeader, data: bytes) -> Case:
    """A frame that must be cut for a receiver that cannot, and which cannot be cut."""
    return Case(
        out=(bytes(header) + data,),
        drop="offload",
        drop_at=RECEIVES,
        victim=SPLIT | MERGE,
    )


def sums(start: int, offset: int) -> NetHeader:
    return NetHeader(flags=NEEDS_CSUM, csum_start=start, csum_offset=offset)


def bytewise(data: bytes, count: int) -> tuple[bytes, ...]:
    return (*(data[i : i + 1] for i in range(count)), data[count:])


SEND = NO_OFFLOAD + plain()
FRAMES = {
    # Item 97, CVE-2022-2132: chains that end before or in the header, headers in many buffers
    **{f"97-header-{size}": dropped(SEND[:size]) for size in range(HEADER + 1)},
    "97-header-and-13": dropped(SEND[: HEADER + 13]),
    "97-header-and-14": passes(SEND[: HEADER + 14]),
    "97-header-in-12": passes(*bytewise(SEND, 12)),
    "97-header-in-12-and-no-frame": dropped(*bytewise(NO_OFFLOAD, 12)),
    "97-header-in-12-and-13": dropped(*bytewise(SEND[: HEADER + 13], 12)),
    "97-header-and-addresses-in-26": passes(*bytewise(SEND, 26)),
    "97-header-in-11-and-1": passes(SEND[:11], SEND[11:12], SEND[12:]),
    "97-header-and-a-byte": passes(SEND[:13], SEND[13:]),
    "97-header-among-empty-buffers": passes(
        b"", SEND[:5], b"", b"", SEND[5:20], b"", SEND[20:], b""
    ),
    "97-only-empty-buffers": dropped(b"", b"", b""),
    "97-header-in-12-by-table": replace(passes(*bytewise(SEND, 12)), indirect=True),
    "97-table-of-a-short-header": replace(dropped(SEND[:4], SEND[4:11]), indirect=True),
    "97-nothing-to-read": replace(dropped(), room=(100,)),
    "97-a-buffer-to-write-too": replace(passes(SEND), room=(64,)),
    # CVE-2023-6693: the header has 10 or 12 bytes, by features
    **{f"97-legacy-{size}": dropped(SEND[:size], attacker=LEGACY) for size in (9, 10, 11, 12, 23)},
    "97-legacy-24": passes(bytes(LEGACY_HEADER) + plain(14), attacker=LEGACY, size=LEGACY_HEADER),
    "97-legacy-in-10": passes(
        *bytewise(bytes(LEGACY_HEADER) + plain(), 10), attacker=LEGACY, size=LEGACY_HEADER
    ),
    "97-legacy-merged-24": dropped(SEND[:24], attacker=LEGACY | MERGE),
    "97-legacy-merged-26": passes(SEND[:26], attacker=LEGACY | MERGE),
    "97-modern-merged-25": dropped(SEND[:25], attacker=SPLIT | MERGE),
    "97-modern-merged-26": passes(SEND[:26], attacker=SPLIT | MERGE),
    "97-legacy-to-legacy": replace(
        passes(bytes(LEGACY_HEADER) + plain(), attacker=LEGACY, size=LEGACY_HEADER), victim=LEGACY
    ),
    "97-modern-to-legacy": replace(passes(SEND), victim=LEGACY),
    # Item 98
    **{
        f"98-gso-type-{kind:x}": bad(replace(CUT, gso_type=kind), segmented())
        for kind in (2, 3, 6, 7, 0x7F, 0x80, 0x82, 0x83, 0x85, 0xFF)
    },
    "98-gso-without-a-checksum": bad(replace(CUT, flags=0), segmented()),
    "98-gso-size-0": bad(replace(CUT, gso_size=0), segmented()),
    "98-gso-size-1": good(replace(CUT, gso_size=1), segmented()),
    "98-gso-size-1-to-be-cut": uncut(replace(CUT, gso_size=1), segmented()),
    "98-gso-size-65535": good(
        replace(CUT, gso_size=0xFFFF), segmented(), gso_type=0, gso_size=0, hdr_len=0
    ),
    "98-hdr-len-65535": good(replace(CUT, hdr_len=0xFFFF), segmented(), hdr_len=LONG),
    "98-hdr-len-0": good(replace(CUT, hdr_len=0), segmented(), hdr_len=54),
    "98-frame-of-another-kind": uncut(CUT, plain(LONG)),
    "98-frame-of-another-version": uncut(replace(CUT, gso_type=NetGso.TCPV6), segmented()),
    "98-frame-of-another-protocol": uncut(
        replace(CUT, gso_type=NetGso.UDP_L4, csum_offset=UDP_CHECKSUM), segmented()
    ),
    "98-headers-elsewhere": uncut(replace(CUT, csum_start=38), segmented()),
    "98-tcp-beyond-the-frame": bad(replace(CUT, csum_start=LONG - 19), segmented()),
    "98-tcp-at-the-end-of-the-frame": good(
        replace(CUT, csum_start=LONG - 20), segmented(), gso_type=0, gso_size=0, hdr_len=0
    ),
    # Item 99, CVE-2024-11614
    **{
        f"99-start-{start}-offset-{offset}": bad(sums(start, offset), plain())
        for start, offset in (
            (65535, 65535),
            (65535, 0),
            (65535, 1),
            (0, 65535),
            (0, 16),
            (13, 16),
            (14, 65535),
            (14, 45),
            (58, 1),
            (59, 0),
            (60, 0),
            (65520, 16),
            (32768, 32768),
            (40, 65500),
        )
    },
    "99-last-two-bytes": good(sums(58, 0), plain()),
    "99-first-possible": good(sums(14, 44), plain()),
    "99-gso-offset-beyond": bad(replace(CUT, csum_offset=65535), segmented()),
    "99-gso-start-beyond": bad(replace(CUT, csum_start=65535), segmented()),
    "99-gso-start-0": bad(replace(CUT, csum_start=0), segmented()),
    **{
        f"99-computed-{start}-{offset}": Case(
            out=(bytes(sums(start, offset)) + plain(size),),
            data=summed(plain(size), start, offset),
            victim=SPLIT | MERGE,
        )
        for start, offset, size in ((58, 0, 60), (14, 44, 60), (14, 0, 61), (20, 6, 1514))
    },
    # Item 100
    "100-checksum": bad(sums(TCP, TCP_CHECKSUM), plain(), NONE),
    "100-tso4": bad(CUT, segmented(), LEAVES & ~VirtioFeatures(NetFeatures.HOST_TSO4)),
    "100-tso6": bad(
        replace(CUT, gso_type=NetGso.TCPV6),
        segmented(),
        LEAVES & ~VirtioFeatures(NetFeatures.HOST_TSO6),
    ),
    "100-ecn": bad(
        replace(CUT, gso_type=NetGso.TCPV4 | NetGso.ECN),
        segmented(),
        LEAVES & ~VirtioFeatures(NetFeatures.HOST_ECN),
    ),
    "100-uso": bad(
        replace(CUT, gso_type=NetGso.UDP_L4, csum_offset=UDP_CHECKSUM),
        segmented(),
        LEAVES & ~VirtioFeatures(NetFeatures.HOST_USO),
    ),
    "100-none-but-asked-for": bad(CUT, segmented(), NONE),
    "100-verified-by-the-sender": good(
        NetHeader(flags=NetHeaderFlags.DATA_VALID), plain(), flags=0
    ),
    "100-reserved-flags": good(NetHeader(flags=0xFE), plain(), flags=0),
    "100-reserved-flags-and-checksum": good(
        replace(sums(58, 0), flags=0xFF), plain(), flags=NEEDS_CSUM
    ),
    "100-fields-without-a-flag": good(
        NetHeader(hdr_len=1, gso_size=2, csum_start=3, csum_offset=4, num_buffers=5),
        plain(),
        hdr_len=0,
        gso_size=0,
        csum_start=0,
        csum_offset=0,
    ),
    "100-num-buffers": good(NetHeader(num_buffers=0xFFFF), plain()),
    # Item 101, CVE-2015-7295 and the like
    **{f"101-frame-{size}": dropped(NO_OFFLOAD + plain(size)) for size in (0, 1, 13)},
    **{
        f"101-frame-{size}": passes(NO_OFFLOAD + plain(size))
        for size in (14, 15, 1514, 65549, 65550)
    },
    "101-frame-65551": dropped(NO_OFFLOAD + plain(65551)),
    "101-frame-100000": dropped(NO_OFFLOAD + plain(100_000)),
    "101-frame-65550-in-pieces": passes(
        NO_OFFLOAD, *[plain(65550)[i : i + 700] for i in range(0, 65550, 700)]
    ),
}
CASES = {
    f"{name}-{ring}": replace(case, attacker=case.attacker | more, victim=case.victim | more)
    for ring, more in RINGS.items()
    for name, case in FRAMES.items()
}


async def play(case: Case) -> None:
    async with party(
        case.attacker, case.victim, buffers=64, layout=[RegionLayout(gpa=0, size=4 << 20)]
    ) as them:
        ports = {SENDS: them.attacker, RECEIVES: them.victim}
        before = {ring: port.counters(ring) for ring, port in ports.items()}
        stranger = them.other.counters(RECEIVES)
        queue = them.attacker.driver.pairs[0][1]
        assert await chain(queue, case.out, case.room, indirect=case.indirect) == 0
        if case.drop is None:
            received = await them.victim.driver.receive()
            assert received.data == case.data
            assert received.header == replace(case.header, num_buffers=received.buffers)
        after = {ring: port.counters(ring) for ring, port in ports.items()}
        for ring in ports:
            expected = {case.drop: 1} if case.drop is not None and ring == case.drop_at else {}
            assert difference(before[ring].drops, after[ring].drops) == expected
        handed_on = case.drop is None or case.drop_at == RECEIVES
        assert after[SENDS].frames - before[SENDS].frames == handed_on
        assert after[RECEIVES].frames - before[RECEIVES].frames == (case.drop is None)
        assert them.other.counters(RECEIVES) == stranger
        await exchange(them.attacker, them.victim)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Case) -> None:
    await play(case)
