"""Layouts: round trips, twins equal to their declarations, and an end that is an end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vhost_user import LocalProtocolError, formats
from protocol.vhost_user.formats import Format

FORMATS = {name: value for name, value in vars(formats).items() if isinstance(value, Format)}
FIXED = {name: layout for name, layout in FORMATS.items() if layout.twin is not None}

every_format = pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
every_fixed = pytest.mark.parametrize("layout", FIXED.values(), ids=FIXED)


def payloads(layout: Format) -> st.SearchStrategy[bytes]:
    """Return byte strings of every size that the layout can have."""
    if layout is formats.MEM_TABLE:
        size = st.integers(0, formats.MAX_REGIONS).map(lambda count: 8 + 32 * count)
    elif layout.min_size == layout.max_size:
        size = st.just(layout.min_size)
    else:
        size = st.integers(layout.min_size, min(layout.max_size, layout.min_size + 64))
    return size.flatmap(lambda count: st.binary(min_size=count, max_size=count))


@every_format
@given(data=st.data())
def test_building_what_was_parsed_and_parsing_what_was_built_changes_nothing(
    layout: Format, data: st.DataObject
) -> None:
    payload = data.draw(payloads(layout))
    fields = layout.parse(payload)
    built = layout.build(fields)
    assert len(built) == len(payload)
    assert layout.parse(built) == fields
    assert layout.build(layout.parse(built)) == built


@every_fixed
@given(data=st.data())
def test_the_struct_twin_equals_the_declaration(layout: Format, data: st.DataObject) -> None:
    payload = data.draw(payloads(layout))
    fields = layout.parse(payload)
    assert fields == layout.parse_slowly(payload)
    assert layout.build(fields) == layout.build_slowly(fields)


@every_fixed
def test_surplus_or_missing_bytes_are_an_error_naming_the_size(layout: Format) -> None:
    for size in {layout.max_size + 1, layout.max_size + 8, abs(layout.min_size - 1) or 3}:
        with pytest.raises(LocalProtocolError, match=r"bytes long") as caught:
            layout.parse(bytes(size))
        assert caught.value.value == size
        assert not layout.accepts(size)


def test_a_partial_region_is_surplus() -> None:
    with pytest.raises(LocalProtocolError, match="memory regions description"):
        formats.MEM_TABLE.parse(bytes(8 + 32 + 31))


@pytest.mark.parametrize("layout", [formats.VRING_STATE, formats.MEM_TABLE])
def test_a_value_that_does_not_fit_cannot_be_built(layout: Format) -> None:
    fields: dict[str, Any] = {"index": 1 << 32, "num": 0, "count": 1 << 32, "regions": []}
    with pytest.raises(LocalProtocolError, match="fits its field"):
        layout.build(fields)


def test_a_layout_lists_its_fields_with_their_sizes() -> None:
    assert list(formats.MEM_TABLE.rows()) == [
        ("count", "4"),
        ("(padding)", "4"),
        ("regions", "rest"),
    ]


def test_layouts_of_replies_that_may_be_empty_parse_to_no_fields() -> None:
    assert formats.CONFIG_REPLY.parse(b"") == {}
    assert formats.CONFIG_REPLY.build({}) == b""
    assert formats.CONFIG_REPLY.accepts(0)
    assert not formats.CONFIG.accepts(0)
