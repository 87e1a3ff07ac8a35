from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.virtio import (
    BLK_CONFIG_SIZE,
    BLK_HEADER_SIZE,
    BLK_SEGMENT_SIZE,
    BLK_WRITEBACK_OFFSET,
    BlkConfig,
    BlkHeader,
    BlkRequest,
    BlkSegment,
)

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))

CONFIG_FIELDS = {
    "capacity": (0, 8),
    "size_max": (8, 4),
    "seg_max": (12, 4),
    "cylinders": (16, 2),
    "heads": (18, 1),
    "sectors": (19, 1),
    "blk_size": (20, 4),
    "physical_block_exp": (24, 1),
    "alignment_offset": (25, 1),
    "min_io_size": (26, 2),
    "opt_io_size": (28, 4),
    "writeback": (32, 1),
    "num_queues": (34, 2),
    "max_discard_sectors": (36, 4),
    "max_discard_seg": (40, 4),
    "discard_sector_alignment": (44, 4),
    "max_write_zeroes_sectors": (48, 4),
    "max_write_zeroes_seg": (52, 4),
    "write_zeroes_may_unmap": (56, 1),
}
"""Where the specification has each field of the configuration space: offset and bytes."""


def test_the_table_of_fields_is_complete() -> None:
    assert list(CONFIG_FIELDS) == [field.name for field in fields(BlkConfig)]


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_a_field_stands_where_the_specification_has_it(name: str) -> None:
    offset, size = CONFIG_FIELDS[name]
    highest = (1 << 8 * size) - 1
    config = BlkConfig(**({"capacity": 0} | {name: highest}))
    expected = bytearray(BLK_CONFIG_SIZE)
    expected[offset : offset + size] = b"\xff" * size
    assert bytes(config) == bytes(expected)
    assert BlkConfig.parse(bytes(config)) == config


def test_the_field_that_the_driver_writes_is_one_byte() -> None:
    assert CONFIG_FIELDS["writeback"] == (BLK_WRITEBACK_OFFSET, 1)


@given(st.binary(min_size=BLK_CONFIG_SIZE, max_size=BLK_CONFIG_SIZE))
def test_a_parsed_configuration_builds_the_same_bytes(data: bytes) -> None:
    unused = bytearray(data)
    unused[33] = unused[57] = unused[58] = unused[59] = 0
    assert bytes(BlkConfig.parse(data)) == bytes(unused)


@given(kind=U32, sector=U64, priority=U32)
def test_a_header_survives_its_bytes(kind: int, sector: int, priority: int) -> None:
    header = BlkHeader(type=kind, sector=sector, priority=priority)
    assert BlkHeader.parse(bytes(header)) == header


@given(sector=U64, num_sectors=U32, flags=U32)
def test_a_segment_survives_its_bytes(sector: int, num_sectors: int, flags: int) -> None:
    segment = BlkSegment(sector=sector, num_sectors=num_sectors, flags=flags)
    assert BlkSegment.parse(bytes(segment)) == segment


def test_a_write_to_sector_258_has_these_bytes() -> None:
    assert bytes(BlkHeader(type=BlkRequest.OUT, sector=258)) == bytes.fromhex(
        "01000000 00000000 0201000000000000"
    )


@pytest.mark.parametrize(
    ("kind", "size"),
    [(BlkConfig, BLK_CONFIG_SIZE), (BlkHeader, BLK_HEADER_SIZE), (BlkSegment, BLK_SEGMENT_SIZE)],
)
@pytest.mark.parametrize("surplus", [-1, 1])
def test_bytes_of_another_length_are_refused(
    kind: type[BlkConfig | BlkHeader | BlkSegment], size: int, surplus: int
) -> None:
    with pytest.raises(ValueError, match=rf"^a .* has {size} bytes, got {size + surplus}$"):
        kind.parse(bytes(size + surplus))
