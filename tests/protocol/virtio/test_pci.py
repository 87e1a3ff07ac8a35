from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.virtio.pci import (
    CAPABILITIES_START,
    COMMON_SIZE,
    COMMON_SIZE_WITH_RESET,
    CONFIG_SPACE_SIZE,
    QUEUE_STATE_SIZE,
    Capability,
    CapabilityType,
    CommonRegister,
    MsixCapability,
    QueueStateCapability,
    QueueStateRegister,
    QueueStatus,
    StructureCapability,
    VirtioFunction,
    build_capabilities,
    decode_position,
    encode_position,
    find_register,
    notify_offset,
    parse_function,
    walk_capabilities,
)

PAGE = Path(__file__).parents[3] / "docs/reference/simulator.md"
U8, U16, U32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))

COMMON_FIELDS = {
    "device_feature_select": (0, 4, True),
    "device_feature": (4, 4, False),
    "driver_feature_select": (8, 4, True),
    "driver_feature": (12, 4, True),
    "config_msix_vector": (16, 2, True),
    "num_queues": (18, 2, False),
    "device_status": (20, 1, True),
    "config_generation": (21, 1, False),
    "queue_select": (22, 2, True),
    "queue_size": (24, 2, True),
    "queue_msix_vector": (26, 2, True),
    "queue_enable": (28, 2, True),
    "queue_notify_off": (30, 2, False),
    "queue_desc": (32, 8, True),
    "queue_driver": (40, 8, True),
    "queue_device": (48, 8, True),
    "queue_notif_config_data": (56, 2, False),
    "queue_reset": (58, 2, True),
}
"""Where the specification has each field: offset, bytes, whether the driver writes it."""

STRUCTURES = st.builds(
    StructureCapability,
    type=st.sampled_from([kind for kind in CapabilityType if kind is not CapabilityType.VENDOR]),
    bar=U8,
    offset=U32,
    size=U32,
    instance=U8,
)
NOTIFY = st.builds(
    StructureCapability,
    type=st.just(CapabilityType.NOTIFY),
    bar=U8,
    offset=U32,
    size=U32,
    multiplier=U32,
)
MSIX = st.builds(
    MsixCapability,
    vectors=st.integers(1, 2048),
    table_bar=st.integers(0, 7),
    table_offset=U32.map(lambda value: value & ~7),
    pending_bar=st.integers(0, 7),
    pending_offset=U32.map(lambda value: value & ~7),
)
QUEUE_STATE = st.builds(QueueStateCapability, bar=U8, offset=U32, size=U32)
CAPABILITIES = st.one_of(STRUCTURES, NOTIFY, MSIX, QUEUE_STATE)


def _space(capabilities: bytes = b"", *, vendor: int = 0x1AF4, device: int = 0x1042) -> bytearray:
    space = bytearray(CONFIG_SPACE_SIZE)
    struct.pack_into("<HHHH", space, 0, vendor, device, 0, 0x10)
    struct.pack_into("<H", space, 0x2E, 9)
    space[0x34] = CAPABILITIES_START
    space[CAPABILITIES_START : CAPABILITIES_START + len(capabilities)] = capabilities
    return space


def _common(bar: int = 4, offset: int = 0, size: int = 60) -> StructureCapability:
    return StructureCapability(type=CapabilityType.COMMON, bar=bar, offset=offset, size=size)


def test_the_common_configuration_is_that_of_the_specification() -> None:
    assert {
        row.name.lower(): (row.value.offset, row.value.width, row.value.writable)
        for row in CommonRegister
    } == COMMON_FIELDS
    assert (COMMON_SIZE, COMMON_SIZE_WITH_RESET) == (56, 60)


@pytest.mark.parametrize("table", [CommonRegister, QueueStateRegister])
def test_no_two_fields_share_a_byte_and_each_is_aligned(
    table: type[CommonRegister | QueueStateRegister],
) -> None:
    rows = sorted((row.value for row in table), key=lambda register: register.offset)
    assert all(one.end <= other.offset for one, other in itertools.pairwise(rows))
    assert all(row.offset % min(row.width, 4) == 0 for row in rows)
    assert table is CommonRegister or rows[-1].end <= QUEUE_STATE_SIZE


@pytest.mark.parametrize(
    ("offset", "width", "found"),
    [
        (20, 1, (CommonRegister.DEVICE_STATUS, 0)),
        (32, 4, (CommonRegister.QUEUE_DESC, 0)),
        (36, 4, (CommonRegister.QUEUE_DESC, 32)),
        (32, 8, (CommonRegister.QUEUE_DESC, 0)),
        (34, 4, None),
        (20, 2, None),
        (0, 2, None),
        (60, 4, None),
        (-4, 4, None),
    ],
)
def test_an_access_is_meant_for_the_field_of_its_place_and_width(
    offset: int, width: int, found: tuple[CommonRegister, int] | None
) -> None:
    assert find_register(CommonRegister, offset, width) == found


