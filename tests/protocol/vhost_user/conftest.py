"""Shared by the protocol's tests: golden vectors for every row of the table, and fakes.

Each golden vector is a message and its payload packed by a `struct` format that was written from
the specification's text, not taken from the code under test.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import pytest

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeatures

_UUID = bytes(range(16))
_REGION = v.MemRegion(gpa=v.Gpa(0x1000), size=0x2000, uva=v.Uva(0x7F00_0000_0000), offset=0x3000)
_REGION_2 = v.MemRegion(gpa=v.Gpa(0x10_0000), size=0x1000, uva=v.Uva(0x7F01_0000_0000))
_REGION_BYTES = struct.pack("=QQQQ", 0x1000, 0x2000, 0x7F00_0000_0000, 0x3000)
_REGION_2_BYTES = struct.pack("=QQQQ", 0x10_0000, 0x1000, 0x7F01_0000_0000, 0)
_NOTHING = b""


@dataclass(frozen=True)
class Golden:
    """A message with the bytes of its payload and the number of fds that it carries."""

    message: v.Message
    payload: bytes
    fds: int = 0

    def __repr__(self) -> str:
        return type(self.message).__name__


def _golden(message: v.Message, layout: str = "", *values: Any, fds: int = 0) -> Golden:
    return Golden(message, struct.pack("=" + layout, *values) if layout else _NOTHING, fds)


FRONT_END_REQUESTS = (
    _golden(v.GetFeatures()),
    _golden(v.SetFeatures(features=VirtioFeatures(0x1_7000_7E46)), "Q", 0x1_7000_7E46),
    _golden(v.SetOwner()),
    _golden(v.ResetOwner()),
    Golden(
        v.SetMemTable(regions=(_REGION, _REGION_2)),
        struct.pack("=II", 2, 0) + _REGION_BYTES + _REGION_2_BYTES,
        fds=2,
    ),
    _golden(v.SetLogBase(size=0x8000, offset=0x1000), "QQ", 0x8000, 0x1000, fds=1),
    _golden(v.SetLogFd(), fds=1),
    _golden(v.SetVringNum(index=3, num=256), "II", 3, 256),
    _golden(
        v.SetVringAddr(
            index=1,
            flags=1,
            desc=v.Uva(0x7F00_0000_1000),
            used=v.Uva(0x7F00_0000_3000),
            avail=v.Uva(0x7F00_0000_2000),
            log=v.Gpa(0x4000),
        ),
        "IIQQQQ",
        1,
        1,
        0x7F00_0000_1000,
        0x7F00_0000_3000,
        0x7F00_0000_2000,
        0x4000,
    ),
    _golden(v.SetVringBase(index=2, base=0x8000_8000), "II", 2, 0x8000_8000),
    _golden(v.GetVringBase(index=2, num=0xDEAD_BEEF), "II", 2, 0xDEAD_BEEF),
    _golden(v.SetVringKick(index=5), "Q", 5, fds=1),
    _golden(v.SetVringKick(index=5, no_fd=True), "Q", 0x105),
    _golden(v.SetVringCall(index=255), "Q", 255, fds=1),
    _golden(v.SetVringCall(index=255, no_fd=True), "Q", 0x1FF),
    _golden(v.SetVringErr(index=0), "Q", 0, fds=1),
    _golden(v.SetVringErr(index=0, no_fd=True), "Q", 0x100),
    _golden(v.GetProtocolFeatures()),
    _golden(v.SetProtocolFeatures(features=v.ProtocolFeatures(0x8F2B)), "Q", 0x8F2B),
    _golden(v.GetQueueNum()),
    _golden(v.SetVringEnable(index=1, enable=1), "II", 1, 1),
    _golden(v.SetVringEnable(index=1, enable=0), "II", 1, 0),
    _golden(v.SendRarp(mac=b"\x52\x54\x00\x12\x34\x56"), "6s2x", b"\x52\x54\x00\x12\x34\x56"),
    _golden(v.NetSetMtu(mtu=1500), "Q", 1500),
    _golden(v.SetBackendReqFd(), fds=1),
    _golden(
        v.IotlbMsg(
            iova=v.Iova(0x10_0000), size=0x1000, uva=v.Uva(0x7F00_0000_0000), perm=3, type=2
        ),
        "QQQBB6x",
        0x10_0000,
        0x1000,
        0x7F00_0000_0000,
        3,
        2,
    ),
    _golden(v.SetVringEndian(index=1, endian=1), "II", 1, 1),
    _golden(v.GetConfig(offset=8, size=4), "III4x", 8, 4, 0),
    _golden(v.SetConfig(offset=32, flags=1, data=b"\x01"), "IIIB", 32, 1, 1, 1),
    _golden(v.CreateCryptoSession(op_code=2, setup=b"key!", session_id=-1), "Q4sq", 2, b"key!", -1),
    _golden(v.CloseCryptoSession(session_id=7), "Q", 7),
    _golden(v.PostcopyAdvise()),
    _golden(v.PostcopyListen()),
    _golden(v.PostcopyEnd()),
    _golden(v.GetInflightFd(num_queues=2, queue_size=128), "QQHH4x", 0, 0, 2, 128),
    _golden(
        v.SetInflightFd(mmap_size=4224, mmap_offset=4096, num_queues=2, queue_size=128),
        "QQHH4x",
        4224,
        4096,
        2,
        128,
        fds=1,
    ),
    _golden(v.GpuSetSocket(), fds=1),
    _golden(v.ResetDevice()),
    _golden(v.VringKick(index=9), "II", 9, 0),
    _golden(v.GetMaxMemSlots()),
    Golden(v.AddMemReg(region=_REGION), bytes(8) + _REGION_BYTES, fds=1),
    Golden(v.RemMemReg(region=_REGION), bytes(8) + _REGION_BYTES),
    _golden(v.SetStatus(status=0x0F), "Q", 0x0F),
    _golden(v.GetStatus()),
    Golden(v.GetSharedObject(uuid=_UUID), _UUID),
    _golden(v.SetDeviceStateFd(direction=1), "II", 1, 0, fds=1),
    _golden(v.CheckDeviceState()),
    _golden(v.GetShmemConfig()),
    _golden(v.GetVringBaseSkipDrain(index=4), "II", 4, 0),
)

BACK_END_REQUESTS = (
    _golden(v.BackendIotlbMsg(iova=v.Iova(0x5000), perm=1, type=1), "QQQBB6x", 0x5000, 0, 0, 1, 1),
    _golden(v.ConfigChange()),
    _golden(v.VringHostNotifier(index=1, size=4096, offset=8192), "QQQ", 1, 4096, 8192, fds=1),
    _golden(v.VringHostNotifier(index=1, no_fd=True), "QQQ", 0x101, 0, 0),
    _golden(v.BackendVringCall(index=3), "II", 3, 0),
    _golden(v.BackendVringErr(index=3), "II", 3, 0),
    Golden(v.SharedObjectAdd(uuid=_UUID), _UUID),
    Golden(v.SharedObjectRemove(uuid=_UUID), _UUID),
    Golden(v.SharedObjectLookup(uuid=_UUID), _UUID),
    _golden(
        v.ShmemMap(shmid=1, fd_offset=0x1000, shm_offset=0x2000, length=0x3000, flags=1),
        "B7xQQQQ",
        1,
        0x1000,
        0x2000,
        0x3000,
        1,
        fds=1,
    ),
    _golden(
        v.ShmemUnmap(shmid=1, shm_offset=0x2000, length=0x3000), "B7xQQQQ", 1, 0, 8192, 12288, 0
    ),
)

RFC_REQUESTS = (
    _golden(v.VringVfioGroup(index=1), "Q", 1, fds=1),
    _golden(v.VringVfioGroup(index=1, no_fd=True), "Q", 0x101),
    _golden(v.VringNotifyArea(index=1, size=4096, offset=8192), "QQQ", 1, 4096, 8192, fds=1),
    _golden(v.VringNotifyArea(index=1, no_fd=True), "QQQ", 0x101, 0, 0),
)

_SIZES = (4096, *[0] * 254, 8192)

REPLIES = (
    _golden(v.U64(value=0x1_0000_0001), "Q", 0x1_0000_0001),
    _golden(v.Empty()),
    _golden(v.LogBaseReply()),
    _golden(v.LogBaseReply(body=bytes(8)), "Q", 0),
    _golden(v.VringState(index=1, num=0x8001_8001), "II", 1, 0x8001_8001),
    _golden(v.ConfigReply(offset=8, data=b"abcd"), "III4s", 8, 4, 0, b"abcd"),
    _golden(v.ConfigReply(), "III", 0, 0, 0),
    Golden(v.MemTableReply(regions=(_REGION,)), struct.pack("=II", 1, 0) + _REGION_BYTES),
    Golden(v.MemRegReply(region=_REGION), bytes(8) + _REGION_BYTES),
    _golden(v.CryptoSession(op_code=2, setup=b"key!", session_id=12), "Q4sq", 2, b"key!", 12),
    _golden(
        v.Inflight(mmap_size=4224, num_queues=2, queue_size=128),
        "QQHH4x",
        4224,
        0,
        2,
        128,
        fds=1,
    ),
    _golden(v.Inflight(), "QQHH4x", 0, 0, 0, 0),
    Golden(v.SharedObjectReply(uuid=_UUID), _UUID, fds=1),
    _golden(v.SharedObjectReply()),
    _golden(v.ShmemConfig(sizes=_SIZES), "II256Q", 2, 0, *_SIZES),
)

REQUESTS = FRONT_END_REQUESTS + BACK_END_REQUESTS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand golden vectors and rows to every test that names them as an argument."""
    for name, cases in _CASES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, cases, ids=[_case_id(case) for case in cases])


def _case_id(case: Any) -> str:
    if isinstance(case, v.MessageRow):
        return case.name
    suffix = "-no-fd" if getattr(case.message, "no_fd", False) else ""
    return f"{type(case.message).__name__}{suffix}"


_CASES: dict[str, tuple[Any, ...]] = {
    "request_golden": REQUESTS,
    "rfc_golden": RFC_REQUESTS,
    "reply_golden": REPLIES,
    "row": tuple(v.CURRENT.rows()),
}


@pytest.fixture(scope="session")
def goldens() -> dict[type[v.Message], list[Golden]]:
    """All golden vectors by message class."""
    found: dict[type[v.Message], list[Golden]] = {}
    for golden in REQUESTS + RFC_REQUESTS + REPLIES:
        found.setdefault(type(golden.message), []).append(golden)
    return found
