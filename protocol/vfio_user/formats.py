"""The payloads' byte layouts, declared once with construct.

Where a layout ends in `data`, all bytes up to the message's end belong to it. Which values are
legal is checked by the messages, not here. All numbers are in native byte order. Specification:
vfio-user, the commands' tables.
"""

from __future__ import annotations

from typing import Any

import construct as c

from protocol.layouts import Format

__all__ = [
    "INFO_HEAD",
    "IO_FDS_HEAD",
    "IO_FD_STRIDES",
    "MAX_INFO",
    "MAX_JSON",
    "MAX_TRANSFER",
    "MAX_WRITES",
    "REGION_INFO_HEAD",
    "SET_IRQS_HEAD",
    "parse_entries",
]

MAX_JSON = 1 << 14
"""Bytes of capabilities in VERSION that are accepted; real ones have about 200."""

MAX_INFO = 1 << 14
"""Bytes of the longest description of a device, region or interrupt that is accepted."""

MAX_TRANSFER = 1 << 24
"""Bytes that one message can carry at most, whatever was agreed."""

MAX_WRITES = 1024
"""Writes in one REGION_WRITE_MULTI."""

_MAX_IRQS = 1 << 12

NOTHING = Format("no payload", c.Struct(c.Terminated))

VERSION = Format(
    "version",
    c.Struct("major" / c.Int16un, "minor" / c.Int16un, "data" / c.GreedyBytes, c.Terminated),
    sizes=(4, 4 + MAX_JSON),
)

DMA_MAP = Format(
    "DMA mapping",
    c.Struct(
        "argsz" / c.Int32un,
        "flags" / c.Int32un,
        "offset" / c.Int64un,
        "address" / c.Int64un,
        "size" / c.Int64un,
        c.Terminated,
    ),
)

DMA_UNMAP = Format(
    "DMA unmapping",
    c.Struct(
        "argsz" / c.Int32un,
        "flags" / c.Int32un,
        "address" / c.Int64un,
        "size" / c.Int64un,
        c.Terminated,
    ),
)

