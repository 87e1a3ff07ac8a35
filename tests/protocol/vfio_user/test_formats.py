"""Layouts: sizes of the specification, round trips, twins equal to their declarations."""

from __future__ import annotations

from typing import Any

import pytest
from fuzzing.vfio_user_traffic import CAPTURES, messages_of
from hypothesis import given
from hypothesis import strategies as st

from protocol import vfio_user as v
from protocol.layouts import Format
from protocol.vfio_user import formats, hot, quick

FORMATS = {name: value for name, value in vars(formats).items() if isinstance(value, Format)}
# The fixed parts as the specification's field lists add up.
SIZES = {
    "NOTHING": 0,
    "VERSION": 4,
    "DMA_MAP": 32,
    "DMA_UNMAP": 24,
    "DEVICE_INFO": 16,
    "REGION_INFO": 32,
    "CAPABILITY": 8,
    "SPARSE_MMAP": 8,
    "AREA": 16,
    "REGION_TYPE": 8,
    "IO_FDS": 16,
    "IO_FD": 40,
    "SHADOW_IO_FD": 48,
    "IRQ_INFO": 16,
    "SET_IRQS": 20,
    "REGION_ACCESS": 16,
    "REGION_DATA": 16,
    "DMA_ACCESS": 16,
    "DMA_DATA": 16,
    "WRITE_MULTI": 8,
    "WRITE": 24,
    "COUNT": 8,
    "FEATURE": 8,
    "FEATURE_MIGRATION": 8,
    "FEATURE_STATE": 8,
    "FEATURE_LOGGING": 16,
    "LOGGED_RANGE": 16,
    "FEATURE_REPORT": 24,
    "MIGRATION_SIZE": 8,
    "MIGRATION_DATA": 8,
}
every_format = pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
HOT = tuple(quick.PARSERS)


def payloads(layout: Format) -> st.SearchStrategy[bytes]:
    """Return byte strings of every size that the layout can have, or of small ones."""
    size = st.integers(layout.min_size, min(layout.max_size, layout.min_size + 64))
    return size.flatmap(lambda count: st.binary(min_size=count, max_size=count))


def test_the_fixed_parts_have_the_sizes_of_the_specification() -> None:
    assert {name: layout.min_size for name, layout in FORMATS.items()} == SIZES
    assert {formats.IO_FDS_HEAD, formats.INFO_HEAD} == {16}
    assert hot.HEADER.size == v.HEADER_SIZE == 16
    assert hot.REGION_MESSAGE.size == 32


@every_format
@given(data=st.data())
def test_building_what_was_parsed_gives_the_same_bytes(layout: Format, data: st.DataObject) -> None:
    payload = data.draw(payloads(layout))
    fields = layout.parse(payload)
    assert fields == layout.parse_slowly(payload)
    built = layout.build(fields)
    assert built == layout.build_slowly(fields)
    assert len(built) == len(payload)
    assert layout.parse(built) == fields


@every_format
def test_missing_bytes_are_an_error(layout: Format) -> None:
    if layout.min_size:
        with pytest.raises(v.LocalProtocolError):
            layout.parse(bytes(layout.min_size - 1))
    assert not layout.accepts(layout.max_size + 1)


def test_a_list_whose_last_entry_is_cut_off_is_an_error() -> None:
    assert len(formats.parse_entries(formats.AREA, bytes(32))) == 2
    with pytest.raises(v.LocalProtocolError, match="16 bytes long"):
        formats.parse_entries(formats.AREA, bytes(31))


@pytest.mark.parametrize("kind", HOT, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_the_fast_way_of_a_message_equals_its_layout(kind: Any, data: st.DataObject) -> None:
    row = v.row_of(kind)
    part = row.request if row.request.message is kind else row.reply
    payload = bytearray(data.draw(payloads(part.payload)))
    if len(payload) > 16 and data.draw(st.booleans()):
        # Where the count is right the message is, as a rule.
        at = 12 if kind.__name__.startswith("Region") else 8
        payload[at:16] = (len(payload) - 16).to_bytes(16 - at, "little")

    def outcome(parse: Any) -> Any:
        try:
            return parse(bytes(payload))
        except v.LocalProtocolError as error:
            return str(error)

    fast = outcome(quick.PARSERS[kind])
    slow = outcome(lambda data: kind.from_fields(part.payload.parse_slowly(data)))
    assert fast == slow
    if isinstance(fast, kind):
        assert part.build(fast) == part.payload.build_slowly(fast.to_fields()) == payload


def test_the_fast_way_of_recorded_messages_equals_their_layouts() -> None:
    counted = dict.fromkeys(HOT, 0)
    for file in CAPTURES:
        for _, write in messages_of(file):
            header = v.Header.parse(write.data)
            row = v.COMMANDS[header.command]
            part = row.reply if header.is_reply else row.request
            if part.message not in quick.PARSERS or header.is_error:
                continue
            payload = write.data[16:]
            fast = quick.PARSERS[part.message](payload)
            assert fast == part.message.from_fields(part.payload.parse_slowly(payload))
            assert quick.BUILDERS[part.message](fast) == payload
            counted[part.message] += 1
    assert all(count >= 4 for count in counted.values())


def test_whole_accesses_for_a_thread_of_its_own() -> None:
    read = v.RegionRead(offset=0x30, region=7, count=4)
    write = v.RegionWrite(offset=0x30, region=7, data=b"abcd")
    agreed = v.Negotiated(minor=0)
    server = v.Connection(v.Role.SERVER, negotiated=agreed)
    sent = hot.pack_region_read(9, 7, 0x30, 4) + hot.pack_region_write(10, 7, 0x30, b"abcd")
    sent += hot.pack_region_write(11, 7, 0x30, b"abcd", posted=True)
    events = server.receive(sent)
    shown = [
        (each.id, each.message, each.no_reply) for each in events if isinstance(each, v.Request)
    ]
    assert shown == [(9, read, False), (10, write, False), (11, write, True)]
    answer = server.reply(events[0], v.RegionReadReply(offset=0x30, region=7, data=b"data"))
    fields = hot.REGION_MESSAGE.unpack_from(answer.data)
    assert fields == (9, 9, 36, 1, 0, 0x30, 7, 4)


@given(
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    *(st.integers(0, (1 << 32) - 1) for _ in range(3)),
)
def test_a_header_survives_building_and_parsing(
    number: int, command: int, size: int, flags: int, error: int
) -> None:
    header = v.Header(id=number, command=command, size=size, flags=flags, error=error)
    assert v.Header.parse(header.build()) == header
    assert len(header.build()) == 16
