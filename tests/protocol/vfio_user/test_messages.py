"""Messages: golden bytes, round trips, and rules on their own values."""

from __future__ import annotations

import re
import struct
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from protocol import vfio_user as v
from protocol.addresses import Iova

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
TOP = Iova(U64)


def part_of(message: v.Message) -> v.Part:
    row = v.row_of(type(message))
    assert row is not None
    return row.request if row.request.message is type(message) else row.reply


def test_a_message_has_the_bytes_of_the_specification(any_golden: Any) -> None:
    part = part_of(any_golden.message)
    assert part.build(any_golden.message).hex() == any_golden.payload.hex()
    assert part.parse(any_golden.payload) == any_golden.message


def test_a_message_cannot_be_changed(any_golden: Any) -> None:
    field = next(iter(type(any_golden.message).__dataclass_fields__), "nothing")
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        setattr(any_golden.message, field, 1)


def test_every_part_of_every_row_has_a_golden_vector(row: v.CommandRow, goldens: Any) -> None:
    assert row.request.message in goldens
    assert row.reply.message is None or row.reply.message in goldens


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: v.Version(major=1), "major"),
        (lambda: v.VersionReply(major=1), "major"),
        (lambda: v.DmaMap(address=Iova(0), size=0), "size"),
        (lambda: v.DmaMap(address=TOP, size=2), "address"),
        (lambda: v.DmaMap(address=Iova(0), size=U64, offset=2), "offset"),
        (lambda: v.DmaMap(address=Iova(0), size=1, flags=0x10), "flags"),
        (lambda: v.DmaMap(address=Iova(0), size=1, argsz=31), "argsz"),
        (lambda: v.DmaUnmap(address=Iova(0), size=0), "size"),
        (lambda: v.DmaUnmap(address=TOP, size=2), "address"),
        (lambda: v.DmaUnmap(address=Iova(0), size=1, flags=1), "flags"),
        (lambda: v.DmaUnmap(address=Iova(0), size=1, flags=2), "address"),
        (lambda: v.DmaUnmap(address=Iova(1), size=0, flags=2), "address"),
        (lambda: v.DmaUnmap(address=Iova(0), size=1, argsz=23), "argsz"),
        (lambda: v.DeviceGetInfo(argsz=15), "argsz"),
        (lambda: v.DeviceInfo(flags=0, num_regions=257, num_irqs=5), "num_regions"),
        (lambda: v.DeviceInfo(flags=0, num_regions=9, num_irqs=U32), "num_irqs"),
        (lambda: v.DeviceInfo(argsz=U32, flags=0, num_regions=9, num_irqs=5), "argsz"),
        (lambda: v.DeviceInfo(argsz=8, flags=0, num_regions=9, num_irqs=5), "argsz"),
        (lambda: v.DeviceGetRegionInfo(index=0, argsz=16), "argsz"),
        (lambda: v.RegionInfo(index=0, size=U64, offset=2), "offset"),
        (lambda: v.RegionInfo(index=0, argsz=U32), "argsz"),
        (lambda: v.DeviceGetRegionIoFds(index=0, argsz=8), "argsz"),
        (lambda: v.DeviceGetRegionIoFds(index=0, flags=1), "flags"),
        (lambda: v.IoFd(offset=U64, size=2, fd_index=0), "offset"),
        (lambda: v.DeviceGetIrqInfo(index=0, argsz=0), "argsz"),
        (lambda: v.IrqInfo(index=0, argsz=U32), "argsz"),
        (lambda: v.DeviceSetIrqs(flags=0x21, index=0, count=1, argsz=19), "argsz"),
        (lambda: v.DeviceSetIrqs(flags=0x20, index=0, count=1), "flags"),
        (lambda: v.DeviceSetIrqs(flags=0x23, index=0, count=1), "flags"),
        (lambda: v.DeviceSetIrqs(flags=0x01, index=0, count=1), "flags"),
        (lambda: v.DeviceSetIrqs(flags=0x31, index=0, count=1), "flags"),
        (lambda: v.DeviceSetIrqs(flags=0x61, index=0, count=1), "flags"),
        (lambda: v.DeviceSetIrqs(flags=0x21, index=0, start=U32, count=1), "start"),
        (lambda: v.DeviceSetIrqs(flags=0x24, index=0, count=0), "count"),
        (lambda: v.DeviceSetIrqs(flags=0x09, index=0, count=0), "count"),
        (lambda: v.DeviceSetIrqs(flags=0x21, index=0, start=1, count=0), "count"),
        (lambda: v.DeviceSetIrqs(flags=0x22, index=0, count=2, data=b"\1"), "data"),
        (lambda: v.DeviceSetIrqs(flags=0x24, index=0, count=1, data=b"\1"), "data"),
        (lambda: v.RegionRead(offset=U64, region=0, count=2), "offset"),
        (lambda: v.RegionWrite(offset=U64, region=0, data=b"ab"), "offset"),
        (lambda: v.DmaRead(address=TOP, count=2), "address"),
        (lambda: v.DmaRead(address=Iova(1), count=U64 + 1), "address"),
        (lambda: v.DmaWrite(address=TOP, data=b"ab"), "address"),
        (lambda: v.RegionWriteMulti(writes=()), "wr_cnt"),
        (
            lambda: v.RegionWriteMulti(
                writes=(v.RegionWrite(offset=0, region=0, data=b"a"),) * 1025
            ),
            "wr_cnt",
        ),
        (
            lambda: v.RegionWriteMulti(writes=(v.RegionWrite(offset=0, region=0, data=b""),)),
            "count",
        ),
        (
            lambda: v.RegionWriteMulti(writes=(v.RegionWrite(offset=0, region=0, data=bytes(9)),)),
            "count",
        ),
        (lambda: v.DeviceFeature(argsz=7, flags=0x1_0001), "argsz"),
        (lambda: v.DeviceFeature(argsz=8, flags=1), "flags"),
        (lambda: v.DeviceFeature(argsz=8, flags=0x3_0001), "flags"),
        (lambda: v.DeviceFeature(argsz=8, flags=0x8_0001), "flags"),
        (lambda: v.MigDataRead(argsz=8, size=1), "argsz"),
        (lambda: v.MigDataWrite(argsz=4, data=b""), "argsz"),
    ],
)
def test_a_value_out_of_its_range_is_refused(make: Any, field: str) -> None:
    with pytest.raises(v.LocalProtocolError) as caught:
        make()
    assert caught.value.field == field
    assert re.fullmatch(
        r'message=- field=\S+ value=\S+ rule="[^"\n]+" section="-"', str(caught.value)
    )


