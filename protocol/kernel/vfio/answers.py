"""What the kernel fills in. Offsets and counts in it are checked against the answer's end.

A structure begins with its size, and the kernel may answer with a larger size than was offered: ask
again with that many bytes (`answer_size`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from protocol.kernel.vfio.numbers import (
    DeviceFlags,
    GroupFlags,
    IommuFlags,
    IrqFlags,
    RegionFlags,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DeviceInfo",
    "GroupStatus",
    "IommuInfo",
    "IovaRange",
    "IrqInfo",
    "RegionInfo",
    "SparseArea",
    "answer_size",
    "request_buffer",
]

_REGION_SPARSE_MMAP = 1
_REGION_MSIX_MAPPABLE = 3
_IOMMU_IOVA_RANGE = 1
_IOMMU_DMA_AVAIL = 3

_SIZE = struct.Struct("=I")
_INDEX_AT = 8
_CAP = struct.Struct("=HHI")
_COUNT = struct.Struct("=II")
_PAIR = struct.Struct("=QQ")
_GROUP_STATUS = struct.Struct("=II")
_DEVICE_INFO = struct.Struct("=IIIII")
_DEVICE_INFO_MIN = 16  # before there were capabilities
_REGION_INFO = struct.Struct("=IIIIQQ")
_IRQ_INFO = struct.Struct("=IIII")
_IOMMU_INFO = struct.Struct("=IIQI4x")
_IOMMU_INFO_MIN = 16  # before there were capabilities


def request_buffer(size: int, index: int = 0) -> bytearray:
    """Return a structure of the GET_…INFO and GET_STATUS kind for the kernel to fill in.

    Args:
        size: bytes to offer.
        index: of the region or kind of interrupt, where one is asked for.
    """
    buffer = bytearray(size)
    _SIZE.pack_into(buffer, 0, size)
    if index:
        _SIZE.pack_into(buffer, _INDEX_AT, index)
    return buffer


def answer_size(answer: bytes | bytearray) -> int:
    """Return how many bytes the kernel would have filled in, had there been room."""
    size: int = _SIZE.unpack_from(answer)[0]
    return size


def _fixed(layout: struct.Struct, answer: bytes, minimum: int | None = None) -> tuple[int, ...]:
    """Unpack the fixed part; an older kernel's shorter answer is filled up with zeros."""
    size = min(len(answer), answer_size(answer)) if len(answer) >= _SIZE.size else 0
    least = layout.size if minimum is None else minimum
    if size < least:
        raise ValueError(f"the kernel's answer has {size} bytes of at least {least}")
    return layout.unpack_from(bytes(answer[:size]).ljust(layout.size, b"\0"))


def _capabilities(answer: bytes, first: int, begin: int) -> Iterator[tuple[int, int]]:
    """Yield each capability's id and where what follows its header begins.

    Raises:
        ValueError: the chain leaves the answer, or comes back to where it was.
    """
    seen = set()
    place = first
    while place:
        if place in seen or not begin <= place <= len(answer) - _CAP.size:
            raise ValueError(f"the kernel's answer has no capability at byte {place}")
        seen.add(place)
        ident, _version, following = _CAP.unpack_from(answer, place)
        yield ident, place + _CAP.size
        place = following


