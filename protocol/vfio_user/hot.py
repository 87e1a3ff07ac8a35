"""The header and the four messages of every access, by `struct` alone: construct is too slow there.

Each equals its layout in `formats`; tests hold them equal. A thread that speaks the protocol by
itself can use the whole messages at the end. Specification: vfio-user, "Header" and the commands
REGION_READ, REGION_WRITE, DMA_READ and DMA_WRITE.
"""

from __future__ import annotations

import struct

__all__ = [
    "DMA",
    "HEADER",
    "REGION",
    "REGION_MESSAGE",
    "pack_region_read",
    "pack_region_read_answer",
    "pack_region_write",
    "pack_region_write_answer",
]

HEADER = struct.Struct("=HHIII")
"""id, command, size, flags, error."""

REGION = struct.Struct("=QII")
"""offset, region, count; then the data."""

DMA = struct.Struct("=QQ")
"""address, count; then the data."""

REGION_MESSAGE = struct.Struct("=HHIIIQII")
"""The header and `REGION` at once."""

_REGION_READ = 9
_REGION_WRITE = 10
_REPLY = 0x1
_NO_REPLY = 0x10


def pack_region_read(number: int, region: int, offset: int, count: int) -> bytes:
    """Return a whole REGION_READ; its reply is `REGION_MESSAGE` and the data.

    Args:
        number: The message's id.
        region: The region's index.
        offset: Bytes from the region's beginning.
        count: Bytes to read.
    """
    size = REGION_MESSAGE.size
    return REGION_MESSAGE.pack(number, _REGION_READ, size, 0, 0, offset, region, count)


def pack_region_read_answer(number: int, region: int, offset: int, count: int) -> bytes:
    """Return how the answer to that REGION_READ begins: all but the `count` bytes of data."""
    size = REGION_MESSAGE.size + count
    return REGION_MESSAGE.pack(number, _REGION_READ, size, _REPLY, 0, offset, region, count)


def pack_region_write(
    number: int, region: int, offset: int, data: bytes, *, posted: bool = False
) -> bytes:
    """Return a whole REGION_WRITE; its reply is `REGION_MESSAGE`.

    Args:
        number: The message's id.
        region: The region's index.
        offset: Bytes from the region's beginning.
        data: Bytes to write.
        posted: Whether no reply is wanted.
    """
    count = len(data)
    size = REGION_MESSAGE.size + count
    flags = _NO_REPLY if posted else 0
    head = REGION_MESSAGE.pack(number, _REGION_WRITE, size, flags, 0, offset, region, count)
    return head + data


def pack_region_write_answer(number: int, region: int, offset: int, count: int) -> bytes:
    """Return the whole answer to a REGION_WRITE of `count` bytes."""
    size = REGION_MESSAGE.size
    return REGION_MESSAGE.pack(number, _REGION_WRITE, size, _REPLY, 0, offset, region, count)
