"""Shared by the protocol's tests: golden vectors for every part of every row.

Each golden vector is a message and its payload packed by a `struct` format that was written from
the specification's text, not taken from the code under test.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import pytest

from protocol import vfio_user as v
from protocol.addresses import Iova

_JSON = b'{"capabilities": {"max_msg_fds": 8}}\0'
_AREAS = v.SparseMmap((v.MmapArea(0, 0x1000), v.MmapArea(0x2000, 0x1000)))


@dataclass(frozen=True)
class Golden:
    """A message with the bytes of its payload and the number of fds that it carries."""

    message: v.Message
    payload: bytes
    fds: int = 0

    def __repr__(self) -> str:
        return type(self.message).__name__


def golden(message: v.Message, layout: str = "", *values: Any, fds: int = 0) -> Golden:
    return Golden(message, struct.pack("=" + layout, *values), fds)


IO_FD = v.IoFd(offset=0x3000, size=2, fd_index=0, value=7)
SHADOW = v.IoFd(
    offset=0x3004, size=4, fd_index=1, type=2, flags=1, shadow_index=2, shadow_offset=64, value=9
)

REQUESTS = (
    Golden(v.Version(minor=1, data=_JSON), struct.pack("=HH", 0, 1) + _JSON),
    golden(v.Version(minor=0), "HH", 0, 0),
    golden(
        v.DmaMap(flags=3, offset=0x1000, address=Iova(0x10_0000), size=0x2000),
        "IIQQQ",
        32,
        3,
        0x1000,
        0x10_0000,
        0x2000,
        fds=1,
    ),
    golden(
        v.DmaMap(flags=1, address=Iova(0xFFFC_0000), size=0x4_0000),
        "IIQQQ",
        32,
        1,
        0,
        0xFFFC_0000,
        0x4_0000,
    ),
    golden(v.DmaUnmap(address=Iova(0x10_0000), size=0x2000), "IIQQ", 24, 0, 0x10_0000, 0x2000),
    golden(v.DmaUnmap.all(), "IIQQ", 24, 2, 0, 0),
    golden(v.DeviceGetInfo(), "IIII", 16, 0, 0, 0),
    golden(v.DeviceGetRegionInfo(index=2), "IIIIQQ", 32, 0, 2, 0, 0, 0),
    golden(
        v.DeviceGetRegionInfo(index=2, argsz=40, data=bytes(8)), "IIIIQQQ", 40, 0, 2, 0, 0, 0, 0
    ),
    golden(v.DeviceGetRegionIoFds(index=2, argsz=1024), "IIII", 1024, 0, 2, 0),
    golden(v.DeviceGetIrqInfo(index=2), "IIII", 16, 0, 2, 0),
    golden(
        v.DeviceSetIrqs(flags=0x24, index=2, start=1, count=3), "IIIII", 20, 0x24, 2, 1, 3, fds=3
    ),
    golden(v.DeviceSetIrqs(flags=0x24, index=2, start=1, count=1), "IIIII", 20, 0x24, 2, 1, 1),
    golden(
        v.DeviceSetIrqs(flags=0x22, index=2, count=3, data=b"\1\0\1"),
        "IIIIIBBB",
        20,
        0x22,
        2,
        0,
        3,
        1,
        0,
        1,
    ),
    golden(v.DeviceSetIrqs(flags=0x21, index=2, count=0), "IIIII", 20, 0x21, 2, 0, 0),
    golden(v.RegionRead(offset=0x30, region=7, count=4), "QII", 0x30, 7, 4),
    golden(v.RegionWrite(offset=0x30, region=7, data=b"abcd"), "QII4s", 0x30, 7, 4, b"abcd"),
    golden(v.DmaRead(address=Iova(0x1000), count=8), "QQ", 0x1000, 8),
    golden(v.DmaWrite(address=Iova(0x1000), data=b"abcd"), "QQ4s", 0x1000, 4, b"abcd"),
    golden(v.DeviceReset()),
    golden(
        v.RegionWriteMulti(
            writes=(
                v.RegionWrite(offset=0x14, region=2, data=b"\1"),
                v.RegionWrite(offset=0x20, region=2, data=b"12345678"),
            )
        ),
        "QQII8sQII8s",
        2,
        0x14,
        2,
        1,
        b"\1",
        0x20,
        2,
        8,
        b"12345678",
    ),
    golden(v.DeviceFeature(argsz=16, flags=0x1_0001), "II", 16, 0x1_0001),
    golden(
        v.DeviceFeature(argsz=16, flags=0x2_0002, data=b"12345678"),
        "II8s",
        16,
        0x2_0002,
        b"12345678",
    ),
    golden(v.MigDataRead.of(0x400), "II", 0x408, 0x400),
    golden(v.MigDataWrite(data=b"state"), "II5s", 13, 5, b"state"),
)

REPLIES = (
    Golden(v.VersionReply(minor=1, data=_JSON), struct.pack("=HH", 0, 1) + _JSON),
    golden(v.DmaUnmapReply(address=Iova(0x10_0000), size=0x2000), "IIQQ", 24, 0, 0x10_0000, 0x2000),
    golden(v.DeviceInfo(flags=3, num_regions=9, num_irqs=5), "IIII", 16, 3, 9, 5),
    golden(v.RegionInfo(index=0, size=0x1000, flags=3), "IIIIQQ", 32, 3, 0, 0, 0x1000, 0),
    golden(
        v.RegionInfo.describing(
            2, size=0x3000, offset=0x4000, flags=7, capabilities=(_AREAS, v.RegionType(1, 2))
        ),
        "IIIIQQHHIIIQQQQHHIII",
        96,
        0xF,
        2,
        32,
        0x3000,
        0x4000,
        *(1, 1, 80, 2, 0, 0, 0x1000, 0x2000, 0x1000),
        *(2, 1, 0, 1, 2),
        fds=1,
    ),
    golden(
        v.RegionIoFds(index=2, entries=(IO_FD,)),
        "IIIIQQIIIIQ",
        56,
        0,
        2,
        1,
        0x3000,
        2,
        0,
        0,
        0,
        0,
        7,
        fds=1,
    ),
    golden(
        v.RegionIoFds(index=2, entries=(IO_FD, SHADOW), stride=48),
        "IIIIQQIIIIQQQQIIIIQQ",
        112,
        0,
        2,
        2,
        *(0x3000, 2, 0, 0, 0, 0, 0, 7),
        *(0x3004, 4, 1, 2, 1, 2, 64, 9),
        fds=3,
    ),
    golden(v.RegionIoFds(index=2), "IIII", 16, 0, 2, 0),
    golden(v.IrqInfo(index=2, flags=9, count=16), "IIII", 16, 9, 2, 16),
    golden(v.RegionReadReply(offset=0x30, region=7, data=b"abcd"), "QII4s", 0x30, 7, 4, b"abcd"),
    golden(v.RegionWriteReply(offset=0x30, region=7, count=4), "QII", 0x30, 7, 4),
    golden(v.DmaReadReply(address=Iova(0x1000), data=b"abcd"), "QQ4s", 0x1000, 4, b"abcd"),
    golden(v.DmaWriteReply(address=Iova(0x1000), count=4), "QQ", 0x1000, 4),
    golden(v.RegionWriteMultiReply(count=2), "Q", 2),
    golden(
        v.DeviceFeatureReply(flags=0x1_0001, data=b"12345678"), "II8s", 16, 0x1_0001, b"12345678"
    ),
    golden(v.MigDataReadReply(data=b"state"), "II5s", 13, 5, b"state"),
    golden(v.MigDataReadReply(data=b"state", room=b"room"), "II5s4s", 13, 5, b"state", b"room"),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand golden vectors and rows to every test that names them as an argument."""
    for name, cases in _CASES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, cases, ids=[_case_id(case) for case in cases])


def _case_id(case: Any) -> str:
    return case.name if isinstance(case, v.CommandRow) else type(case.message).__name__


_CASES: dict[str, tuple[Any, ...]] = {
    "request_golden": REQUESTS,
    "reply_golden": REPLIES,
    "any_golden": REQUESTS + REPLIES,
    "row": v.ROWS,
}


@pytest.fixture(scope="session")
def goldens() -> dict[type[v.Message], list[Golden]]:
    """All golden vectors by message class."""
    found: dict[type[v.Message], list[Golden]] = {}
    for each in REQUESTS + REPLIES:
        found.setdefault(type(each.message), []).append(each)
    return found


@pytest.fixture
def agreed() -> v.Negotiated:
    """What a connection starts with whose VERSION is over."""
    return v.Negotiated(minor=0, max_msg_fds=16, write_multiple=True)


@pytest.fixture
def server(agreed: v.Negotiated) -> v.Connection:
    return v.Connection(v.Role.SERVER, negotiated=agreed)


@pytest.fixture
def client(agreed: v.Negotiated) -> v.Connection:
    return v.Connection(v.Role.CLIENT, negotiated=agreed)
