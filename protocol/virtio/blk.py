"""The block device's formats: features, requests, status codes and the configuration space.

Only bytes and numbers: what a request does is the business of the engine (device side) and of
`vhostuser.frontend` (driver side). All fields are little-endian (VERSION_1, or a legacy guest on a
little-endian machine). Specification: VIRTIO 1.2, section 5.2 "Block Device".
"""

from __future__ import annotations

import enum
import struct
from dataclasses import asdict, dataclass
from typing import Self

import construct as c

from protocol.masks import complement

__all__ = [
    "BLK_CONFIG_SIZE",
    "BLK_HEADER_SIZE",
    "BLK_ID_SIZE",
    "BLK_SECTOR_SIZE",
    "BLK_SEGMENT_SIZE",
    "BLK_WRITEBACK_OFFSET",
    "BlkConfig",
    "BlkFeature",
    "BlkFeatures",
    "BlkHeader",
    "BlkRequest",
    "BlkSegment",
    "BlkStatus",
]

BLK_SECTOR_SIZE = 512
"""Bytes; the unit of capacities and positions, whatever the disk's block size is."""
BLK_ID_SIZE = 20
"""Bytes of a serial number; a shorter one is padded with NUL."""
BLK_HEADER_SIZE = 16
"""Bytes a request starts with, in the readable part of its chain."""
BLK_SEGMENT_SIZE = 16
"""Bytes of each segment of a discard or write-zeroes request."""
BLK_CONFIG_SIZE = 60
"""Bytes of the configuration space up to the write-zeroes fields."""
BLK_WRITEBACK_OFFSET = 32
"""Where in the configuration space `writeback` stands, the one field that the driver writes."""


class BlkFeature(enum.Enum):
    """The number of a block feature (its bit's position)."""

    SIZE_MAX = 1
    SEG_MAX = 2
    GEOMETRY = 4
    RO = 5
    BLK_SIZE = 6
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    MQ = 12
    DISCARD = 13
    WRITE_ZEROES = 14
    LIFETIME = 15
    SECURE_ERASE = 16
    ZONED = 17

    @property
    def mask(self) -> BlkFeatures:
        """The set that holds this feature alone."""
        return BlkFeatures(1 << self.value)


class BlkFeatures(enum.IntFlag, boundary=enum.KEEP):
    """A set of block features, in the places they have in the 64-bit masks on the wire."""

    __invert__ = complement

    SIZE_MAX = 1 << BlkFeature.SIZE_MAX.value
    SEG_MAX = 1 << BlkFeature.SEG_MAX.value
    GEOMETRY = 1 << BlkFeature.GEOMETRY.value
    RO = 1 << BlkFeature.RO.value
    BLK_SIZE = 1 << BlkFeature.BLK_SIZE.value
    FLUSH = 1 << BlkFeature.FLUSH.value
    TOPOLOGY = 1 << BlkFeature.TOPOLOGY.value
    CONFIG_WCE = 1 << BlkFeature.CONFIG_WCE.value
    MQ = 1 << BlkFeature.MQ.value
    DISCARD = 1 << BlkFeature.DISCARD.value
    WRITE_ZEROES = 1 << BlkFeature.WRITE_ZEROES.value
    LIFETIME = 1 << BlkFeature.LIFETIME.value
    SECURE_ERASE = 1 << BlkFeature.SECURE_ERASE.value
    ZONED = 1 << BlkFeature.ZONED.value


class BlkRequest(enum.IntEnum):
    """What a request asks for: the first field of its header."""

    IN = 0
    """Read from the disk into the writable part."""
    OUT = 1
    """Write the readable part to the disk."""
    SCSI_CMD = 2
    """Legacy: a SCSI command for the host's device."""
    FLUSH = 4
    GET_ID = 8
    """Copy the serial number into the writable part."""
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14