@pytest.mark.parametrize(
    "message",
    [
        v.DmaMap(address=TOP, size=1, offset=U64),
        v.DmaUnmap(address=TOP, size=1),
        v.RegionInfo(index=8, size=0, offset=U64),
        v.RegionRead(offset=U64, region=U32, count=1),
        v.RegionRead(offset=0, region=0, count=0),
        v.DmaRead(address=TOP, count=1),
        v.DeviceSetIrqs(flags=0x21, index=U32, start=U32 - 1, count=1),
        v.DeviceFeature(argsz=8, flags=0x7_FFFF),
    ],
    ids=repr,
)
def test_a_value_at_the_end_of_its_range_is_not(message: v.Message) -> None:
    part = part_of(message)
    assert part.parse(part.build(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        v.RegionRead(offset=-1, region=0, count=1),
        v.RegionRead(offset=0, region=U32 + 1, count=1),
        v.RegionWriteReply(offset=0, region=0, count=U32 + 1),
        v.DmaRead(address=Iova(-1), count=1),
        v.DeviceGetInfo(argsz=U32 + 1),
        v.RegionWriteMultiReply(count=-1),
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_cannot_be_built(message: v.Message) -> None:
    with pytest.raises(v.LocalProtocolError, match="fits its field"):
        part_of(message).build(message)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (v.RegionWrite, struct.pack("=QII", 0, 0, 4) + b"abc"),
        (v.RegionWrite, struct.pack("=QII", 0, 0, 4) + b"abcde"),
        (v.RegionReadReply, struct.pack("=QII", 0, 0, 0xFFFF_FFFF)),
        (v.DmaWrite, struct.pack("=QQ", 0, U64)),
        (v.DmaReadReply, struct.pack("=QQ", 0, 1)),
        (v.RegionWriteMulti, struct.pack("=QQII8s", 2, 0, 0, 1, b"a")),
        (v.RegionWriteMulti, struct.pack("=QQII8s", U64, 0, 0, 1, b"a")),
        (v.RegionWriteMulti, struct.pack("=QQII8s", 1, 0, 0, 9, b"a")),
        (v.RegionWriteMulti, struct.pack("=QQII8s", 1, 0, 0, U32, b"a")),
        (v.MigDataWrite, struct.pack("=II", 16, 9) + bytes(8)),
        (v.MigDataWrite, struct.pack("=II", 16, 7) + bytes(8)),
        (v.MigDataReadReply, struct.pack("=II", 16, 9) + bytes(8)),
    ],
)
def test_a_count_that_is_not_that_of_the_data_is_refused(kind: Any, payload: bytes) -> None:
    row = v.row_of(kind)
    part = row.request if row.request.message is kind else row.reply
    with pytest.raises(v.LocalProtocolError) as caught:
        part.parse(payload)
    assert caught.value.field in ("count", "wr_cnt", "size")


