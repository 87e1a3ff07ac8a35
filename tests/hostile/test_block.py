"""Items 104-112 and 114 of the catalogue: block requests that no good driver makes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from protocol.virtio import (
    BlkFeatures,
    BlkHeader,
    BlkRequest,
    BlkSegment,
    BlkStatus,
    VirtioFeatures,
)
from vhostuser.frontend import TRANSPORT_FEATURES, BlockDriver, GuestBuffer, RegionLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.frontend import FrontendClient, GuestMemory

NONE, SIZE_MAX = VirtioFeatures(0), VirtioFeatures(int(BlkFeatures.SIZE_MAX))
LONGEST = 1 << 20
OK, IOERR, UNSUPP = BlkStatus.OK, BlkStatus.IOERR, BlkStatus.UNSUPP
SECTOR = 512
SECTORS = 2048
BLANK = 0xEE
PAGE = 4096
DATA = bytes(range(256)) * 2
SERIAL = b"hostile-disk".ljust(20, b"\0")
LAYOUTS = {
    "split": TRANSPORT_FEATURES,
    "packed": TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED,
}


def pattern(sector: int, sectors: int = 1) -> bytes:
    """What the disk holds before anybody wrote to it."""
    return b"".join(each.to_bytes(8, "little") * 64 for each in range(sector, sector + sectors))


def header(kind: int, sector: int = 0) -> bytes:
    return bytes(BlkHeader(type=kind, sector=sector))


def segment(sector: int, sectors: int, flags: int = 0) -> bytes:
    return bytes(BlkSegment(sector=sector, num_sectors=sectors, flags=flags))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A chain, and what must come of it.

    Attributes:
        out: contents of the readable buffers.
        room: sizes of the writable buffers.
        status: what the last writable byte must become; None: there is none.
        data: what the device must write before it; the rest of the room stays blank.
        disk: what must have changed on the disk, by sector.
        read_only: whether the disk is.
        features: negotiated beside those of the layout.
        memory: bytes of guest memory.
    """

    out: Sequence[bytes]
    room: Sequence[int] = (1,)
    status: int | None = OK
    data: bytes = b""
    disk: dict[int, bytes] = field(default_factory=dict)
    read_only: bool = False
    features: VirtioFeatures = NONE
    memory: int = 1 << 20

    @property
    def written(self) -> int:
        """What the used length must be: what was written, the status included."""
        return len(self.data) + (self.status is not None)