class BlkStatus(enum.IntEnum):
    """How a request ended: the last writable byte of its chain."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


_HEADER = struct.Struct("<IIQ")
_SEGMENT = struct.Struct("<QII")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkHeader:
    """The header of a request.

    Attributes:
        type: a `BlkRequest`, or any other 32-bit number that a driver made up.
        sector: where on the disk, in sectors of 512 bytes; 0 where it means nothing.
        priority: legacy, ignored by devices of today.
    """

    type: int
    sector: int = 0
    priority: int = 0

    def __bytes__(self) -> bytes:
        return _HEADER.pack(self.type, self.priority, self.sector)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the header that 16 bytes hold.

        Raises:
            ValueError: there are fewer or more bytes.
        """
        if len(data) != BLK_HEADER_SIZE:
            raise ValueError(f"a request header has {BLK_HEADER_SIZE} bytes, got {len(data)}")
        kind, priority, sector = _HEADER.unpack(data)
        return cls(type=kind, sector=sector, priority=priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkSegment:
    """One range of a discard or write-zeroes request.

    Attributes:
        sector: first sector (512 bytes).
        num_sectors: how many.
        flags: bit 0: write-zeroes may deallocate the range (unmap); the others are reserved.
    """

    sector: int
    num_sectors: int
    flags: int = 0

    def __bytes__(self) -> bytes:
        return _SEGMENT.pack(self.sector, self.num_sectors, self.flags)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the segment that 16 bytes hold.

        Raises:
            ValueError: there are fewer or more bytes.
        """
        if len(data) != BLK_SEGMENT_SIZE:
            raise ValueError(f"a segment has {BLK_SEGMENT_SIZE} bytes, got {len(data)}")
        sector, num_sectors, flags = _SEGMENT.unpack(data)
        return cls(sector=sector, num_sectors=num_sectors, flags=flags)


_CONFIG = c.Struct(
    "capacity" / c.Int64ul,
    "size_max" / c.Int32ul,
    "seg_max" / c.Int32ul,
    "cylinders" / c.Int16ul,
    "heads" / c.Int8ul,
    "sectors" / c.Int8ul,
    "blk_size" / c.Int32ul,
    "physical_block_exp" / c.Int8ul,
    "alignment_offset" / c.Int8ul,
    "min_io_size" / c.Int16ul,
    "opt_io_size" / c.Int32ul,
    "writeback" / c.Int8ul,
    c.Padding(1),
    "num_queues" / c.Int16ul,
    "max_discard_sectors" / c.Int32ul,
    "max_discard_seg" / c.Int32ul,
    "discard_sector_alignment" / c.Int32ul,
    "max_write_zeroes_sectors" / c.Int32ul,
    "max_write_zeroes_seg" / c.Int32ul,
    "write_zeroes_may_unmap" / c.Int8ul,
    c.Padding(3),
    c.Terminated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkConfig:
    """The configuration space; `bytes(config)` are its 60 bytes.

    A field means something only with its feature; without it it stays 0.

    Attributes:
        capacity: size of the disk in sectors of 512 bytes.
        size_max: longest data buffer, bytes (SIZE_MAX).
        seg_max: most data buffers of a request (SEG_MAX).
        cylinders: legacy geometry (GEOMETRY).
        heads: legacy geometry (GEOMETRY).
        sectors: legacy geometry, sectors per track (GEOMETRY).
        blk_size: block size, bytes (BLK_SIZE).
        physical_block_exp: logical blocks per physical one, as a power of two (TOPOLOGY).
        alignment_offset: logical blocks before the first aligned one (TOPOLOGY).
        min_io_size: suggested shortest request, logical blocks (TOPOLOGY).
        opt_io_size: suggested longest request, logical blocks (TOPOLOGY).
        writeback: 1: cached until a flush, 0: each write is stable (CONFIG_WCE).
        num_queues: how many queues the driver may use (MQ).
        max_discard_sectors: longest discard segment, sectors (DISCARD).
        max_discard_seg: most segments of a discard (DISCARD).
        discard_sector_alignment: sectors (DISCARD).
        max_write_zeroes_sectors: longest write-zeroes segment, sectors (WRITE_ZEROES).
        max_write_zeroes_seg: most segments of a write-zeroes request (WRITE_ZEROES).
        write_zeroes_may_unmap: 1: the unmap flag has an effect (WRITE_ZEROES).
    """

    capacity: int
    size_max: int = 0
    seg_max: int = 0
    cylinders: int = 0
    heads: int = 0
    sectors: int = 0
    blk_size: int = 0
    physical_block_exp: int = 0
    alignment_offset: int = 0
    min_io_size: int = 0
    opt_io_size: int = 0
    writeback: int = 0
    num_queues: int = 0
    max_discard_sectors: int = 0
    max_discard_seg: int = 0
    discard_sector_alignment: int = 0
    max_write_zeroes_sectors: int = 0
    max_write_zeroes_seg: int = 0
    write_zeroes_may_unmap: int = 0

    def __bytes__(self) -> bytes:
        return bytes(_CONFIG.build(asdict(self)))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the configuration that 60 bytes hold; the unused bytes are not looked at.

        Raises:
            ValueError: there are fewer or more bytes.
        """
        try:
            fields = _CONFIG.parse(data)
        except c.ConstructError as error:
            raise ValueError(
                f"a block configuration has {BLK_CONFIG_SIZE} bytes, got {len(data)}"
            ) from error
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})
