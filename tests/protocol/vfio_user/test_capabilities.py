"""The JSON of VERSION: what is taken, what is ignored, what is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import vfio_user as v

FULL = v.Capabilities(
    max_msg_fds=16,
    max_data_xfer_size=1 << 20,
    max_dma_maps=65535,
    pgsizes=4096,
    twin_socket=v.TwinSocket(supported=True, fd_index=0),
    write_multiple=True,
    migration=v.MigrationCapability(pgsize=4096, max_bitmap_size=1 << 28),
)


def text(capabilities: Any) -> bytes:
    return json.dumps({"capabilities": capabilities}).encode() + b"\0"


def test_capabilities_survive_building_and_parsing() -> None:
    assert v.parse_capabilities(v.build_capabilities(FULL)) == FULL
    assert v.parse_capabilities(v.build_capabilities(v.Capabilities())) == v.Capabilities()


@pytest.mark.parametrize("data", [b"", b"{}\0", b'{"capabilities": {}}\0', text({"new": [1, {}]})])
def test_what_is_not_said_or_not_known_is_left_to_the_defaults(data: bytes) -> None:
    assert v.parse_capabilities(data) == v.Capabilities()


def test_a_twin_socket_and_migration_may_say_little() -> None:
    parsed = v.parse_capabilities(text({"twin_socket": {}, "migration": {}}))
    assert parsed.twin_socket == v.TwinSocket(supported=False)
    assert parsed.migration == v.MigrationCapability()


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"\0",
        b"{}\0\0",
        b"{}\0{}\0",
        b"\0{}",
        b"{\0",
        b"[]\0",
        b"1\0",
        b"null\0",
        b'"text"\0',
        b'{"capabilities": []}\0',
        b'{"capabilities": null}\0',
        b'{"capabilities": 1}\0',
        b"\xff\xfe{}\0",
        b'{"capabilities": {"max_msg_fds": ' + b"9" * 5000 + b"}}\0",
        b"[" * 8000 + b"\0",
        b'{"a":' * 2500 + b"\0",
        b"[" * 5000 + b"]" * 5000 + b"\0",
    ],
    ids=lambda data: data[:24].decode(errors="replace"),
)
def test_what_is_no_capabilities_is_refused(data: bytes) -> None:
    with pytest.raises(v.LocalProtocolError) as caught:
        v.parse_capabilities(data)
    assert caught.value.field in ("data", "capabilities", "max_msg_fds")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"])
@pytest.mark.parametrize("value", ["8", 1.5, True, -1, [], {}, 1 << 64, float("nan"), 10**400])
def test_a_number_of_another_type_or_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(v.LocalProtocolError) as caught:
        v.parse_capabilities(text({name: value}))
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("capabilities", "field"),
    [
        ({"max_msg_fds": 1025}, "max_msg_fds"),
        ({"max_data_xfer_size": 0}, "max_data_xfer_size"),
        ({"pgsizes": 0}, "pgsizes"),
        ({"write_multiple": 1}, "write_multiple"),
        ({"twin_socket": True}, "twin_socket"),
        ({"twin_socket": {"supported": "yes"}}, "supported"),
        ({"twin_socket": {"supported": True, "fd_index": -1}}, "fd_index"),
        ({"migration": []}, "migration"),
        ({"migration": {"pgsize": 0}}, "pgsize"),
        ({"migration": {"max_bitmap_size": "big"}}, "max_bitmap_size"),
    ],
)
def test_each_value_is_checked(capabilities: Any, field: str) -> None:
    with pytest.raises(v.LocalProtocolError) as caught:
        v.parse_capabilities(text(capabilities))
    assert caught.value.field == field


def test_null_says_nothing() -> None:
    names = ("max_msg_fds", "pgsizes", "twin_socket", "write_multiple", "migration")
    assert v.parse_capabilities(text(dict.fromkeys(names))) == v.Capabilities()


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    with contextlib.suppress(v.LocalProtocolError):
        parsed = v.parse_capabilities(data)
        assert isinstance(parsed, v.Capabilities)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*v.Capabilities.__dataclass_fields__, "supported", "pgsize"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_taken_or_refused(values: Any) -> None:
    with contextlib.suppress(v.LocalProtocolError):
        parsed = v.parse_capabilities(text(values))
        assert v.parse_capabilities(v.build_capabilities(parsed)) == parsed