def read(sector: int, length: int = SECTOR, status: int = OK) -> Case:
    data = pattern(sector, length // SECTOR) if status == OK else b""
    return Case(out=[header(BlkRequest.IN, sector)], room=[length, 1], status=status, data=data)


def write(sector: int, data: bytes = DATA, status: int = OK) -> Case:
    disk = {sector: data} if status == OK else {}
    return Case(out=[header(BlkRequest.OUT, sector), data], status=status, disk=disk)


def get_id(room: int) -> Case:
    return Case(out=[header(BlkRequest.GET_ID)], room=[room, 1], data=SERIAL[:room])


def long_buffer(length: int, status: int, features: VirtioFeatures = SIZE_MAX) -> Case:
    """A request that needs no data, with one buffer of some."""
    out = [header(BlkRequest.FLUSH), bytes(length)]
    return Case(out=out, status=status, features=features, memory=4 * LONGEST)


def other(kind: int, data: bytes = b"", status: int = OK, disk: Any = None) -> Case:
    return Case(out=[header(kind), data], status=status, disk=disk or {})


def bad_segments(kind: int) -> dict[str, Case]:
    many = segment(8, 1) * 17
    return {
        "0-segments": other(kind, b"", IOERR),
        "15-bytes": other(kind, segment(8, 1)[:15], IOERR),
        "17-bytes": other(kind, segment(8, 1) + b"x", IOERR),
        "17-segments": other(kind, many, IOERR),
        "reserved-flag-1": other(kind, segment(8, 1, 2), UNSUPP),
        "reserved-flag-31": other(kind, segment(8, 1, 1 << 31), UNSUPP),
        "4g-sectors": other(kind, segment(0, 0xFFFFFFFF), IOERR),
        "beyond-the-end": other(kind, segment(SECTORS - 1, 2), IOERR),
        "sector-wraps": other(kind, segment((1 << 64) - 1, 2), IOERR),
        "0-sectors": other(kind, segment(8, 0)),
    }


IN_HEADER, OUT_HEADER = header(BlkRequest.IN, 5), header(BlkRequest.OUT, 5)
IN_BYTES = [IN_HEADER[i : i + 1] for i in range(16)]
ZEROES = bytes(2 * SECTOR)
REQUESTS = {
    "104-header-15": Case(out=[IN_HEADER[:15]], room=[SECTOR, 1], status=IOERR),
    "104-header-0": Case(out=[], room=[SECTOR, 1], status=IOERR),
    "104-header-in-16": Case(out=IN_BYTES, room=[SECTOR, 1], data=pattern(5)),
    "104-header-with-data": Case(out=[OUT_HEADER + DATA], disk={5: DATA}),
    "104-header-and-empty-buffers": Case(
        out=[b"", IN_HEADER[:8], b"", IN_HEADER[8:]], room=[0, SECTOR, 0, 1, 0], data=pattern(5)
    ),
    "105-no-status": Case(out=[OUT_HEADER, DATA], room=[], status=None),
    "105-status-readable": Case(out=[IN_HEADER, bytes(513)], room=[], status=None),
    "105-status-behind-data": Case(out=[IN_HEADER], room=[513], data=pattern(5)),
    "106-wrap-2-55": read(1 << 55, status=IOERR),
    "106-wrap-2-64": read((1 << 64) - 1, status=IOERR),
    "106-last": read(SECTORS - 1),
    "106-last-plus-1": read(SECTORS, status=IOERR),
    "106-crosses-the-end": read(SECTORS - 1, 2 * SECTOR, status=IOERR),
    "106-write-wrap-2-55": write(1 << 55, status=IOERR),
    "106-write-last": write(SECTORS - 1),
    "106-write-last-plus-1": write(SECTORS, status=IOERR),
    "106-write-crosses-the-end": write(SECTORS - 1, DATA * 2, status=IOERR),
    **{f"107-read-{length}": read(5, length, IOERR) for length in (0, 1, 511, 513)},
    **{f"107-write-{length}": write(5, (DATA * 2)[:length], IOERR) for length in (0, 1, 511, 513)},
    "107-most-segments": Case(out=[IN_HEADER], room=[SECTOR] * 126 + [1], data=pattern(5, 126)),
    "107-a-segment-too-many": Case(out=[IN_HEADER], room=[SECTOR] * 127 + [1], status=IOERR),
    "107-longest-buffer": long_buffer(LONGEST, OK),
    "107-a-byte-too-long": long_buffer(LONGEST + 1, IOERR),
    "107-a-byte-too-long-in-room": Case(
        out=[IN_HEADER], room=[LONGEST + 1, 1], status=IOERR, features=SIZE_MAX, memory=4 * LONGEST
    ),
    "107-longest-not-negotiated": long_buffer(LONGEST + 1, OK, NONE),
    "107-odd-pieces": Case(out=[IN_HEADER], room=[1, 510, 1, 1], data=pattern(5)),
    "108-read-only-write": replace(write(5, status=IOERR), read_only=True),
    "108-read-only-discard": replace(
        other(BlkRequest.DISCARD, segment(8, 2), IOERR), read_only=True
    ),
    "108-read-only-zeroes": replace(
        other(BlkRequest.WRITE_ZEROES, segment(8, 2), IOERR), read_only=True
    ),
    "108-type-4g": other(0xFFFFFFFF, status=UNSUPP),
    **{f"108-type-{kind}": other(kind, DATA, UNSUPP) for kind in (2, 3, 5, 6, 7, 9, 12, 15, 26)},
    "108-type-legacy-barrier": other(1 << 31 | BlkRequest.OUT, DATA, UNSUPP),
    "108-type-scsi": Case(
        out=[header(BlkRequest.SCSI_CMD), bytes(6)], room=[96, 16, 1], status=UNSUPP
    ),
    "108-type-lifetime": Case(out=[header(BlkRequest.GET_LIFETIME)], room=[16, 1], status=UNSUPP),
    "108-type-secure-erase": other(BlkRequest.SECURE_ERASE, segment(8, 2), UNSUPP),
    "109-in-readable": Case(out=[IN_HEADER, bytes(SECTOR)], status=IOERR),
    "109-out-writable": Case(out=[OUT_HEADER], room=[SECTOR, 1], status=IOERR),
    "109-in-both": Case(out=[IN_HEADER, DATA], room=[SECTOR, 1], data=pattern(5)),
    **{f"110-room-{room}": get_id(room) for room in (0, 1, 19, 20, 21, 512)},
    "111-flush-readable": other(BlkRequest.FLUSH, DATA),
    "111-flush-writable": Case(out=[header(BlkRequest.FLUSH)], room=[SECTOR, 1]),
    "111-flush-sector": Case(out=[header(BlkRequest.FLUSH, 1 << 60)]),
    **{f"112-discard-{name}": case for name, case in bad_segments(BlkRequest.DISCARD).items()},
    "112-discard-unmap": other(BlkRequest.DISCARD, segment(8, 1, 1), UNSUPP),
    **{f"112-zeroes-{name}": case for name, case in bad_segments(BlkRequest.WRITE_ZEROES).items()},
    "112-zeroes-unmap": other(BlkRequest.WRITE_ZEROES, segment(8, 2, 1), OK, {8: ZEROES}),
    "112-zeroes": other(BlkRequest.WRITE_ZEROES, segment(8, 2), OK, {8: ZEROES}),
    **{f"114-read-{length}": read(9, length) for length in (512, 4096, 65536)},
    "114-write-65536": write(9, DATA * 128),
    "114-flush": other(BlkRequest.FLUSH),
}
CASES = {
    f"{name}-{layout}": (case, features)
    for layout, features in LAYOUTS.items()
    for name, case in REQUESTS.items()
}


def untouchable(memory: GuestMemory, given: Sequence[GuestBuffer]) -> bytes:
    """All of the guest's memfd, its margins too, less what the device may write."""
    region = memory.regions[0]
    contents = bytearray(region.contents())
    for buffer in given:
        start = region.layout.margin + buffer.gpa - region.layout.gpa
        contents[start : start + buffer.length] = bytes(buffer.length)
    return bytes(contents)


def place(memory: GuestMemory, contents: bytes) -> GuestBuffer:
    buffer = memory.alloc(max(len(contents), 1)).part(0, len(contents))
    memory.write(buffer.gpa, contents)
    return buffer


async def attack(client: FrontendClient, case: Case) -> None:
    """Pass the chain through the ring and look at every byte of guest memory."""
    memory, queue = client.memory, client.queues[0]
    readable = [place(memory, contents) for contents in case.out]
    writable = [place(memory, bytes([BLANK]) * size) for size in case.room]
    areas = queue.areas
    given = [*writable, areas.desc, areas.driver, areas.device]
    before = untouchable(memory, given)
    written = await queue.transfer(readable, writable)
    assert written == case.written
    assert untouchable(memory, given) == before
    filled = b"".join(memory.read(buffer.gpa, buffer.length) for buffer in writable)
    if case.status is not None:
        assert filled[-1] == case.status
        assert filled[:-1] == case.data.ljust(len(filled) - 1, bytes([BLANK]))


@pytest.mark.parametrize(("case", "features"), CASES.values(), ids=CASES)
async def hostile(case: Case, features: VirtioFeatures, serving: Any) -> None:
    layout = RegionLayout(gpa=1 << 32, size=case.memory, margin=PAGE)
    async with serving(read_only=case.read_only) as served:
        expected = bytearray(served.image.read_bytes())
        for sector, data in case.disk.items():
            expected[sector * SECTOR : sector * SECTOR + len(data)] = data
        memory = served.guest(layout)
        async with served.disk(memory, num=256, features=features | case.features) as (client, _):
            await attack(client, case)
            await served.reads(BlockDriver([client.queues[0]]), sector=3)
        assert served.image.read_bytes() == bytes(expected)