INFO_HEAD = 16
DEVICE_INFO = Format(
    "device information",
    c.Struct(
        "argsz" / c.Int32un,
        "flags" / c.Int32un,
        "num_regions" / c.Int32un,
        "num_irqs" / c.Int32un,
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(INFO_HEAD, MAX_INFO),
)

REGION_INFO_HEAD = 32
REGION_INFO = Format(
    "region information",
    c.Struct(
        "argsz" / c.Int32un,
        "flags" / c.Int32un,
        "index" / c.Int32un,
        "cap_offset" / c.Int32un,
        "size" / c.Int64un,
        "offset" / c.Int64un,
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(REGION_INFO_HEAD, MAX_INFO),
)

CAPABILITY = Format(
    "capability header",
    c.Struct("id" / c.Int16un, "version" / c.Int16un, "next" / c.Int32un, c.Terminated),
)

SPARSE_MMAP = Format(
    "sparse areas",
    c.Struct("count" / c.Int32un, c.Padding(4), "data" / c.GreedyBytes, c.Terminated),
    sizes=(8, MAX_INFO),
)

AREA = Format("sparse area", c.Struct("offset" / c.Int64un, "size" / c.Int64un, c.Terminated))

REGION_TYPE = Format(
    "region type", c.Struct("type" / c.Int32un, "subtype" / c.Int32un, c.Terminated)
)

IO_FDS_HEAD = 16
IO_FDS = Format(
    "region I/O fds",
    c.Struct(
        "argsz" / c.Int32un,
        "flags" / c.Int32un,
        "index" / c.Int32un,
        "count" / c.Int32un,
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(IO_FDS_HEAD, MAX_INFO),
)

IO_FD = Format(
    "I/O fd",
    c.Struct(
        "offset" / c.Int64un,
        "size" / c.Int64un,
        "fd_index" / c.Int32un,
        "type" / c.Int32un,
        "flags" / c.Int32un,
        "shadow_index" / c.Int32un,
        "value" / c.Int64un,
        c.Terminated,
    ),
)

SHADOW_IO_FD = Format(
    "I/O fd with shadow",
    c.Struct(
        "offset" / c.Int64un,
        "size" / c.Int64un,
        "fd_index" / c.Int32un,
        "type" / c.Int32un,
        "flags" / c.Int32un,
        "shadow_index" / c.Int32un,
        "shadow_offset" / c.Int64un,
        "value" / c.Int64un,
        c.Terminated,
    ),
)

IO_FD_STRIDES = {layout.min_size: layout for layout in (IO_FD, SHADOW_IO_FD)}
"""An entry's layout by its size: the specification's 40 bytes, and libvfio-user's 48."""

IRQ_INFO = Format(
    "interrupt information",
    c.Struct(
        "argsz" / c.Int32un,
        "flags" / c.Int32un,
        "index" / c.Int32un,
        "count" / c.Int32un,
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(INFO_HEAD, MAX_INFO),
)

SET_IRQS_HEAD = 20
SET_IRQS = Format(
    "interrupt setting",
    c.Struct(
        "argsz" / c.Int32un,
        "flags" / c.Int32un,
        "index" / c.Int32un,
        "start" / c.Int32un,
        "count" / c.Int32un,
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(SET_IRQS_HEAD, SET_IRQS_HEAD + _MAX_IRQS),
)

REGION_ACCESS = Format(
    "region access",
    c.Struct("offset" / c.Int64un, "region" / c.Int32un, "count" / c.Int32un, c.Terminated),
)

REGION_DATA = Format(
    "region access with data",
    c.Struct(
        "offset" / c.Int64un,
        "region" / c.Int32un,
        "count" / c.Int32un,
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(16, 16 + MAX_TRANSFER),
)

DMA_ACCESS = Format(
    "DMA access", c.Struct("address" / c.Int64un, "count" / c.Int64un, c.Terminated)
)

DMA_DATA = Format(
    "DMA access with data",
    c.Struct("address" / c.Int64un, "count" / c.Int64un, "data" / c.GreedyBytes, c.Terminated),
    sizes=(16, 16 + MAX_TRANSFER),
)

WRITE_MULTI = Format(
    "region writes",
    c.Struct("count" / c.Int64un, "data" / c.GreedyBytes, c.Terminated),
    sizes=(8, 8 + MAX_WRITES * 24),
)

WRITE = Format(
    "region write",
    c.Struct(
        "offset" / c.Int64un,
        "region" / c.Int32un,
        "count" / c.Int32un,
        "data" / c.Bytes(8),
        c.Terminated,
    ),
)

COUNT = Format("count", c.Struct("count" / c.Int64un, c.Terminated))

FEATURE = Format(
    "device feature",
    c.Struct("argsz" / c.Int32un, "flags" / c.Int32un, "data" / c.GreedyBytes, c.Terminated),
    sizes=(8, 8 + MAX_TRANSFER),
)

FEATURE_MIGRATION = Format("migration feature", c.Struct("flags" / c.Int64un, c.Terminated))

FEATURE_STATE = Format(
    "migration state", c.Struct("state" / c.Int32un, "data_fd" / c.Int32un, c.Terminated)
)

FEATURE_LOGGING = Format(
    "DMA logging",
    c.Struct(
        "page_size" / c.Int64un,
        "count" / c.Int32un,
        c.Padding(4),
        "data" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(16, MAX_INFO),
)

LOGGED_RANGE = Format(
    "DMA range", c.Struct("address" / c.Int64un, "length" / c.Int64un, c.Terminated)
)

FEATURE_REPORT = Format(
    "DMA logging report",
    c.Struct(
        "address" / c.Int64un,
        "length" / c.Int64un,
        "page_size" / c.Int64un,
        "bitmap" / c.GreedyBytes,
        c.Terminated,
    ),
    sizes=(24, 24 + MAX_TRANSFER),
)

MIGRATION_SIZE = Format(
    "size of migration data",
    c.Struct("argsz" / c.Int32un, "size" / c.Int32un, c.Terminated),
)

MIGRATION_DATA = Format(
    "migration data",
    c.Struct("argsz" / c.Int32un, "size" / c.Int32un, "data" / c.GreedyBytes, c.Terminated),
    sizes=(8, 8 + MAX_TRANSFER),
)


def parse_entries(layout: Format, data: bytes) -> list[dict[str, Any]]:
    """Return the entries of a list that fills `data` exactly, all of one fixed layout.

    Raises:
        LocalProtocolError: The last entry is cut off.
    """
    stride = layout.min_size
    return [layout.parse(data[at : at + stride]) for at in range(0, len(data), stride)]
