"""The payloads inside DEVICE_FEATURE."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from protocol import vfio_user as v
from protocol.addresses import Iova

U64 = (1 << 64) - 1
GOLDENS = (
    (v.MigrationSupport(flags=5), struct.pack("=Q", 5)),
    (v.MigrationState(state=v.DeviceState.STOP_COPY, data_fd=7), struct.pack("=II", 3, 7)),
    (v.LoggingStart(page_size=4096), struct.pack("=QII", 4096, 0, 0)),
    (
        v.LoggingStart(
            page_size=4096, ranges=(v.LoggedRange(address=Iova(0x1000), length=0x2000),)
        ),
        struct.pack("=QIIQQ", 4096, 1, 0, 0x1000, 0x2000),
    ),
    (
        v.LoggingReport(address=Iova(0x1000), length=0x2000, page_size=4096, bitmap=bytes(8)),
        struct.pack("=QQQQ", 0x1000, 0x2000, 4096, 0),
    ),
)


@pytest.mark.parametrize(("payload", "data"), GOLDENS, ids=lambda value: type(value).__name__)
def test_a_payload_has_the_bytes_of_the_specification(payload: Any, data: bytes) -> None:
    assert payload.build() == data
    assert type(payload).parse(data) == payload


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        (v.MigrationSupport, bytes(7), "flags"),
        (v.MigrationState, struct.pack("=II", 8, 0), "state"),
        (v.MigrationState, struct.pack("=II", 0xFFFF_FFFF, 0), "state"),
        (v.LoggingStart, struct.pack("=QII", 4096, 1, 0), "num_ranges"),
        (v.LoggingStart, struct.pack("=QII", 4096, 0xFFFF_FFFF, 0), "num_ranges"),
        (v.LoggingStart, struct.pack("=QIIQ", 4096, 0, 0, 0), "num_ranges"),
        (v.LoggingStart, struct.pack("=QII", 0, 0, 0), "page_size"),
        (v.LoggingStart, struct.pack("=QII", 4095, 0, 0), "page_size"),
        (v.LoggingStart, struct.pack("=QIIQQ", 4096, 1, 0, U64, 2), "address"),
        (v.LoggingStart, struct.pack("=QIIQQ", 4096, 1, 0, 0, 0), "size"),
        (v.LoggingReport, struct.pack("=QQQ", U64, 2, 4096), "address"),
        (v.LoggingReport, struct.pack("=QQQ", 0, 0, 4096), "size"),
        (v.LoggingReport, struct.pack("=QQQ", 0, 4096, 3), "page_size"),
    ],
)
def test_a_payload_that_breaks_a_rule_is_refused(kind: Any, data: bytes, field: str) -> None:
    with pytest.raises(v.LocalProtocolError) as caught:
        kind.parse(data)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("length", "page_size", "size"),
    [(1, 4096, 8), (64 * 4096, 4096, 8), (64 * 4096 + 1, 4096, 16), (1 << 40, 1 << 12, 1 << 25)],
)
def test_a_bitmap_has_a_bit_a_page_in_u64s(length: int, page_size: int, size: int) -> None:
    report = v.LoggingReport(address=Iova(0), length=length, page_size=page_size)
    assert report.bitmap_size == size