@given(st.lists(CAPABILITIES, max_size=9))
def test_a_list_of_capabilities_comes_back_as_it_was_built(capabilities: list[Capability]) -> None:
    built = build_capabilities(capabilities)
    assert len(built) == sum(capability.length for capability in capabilities)
    start = CAPABILITIES_START if capabilities else 0
    assert list(walk_capabilities(bytes(_space(built)), start)) == capabilities


def test_a_capability_has_the_bytes_of_the_specification() -> None:
    notify = StructureCapability(
        type=CapabilityType.NOTIFY, bar=4, offset=0x3000, size=0x1000, multiplier=4, instance=7
    )
    assert notify.build(0x84).hex() == "0984140204070000" + "00300000" + "00100000" + "04000000"
    msix = MsixCapability(
        vectors=3, table_bar=1, table_offset=0, pending_bar=1, pending_offset=0x800
    )
    assert msix.build().hex() == "1100" + "0200" + "01000000" + "01080000"
    state = QueueStateCapability(bar=2, offset=0x40, size=16)
    assert state.build().hex() == "09001409" + "feff" + "0201" + b"VUQS".hex() + "4000000010000000"


@pytest.mark.parametrize("vectors", [1, 63, 64, 65, 2048])
def test_the_tables_of_vectors_are_as_long_as_pci_has_them(vectors: int) -> None:
    msix = MsixCapability(
        vectors=vectors, table_bar=0, table_offset=0, pending_bar=0, pending_offset=0
    )
    assert msix.table_size == 16 * vectors
    assert msix.pending_size == 8 * (-(-vectors // 64))


def test_capabilities_of_other_kinds_and_vendors_are_passed_over() -> None:
    foreign = bytes.fromhex("09ff1409 b81a 0000") + bytes(12)  # another vendor's data
    later = QueueStateCapability(bar=4, offset=0, size=16, version=2).build(0xFF)
    power = bytes.fromhex("01ff 0000 00000000")
    unknown = bytes.fromhex("09ff 04 63")  # a type that nobody knows, as short as can be
    pieces = [foreign, later, power, unknown, _common().build()]
    space, at = _space(), CAPABILITIES_START
    for piece in pieces:
        space[at : at + len(piece)] = piece
        space[at + 1] = 0 if piece is pieces[-1] else at + len(piece)
        at += len(piece)
    assert list(walk_capabilities(bytes(space), CAPABILITIES_START)) == [_common()]


@pytest.mark.parametrize(
    ("what", "position", "value"),
    [
        ("comes back to 0x40", CAPABILITIES_START + 1, CAPABILITIES_START),
        ("goes on at 0x3c, where none can be", CAPABILITIES_START + 1, 0x3C),
        ("goes on at 0x4, where none can be", 0x34, 4),
        ("a virtio capability cannot be 09 00 0f", CAPABILITIES_START + 2, 15),
        ("a virtio capability cannot be empty", CAPABILITIES_START + 2, 0),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(what: str, position: int, value: int) -> None:
    space = _space(_common().build())
    space[position] = value
    with pytest.raises(ValueError, match=what):
        parse_function(bytes(space), {4: 0x1000})


def test_a_capability_that_configuration_space_cuts_off_is_refused() -> None:
    space = _space()
    space[0x34] = 0xF8
    space[0xF8:] = _common().build()[:8]
    with pytest.raises(ValueError, match="a virtio capability cannot be 09"):
        parse_function(bytes(space), {4: 0x1000})
    space[0xF8:] = bytes.fromhex("1100 0000 00000000")
    with pytest.raises(ValueError, match="an MSI-X capability cannot be 11"):
        parse_function(bytes(space), {4: 0x1000})


def _bad_places() -> list[StructureCapability | QueueStateCapability]:
    return [
        _common(bar=6),
        _common(bar=3),
        _common(offset=0x1000 - 59),
        _common(offset=0xFFFFFFFF, size=0xFFFFFFFF),
        QueueStateCapability(bar=4, offset=0x1000, size=16),
    ]


@pytest.mark.parametrize("bad", _bad_places(), ids=repr)
def test_of_structures_the_first_inside_its_bar_counts(
    bad: StructureCapability | QueueStateCapability,
) -> None:
    good, second = _common(offset=64), _common(offset=128)
    state = QueueStateCapability(bar=4, offset=0, size=16)
    built = build_capabilities([bad, good, second, state])
    function = parse_function(bytes(_space(built)), {4: 0x1000})
    assert (function.common, function.queue_state) == (good, state)


@pytest.mark.parametrize(
    ("device", "device_type", "transitional"),
    [(0x1041, 1, False), (0x107F, 63, False), (0x1001, 9, True)],
)
def test_the_device_type_comes_from_the_device_id_or_the_subsystem(
    device: int, device_type: int, transitional: bool
) -> None:
    function = parse_function(bytes(_space(device=device)), {})
    assert (function.device_type, function.transitional) == (device_type, transitional)
    assert function.common is None


@pytest.mark.parametrize(
    ("vendor", "device"), [(0x8086, 0x1042), (0x1AF4, 0x0FFF), (0x1AF4, 0x1080), (0xFFFF, 0xFFFF)]
)
def test_other_functions_are_not_virtio(vendor: int, device: int) -> None:
    with pytest.raises(ValueError, match=f"this one is {vendor:04x}:{device:04x}"):
        parse_function(bytes(_space(vendor=vendor, device=device)), {})


def test_without_the_bit_for_it_there_is_no_list() -> None:
    space = _space(_common().build())
    space[6] = 0
    assert parse_function(bytes(space), {4: 0x1000}).common is None


@given(
    data=st.binary(min_size=CONFIG_SPACE_SIZE, max_size=CONFIG_SPACE_SIZE),
    sizes=st.dictionaries(st.integers(0, 5), U32),
    # Random bytes hardly ever make a list: let them be links and ids where that matters.
    links=st.lists(st.tuples(U8, U8, st.sampled_from([0x09, 0x11, 0x01]), U8, U8), max_size=20),
)
def test_any_configuration_space_is_understood_or_refused(
    data: bytes, sizes: dict[int, int], links: list[tuple[int, int, int, int, int]]
) -> None:
    space = bytearray(data)
    space[:8] = _space()[:8]
    for at, link, kind, length, cfg_type in links:
        space[at & ~3 : (at & ~3) + 4] = bytes((kind, link, length, cfg_type % 11))
    space[:8] = _space()[:8]
    try:
        function = parse_function(bytes(space), sizes)
    except ValueError:
        return
    assert isinstance(function, VirtioFunction)
    for place in (function.common, function.notify, function.isr, function.device):
        assert place is None or place.offset + place.size <= sizes[place.bar]


@given(data=st.binary(max_size=300))
def test_configuration_space_of_another_size_is_refused(data: bytes) -> None:
    if len(data) != CONFIG_SPACE_SIZE:
        with pytest.raises(ValueError, match="256 bytes of configuration space"):
            parse_function(data, {})


@given(off=U16, multiplier=U32, length=U32)
def test_a_doorbell_lies_inside_its_structure_or_is_refused(
    off: int, multiplier: int, length: int
) -> None:
    if off * multiplier + 2 <= length:
        assert notify_offset(off, multiplier, length) == off * multiplier
    else:
        with pytest.raises(ValueError, match="beyond the notification structure"):
            notify_offset(off, multiplier, length)


@given(value=U16, packed=st.booleans())
def test_every_position_comes_back_as_it_was(value: int, packed: bool) -> None:
    index, wrap = decode_position(value, packed=packed)
    assert encode_position(index, wrap=wrap, packed=packed) == value


@pytest.mark.parametrize(
    ("index", "wrap", "packed", "value"),
    [
        (0, True, False, 0),
        (0xFFFF, True, False, 0xFFFF),
        (0, True, True, 0x8000),
        (5, False, True, 5),
    ],
)
def test_a_packed_position_has_its_wrap_counter_in_bit_15(
    index: int, wrap: bool, packed: bool, value: int
) -> None:
    assert encode_position(index, wrap=wrap, packed=packed) == value


@pytest.mark.parametrize(
    ("index", "packed"), [(-1, False), (0x10000, False), (0x8000, True), (-1, True)]
)
def test_what_no_ring_can_have_is_no_position(index: int, packed: bool) -> None:
    with pytest.raises(ValueError, match=f"no ring has a position {index}"):
        encode_position(index, wrap=True, packed=packed)


def test_the_page_shows_the_queue_state_structure_and_its_capability() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Queue state")[2].partition("\n## ")[0]
    for row in QueueStateRegister:
        place = row.value
        assert f"| {row.name.lower()} | {place.offset} | {place.width} |" in text
    built = QueueStateCapability(bar=4, offset=0x3000, size=QUEUE_STATE_SIZE).build()
    rows = re.findall(r"^\| (\d+) \| (\d) \| (\w+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert [int(at) + int(size) for at, size, _, _ in rows] == [
        *(int(at) for at, *_ in rows[1:]),
        len(built),
    ]
    shown = {
        name: built[int(at) : int(at) + int(size)]
        for at, size, name, value in rows
        if value.startswith(("0x", '"')) or value.isdecimal()
    }
    assert shown == {
        "id": b"\t",
        "length": b"\x14",
        "type": b"\t",
        "vendor": b"\xfe\xff",
        "version": b"\1",
        "magic": b"VUQS",
    }
    for status in QueueStatus:
        assert f"{status.value} {status.name.lower()}" in text