def _pairs(answer: bytes, place: int) -> Iterator[tuple[int, int]]:
    """Yield the counted pairs of 64-bit numbers of a capability."""
    if place + _COUNT.size > len(answer):
        raise ValueError("a capability of the kernel's answer is cut off")
    count, _reserved = _COUNT.unpack_from(answer, place)
    begin = place + _COUNT.size
    if count > (len(answer) - begin) // _PAIR.size:
        raise ValueError(f"a capability of the kernel's answer has no room for {count} entries")
    yield from _PAIR.iter_unpack(answer[begin : begin + count * _PAIR.size])


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """A group of devices that the IOMMU cannot tell apart.

    Attributes:
        flags: what holds for it.
    """

    SIZE = _GROUP_STATUS.size

    flags: GroupFlags

    @classmethod
    def parse(cls, answer: bytes) -> Self:
        """Raises ValueError: it is cut off."""
        _size, flags = _fixed(_GROUP_STATUS, answer)
        return cls(flags=GroupFlags(flags))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A device.

    Attributes:
        flags: what holds for it.
        regions: how many region numbers it has; there may be nothing at some.
        irqs: how many kinds of interrupts.
    """

    SIZE = _DEVICE_INFO.size

    flags: DeviceFlags
    regions: int
    irqs: int

    @classmethod
    def parse(cls, answer: bytes) -> Self:
        """Raises ValueError: it is cut off."""
        _size, flags, regions, irqs, _caps = _fixed(_DEVICE_INFO, answer, _DEVICE_INFO_MIN)
        return cls(flags=DeviceFlags(flags), regions=regions, irqs=irqs)


@dataclass(frozen=True, slots=True)
class SparseArea:
    """A part of a region that can be mapped.

    Attributes:
        offset: bytes from the region's beginning.
        size: bytes.
    """

    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionInfo:
    """A region of a device.

    Attributes:
        flags: what can be done with it.
        size: bytes; 0: there is none of this number.
        offset: where it begins in the device's file.
        sparse: the only parts that can be mapped; None: with MMAP, all of it can.
        msix_mappable: the part with the MSI-X table can be mapped, too.
    """

    SIZE = _REGION_INFO.size

    flags: RegionFlags
    size: int
    offset: int
    sparse: tuple[SparseArea, ...] | None = None
    msix_mappable: bool = False

    @classmethod
    def parse(cls, answer: bytes) -> Self:
        """Raises ValueError: it is cut off, or a capability leaves it or the region."""
        _argsz, number, _index, first, size, offset = _fixed(_REGION_INFO, answer)
        flags = RegionFlags(number)
        sparse = None
        mappable = False
        for ident, place in _capabilities(
            answer, first if RegionFlags.CAPS in flags else 0, _REGION_INFO.size
        ):
            if ident == _REGION_SPARSE_MMAP:
                sparse = tuple(SparseArea(*pair) for pair in _pairs(answer, place))
            elif ident == _REGION_MSIX_MAPPABLE:
                mappable = True
        for area in sparse or ():
            if area.offset + area.size > size:
                raise ValueError(f"{area} is not inside a region of {size:#x} bytes")
        return cls(flags=flags, size=size, offset=offset, sparse=sparse, msix_mappable=mappable)


@dataclass(frozen=True, slots=True, kw_only=True)
class IrqInfo:
    """A kind of interrupt of a device.

    Attributes:
        flags: what can be done with it.
        count: how many interrupts there are of it.
    """

    SIZE = _IRQ_INFO.size

    flags: IrqFlags
    count: int

    @classmethod
    def parse(cls, answer: bytes) -> Self:
        """Raises ValueError: it is cut off."""
        _size, flags, _index, count = _fixed(_IRQ_INFO, answer)
        return cls(flags=IrqFlags(flags), count=count)


@dataclass(frozen=True, slots=True)
class IovaRange:
    """Addresses that a device can be given.

    Attributes:
        first: the lowest.
        last: the highest.
    """

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IommuInfo:
    """What a container's IOMMU can do.

    Attributes:
        page_sizes: each possible page size is a bit; 0: the kernel does not say.
        iova_ranges: where memory can be mapped; None: the kernel does not say.
        dma_avail: how many more mappings there can be; None: the kernel does not say.
    """

    SIZE = _IOMMU_INFO.size

    page_sizes: int
    iova_ranges: tuple[IovaRange, ...] | None = None
    dma_avail: int | None = None

    @classmethod
    def parse(cls, answer: bytes) -> Self:
        """Raises ValueError: it is cut off, or a capability leaves it."""
        _argsz, number, sizes, first = _fixed(_IOMMU_INFO, answer, _IOMMU_INFO_MIN)
        flags = IommuFlags(number)
        ranges = None
        avail = None
        for ident, place in _capabilities(
            answer, first if IommuFlags.CAPS in flags else 0, _IOMMU_INFO_MIN
        ):
            if ident == _IOMMU_IOVA_RANGE:
                ranges = tuple(IovaRange(*pair) for pair in _pairs(answer, place))
            elif ident == _IOMMU_DMA_AVAIL and place + _SIZE.size <= len(answer):
                (avail,) = _SIZE.unpack_from(answer, place)
        return cls(
            page_sizes=sizes if IommuFlags.PGSIZES in flags else 0,
            iova_ranges=ranges,
            dma_avail=avail,
        )
