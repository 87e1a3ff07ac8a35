"""A region's capabilities: whatever chain a peer sends is followed to its end, or refused."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import vfio_user as v

BASE = 32
HEAD = struct.Struct("=HHI")
AREAS = v.SparseMmap((v.MmapArea(0, 0x1000), v.MmapArea(0x2000, 0x1000)))
TYPE = v.RegionType(0x8000_10DE, 1)
UNKNOWN = v.UnknownCapability(3, 1, b"")


def head(number: int, following: int, version: int = 1) -> bytes:
    return HEAD.pack(number, version, following)


def sparse(count: int, *areas: int) -> bytes:
    return struct.pack(f"=II{len(areas)}Q", count, 0, *areas)


@pytest.mark.parametrize(
    "capabilities",
    [(), (AREAS,), (TYPE, AREAS), (UNKNOWN, TYPE, AREAS), (v.SparseMmap(()),)],
    ids=len,
)
def test_a_chain_survives_building_and_parsing(capabilities: Any) -> None:
    chain = v.build_chain(capabilities, BASE)
    assert v.parse_chain(chain, BASE if chain else 0, BASE) == capabilities


def test_capabilities_of_odd_size_are_padded() -> None:
    odd = v.UnknownCapability(7, 2, b"odd")
    chain = v.build_chain((odd, TYPE), BASE)
    assert v.parse_chain(chain, BASE, BASE) == (v.UnknownCapability(7, 2, b"odd" + bytes(5)), TYPE)


def test_a_chain_may_begin_later_and_have_gaps() -> None:
    chain = bytes(8) + head(2, 64) + struct.pack("=II", 1, 2) + bytes(8) + head(9, 0) + b"more"
    assert v.parse_chain(chain, 40, BASE) == (
        v.RegionType(1, 2),
        v.UnknownCapability(9, 1, b"more"),
    )


def test_another_version_of_a_known_capability_is_not_known() -> None:
    chain = head(1, 0, version=2) + sparse(0)
    assert v.parse_chain(chain, BASE, BASE) == (v.UnknownCapability(1, 2, bytes(8)),)


@pytest.mark.parametrize(
    ("data", "first", "field"),
    [
        (b"", 32, "cap_offset"),
        (bytes(16), 31, "cap_offset"),
        (bytes(16), 1, "cap_offset"),
        (bytes(16), 41, "cap_offset"),
        (bytes(16), (1 << 32) - 1, "cap_offset"),
        (head(9, 32) + bytes(8), 32, "next"),
        (head(9, 1) + bytes(8), 32, "next"),
        (head(9, 39) + bytes(8), 32, "next"),
        (head(9, 41) + bytes(8), 32, "next"),
        (head(9, 48) + bytes(8), 32, "next"),
        (head(9, (1 << 32) - 1) + bytes(8), 32, "next"),
        (head(9, 40) + head(9, 32), 32, "next"),
        (head(9, 40) + head(9, 40), 32, "next"),
        (head(1, 0), 32, "count"),
        (head(1, 0) + sparse(1), 32, "nr_areas"),
        (head(1, 0) + sparse(2, 0, 4096), 32, "nr_areas"),
        (head(1, 0) + sparse((1 << 32) - 1, 0, 4096), 32, "nr_areas"),
        (head(1, 48) + sparse(1) + head(9, 0) + bytes(8), 32, "nr_areas"),
        (head(1, 0) + sparse(1, 0, 0), 32, "size"),
        (head(1, 0) + sparse(1, (1 << 64) - 1, 2), 32, "areas.offset"),
        (head(2, 0) + bytes(4), 32, "subtype"),
    ],
)
def test_a_chain_that_leads_out_or_back_or_does_not_fit_is_refused(
    data: bytes, first: int, field: str
) -> None:
    with pytest.raises(v.LocalProtocolError) as caught:
        v.parse_chain(data, first, BASE)
    assert caught.value.field == field


def test_a_chain_has_an_end() -> None:
    links = [head(9, BASE + 8 * (at + 1)) for at in range(64)]
    long = b"".join(links) + head(9, 0)
    with pytest.raises(v.LocalProtocolError, match="at most 64"):
        v.parse_chain(long, BASE, BASE)
    fits = b"".join(links[:63]) + head(9, 0)
    assert len(v.parse_chain(fits, BASE, BASE)) == 64


@pytest.mark.parametrize(
    ("region_size", "offset", "area", "fits"),
    [
        (0x3000, 0, (0x2000, 0x1000), True),
        (0x2FFF, 0, (0x2000, 0x1000), False),
        (0x3000, 0, (0x3000, 1), False),
        (0x3000, (1 << 64) - 0x3000, (0x2000, 0x1000), True),
    ],
)
def test_areas_lie_inside_their_region(
    region_size: int, offset: int, area: Any, fits: bool
) -> None:
    def make() -> v.RegionInfo:
        areas = v.SparseMmap((v.MmapArea(*area),))
        return v.RegionInfo.describing(0, size=region_size, offset=offset, capabilities=(areas,))

    if fits:
        assert make().complete
    else:
        with pytest.raises(v.LocalProtocolError) as caught:
            make()
        assert caught.value.field == "areas.offset"


@given(data=st.data())
def test_any_chain_is_followed_or_refused(data: st.DataObject) -> None:
    room = data.draw(st.integers(0, 12)) * 8
    body = bytearray(data.draw(st.binary(min_size=room, max_size=room)))
    places = st.integers(0, 14).map(lambda at: BASE + 8 * at)
    for at in range(0, room, 8):
        if data.draw(st.booleans()):
            number = data.draw(st.sampled_from([1, 2, 3]))
            HEAD.pack_into(body, at, number, 1, data.draw(st.just(0) | places))
    first = data.draw(st.just(0) | places)
    with contextlib.suppress(v.LocalProtocolError):
        found = v.parse_chain(bytes(body), first, BASE)
        assert len(found) <= 12
        assert bool(found) == bool(first)
