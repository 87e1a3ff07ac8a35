from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.virtio import (
    DescFlags,
    PackedDesc,
    RingArea,
    SplitDesc,
    UsedElem,
    avail_entry_offset,
    avail_event_offset,
    index_distance,
    is_ring_size,
    needs_event,
    packed_advance,
    packed_flags,
    packed_is_available,
    packed_is_used,
    packed_needs_event,
    ring_area_alignment,
    ring_area_size,
    used_entry_offset,
    used_event_offset,
)

U16 = st.integers(0, 0xFFFF)


@pytest.mark.parametrize(
    ("num", "split", "packed"),
    [
        (0, False, False),
        (1, True, True),
        (3, False, True),
        (256, True, True),
        (32768, True, True),
        (32769, False, False),
        (65536, False, False),
        (-1, False, False),
    ],
)
def test_a_ring_has_a_size_that_its_layout_allows(num: int, *, split: bool, packed: bool) -> None:
    assert is_ring_size(num, packed=False) == split
    assert is_ring_size(num, packed=True) == packed


@pytest.mark.parametrize(
    ("area", "packed", "size", "alignment"),
    [
        (RingArea.DESC, False, 16 * 256, 16),
        (RingArea.DRIVER, False, 6 + 2 * 256, 2),
        (RingArea.DEVICE, False, 6 + 8 * 256, 4),
        (RingArea.DESC, True, 16 * 256, 16),
        (RingArea.DRIVER, True, 4, 4),
        (RingArea.DEVICE, True, 4, 4),
    ],
)
def test_an_area_has_the_size_and_alignment_of_the_specification(
    area: RingArea, size: int, alignment: int, *, packed: bool
) -> None:
    assert ring_area_size(area, 256, packed=packed) == size
    assert ring_area_alignment(area, packed=packed) == alignment


def test_the_entries_of_a_split_ring_follow_its_header_and_wrap() -> None:
    assert [avail_entry_offset(index, 4) for index in (0, 3, 4, 65535)] == [4, 10, 4, 10]
    assert [used_entry_offset(index, 4) for index in (0, 3, 4, 65535)] == [4, 28, 4, 28]
    assert (used_event_offset(4), avail_event_offset(4)) == (12, 36)


@pytest.mark.parametrize(
    ("parsed", "data"),
    [
        (SplitDesc(0x1122334455667788, 0x99AABBCC, 1, 2), "8877665544332211ccbbaa9901000200"),
        (PackedDesc(0x1122334455667788, 0x99AABBCC, 1, 2), "8877665544332211ccbbaa9901000200"),
        (UsedElem(0x01020304, 5), "0403020105000000"),
    ],
)
def test_a_format_has_these_bytes(parsed: SplitDesc | PackedDesc | UsedElem, data: str) -> None:
    assert bytes(parsed).hex() == data
    assert type(parsed).parse(bytes.fromhex(data)) == parsed


@given(old=U16, steps=st.integers(0, 32768), event=U16)
def test_an_event_is_needed_if_the_steps_pass_over_its_index(
    old: int, steps: int, event: int
) -> None:
    new = (old + steps) % 65536
    assert index_distance(new, old) == steps
    passed = {(old + step) % 65536 for step in range(steps)}
    assert needs_event(event, new, old) == (event in passed)


@given(num=st.integers(1, 40), data=st.data())
def test_an_event_in_a_packed_ring_is_needed_if_the_steps_pass_over_its_slot(
    num: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, num - 1)), data.draw(st.booleans())
    slots = data.draw(st.integers(1, num))
    event = data.draw(st.integers(0, num - 1)), data.draw(st.booleans())
    passed = {packed_advance(start, step, num) for step in range(slots)}
    off_wrap = event[0] | event[1] << 15
    end = packed_advance(start, slots, num)
    assert packed_needs_event(off_wrap, end, slots, num) == (event in passed)


@pytest.mark.parametrize("offset", [7, 8, 0x7FFF])
@pytest.mark.parametrize("wrap", [0, 0x8000])
def test_an_event_beyond_a_packed_ring_is_always_needed(offset: int, wrap: int) -> None:
    assert packed_needs_event(offset | wrap, (3, True), 1, 7)


@given(num=st.integers(1, 32768), data=st.data())
def test_a_packed_position_returns_after_two_laps(num: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, num - 1)), data.draw(st.booleans())
    lap_later = packed_advance(position, num, num)
    assert lap_later == (position[0], not position[1])
    assert packed_advance(lap_later, num, num) == position


@pytest.mark.parametrize(
    ("flags", "available_to", "used_by"),
    [
        (DescFlags(0), None, False),
        (DescFlags.AVAIL, True, None),
        (DescFlags.USED, False, None),
        (DescFlags.AVAIL | DescFlags.USED, None, True),
    ],
)
def test_the_two_wrap_flags_say_whose_a_descriptor_is(
    flags: DescFlags, available_to: bool | None, used_by: bool | None
) -> None:
    for wrap in (False, True):
        assert packed_is_available(flags, wrap=wrap) == (available_to is wrap)
        assert packed_is_used(flags, wrap=wrap) == (used_by is wrap)
    if available_to is not None:
        assert packed_flags(wrap=available_to, used=False) == flags
    if used_by is not None:
        assert packed_flags(wrap=used_by, used=True) == flags