@pytest.mark.parametrize(
    ("count", "size", "why"),
    [
        (1, 16 + 41, "count"),
        (2, 16 + 40 + 48, "count"),
        (U32, 16 + 40, "count"),
        (1, 16, "count"),
        (0, 16 + 40, "count"),
        (1, U32, "argsz"),
        (1, 8, "argsz"),
    ],
)
def test_io_fds_whose_entries_have_no_known_size_are_refused(
    count: int, size: int, why: str
) -> None:
    part = part_of(v.RegionIoFds(index=0))
    for data in (b"", bytes(40)):
        with pytest.raises(v.LocalProtocolError) as caught:
            part.parse(struct.pack("=IIII", size, 0, 0, count) + data)
        assert caught.value.field == why


def test_io_fds_that_are_cut_off_say_how_much_room_they_need() -> None:
    part = part_of(v.RegionIoFds(index=0))
    for size in (40, 48):
        cut = part.parse(struct.pack("=IIII", 16 + 2 * size, 0, 3, 2))
        assert (cut.complete, cut.needed, cut.stride, cut.entries) == (
            False,
            16 + 2 * size,
            size,
            (),
        )
        with pytest.raises(v.LocalProtocolError):
            part.parse(struct.pack("=IIII", 16 + 2 * size, 0, 3, 2) + bytes(size))


def test_descriptions_can_be_cut_to_their_fixed_part() -> None:
    areas = v.SparseMmap((v.MmapArea(0, 0x1000),))
    region = v.RegionInfo.describing(2, size=0x1000, flags=7, capabilities=(areas,))
    cut = region.cut()
    assert region.complete
    assert region.capabilities == (areas,)
    assert not cut.complete
    assert cut.needed == region.needed == 32 + 32
    assert cut.capabilities == ()
    assert len(part_of(cut).build(cut)) == 32
    feature = v.DeviceFeatureReply(flags=0x1_0001, data=bytes(8))
    assert feature.complete
    assert not feature.cut().complete
    for small in (v.DeviceInfo(flags=0, num_regions=9, num_irqs=5), v.IrqInfo(index=1)):
        assert small.complete
        assert small.cut() == small
    newer = v.IrqInfo(index=1, data=bytes(8))
    assert (newer.needed, newer.cut().needed, newer.cut().data) == (24, 24, b"")
    newer_device = v.DeviceInfo(flags=0, num_regions=9, num_irqs=5, data=bytes(8))
    assert (newer_device.cut().needed, newer_device.cut().data) == (24, b"")


def test_a_region_without_the_capability_flag_has_none() -> None:
    region = v.RegionInfo(index=0, size=1, cap_offset=99)
    assert region.capabilities == ()


def test_what_a_setting_of_interrupts_means() -> None:
    off = v.DeviceSetIrqs(flags=0x21, index=2, count=0)
    bind = v.DeviceSetIrqs(flags=0x24, index=2, count=2)
    assert off.switches_off
    assert not off.brings_eventfds
    assert bind.brings_eventfds
    assert not bind.switches_off


def test_what_a_feature_request_means() -> None:
    request = v.DeviceFeature(argsz=8, flags=v.FeatureFlags.GET | v.Feature.DMA_LOGGING_REPORT)
    assert request.feature == 8
    assert v.DeviceFeatureReply(flags=request.flags).feature == 8
    assert v.DmaUnmap.all().everything
    assert not v.DmaUnmap(address=Iova(0), size=1).everything
    assert v.MigDataWrite(data=b"abc").size == 3
