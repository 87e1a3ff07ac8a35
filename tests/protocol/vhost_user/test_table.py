"""A walk over the message table: each row is complete, gated, and held to its number of fds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from protocol import vhost_user as v
from protocol.vhost_user import formats
from vhostuser.testing import CountingFd

if TYPE_CHECKING:
    from collections.abc import Mapping

# Payload sizes as the specification's field lists add up, with C padding.
FIXED_SIZES: Mapping[str, int] = {
    "NOTHING": 0,
    "U64": 8,
    "VRING_STATE": 8,
    "VRING_ADDRESS": 40,
    "VRING_FD": 8,
    "MEM_REGION": 40,
    "LOG": 16,
    "IOTLB": 32,
    "MAC": 8,
    "INFLIGHT": 24,
    "SHARED_OBJECT": 16,
    "DEVICE_STATE": 8,
    "SHMEM_CONFIG": 2056,
    "SHMEM_MAP": 40,
    "VRING_AREA": 24,
}


def responder(row: v.MessageRow, negotiated: v.Negotiated) -> v.Connection:
    role = v.Role.BACK_END if row.channel is v.Channel.FRONT_END else v.Role.FRONT_END
    return v.Connection(role, row.channel, negotiated=negotiated)


def feed(connection: v.Connection, data: bytes, fds: tuple[CountingFd, ...] = ()) -> Any:
    received = connection.receive(data[: v.HEADER_SIZE], fds)
    if received is None:
        received = connection.receive(data[v.HEADER_SIZE :])
    return received


def prepare(connection: v.Connection, row: v.MessageRow) -> None:
    """Bring a connection to a state in which the row is legal."""
    if v.Postcopy.OFF not in row.legal_states and v.Postcopy.ADVISED in row.legal_states:
        request = feed(connection, header(28, 0))
        connection.accept(request, fds=(CountingFd(),))


def header(number: int, size: int, flags: int = 1) -> bytes:
    return v.Header(number=number, flags=flags, size=size).build()


def test_the_numbers_are_those_of_the_specification_without_gaps() -> None:
    assert [row.number for row in v.FRONT_END_ROWS] == list(range(1, 46))
    assert [row.number for row in v.BACK_END_ROWS] == list(range(1, 11))


def test_names_and_classes_are_unique() -> None:
    rows = list(v.CURRENT.rows())
    assert max(Counter(row.name for row in rows).values()) == 1
    assert max(Counter(row.message for row in rows).values()) == 1


def test_each_message_class_is_frozen_slotted_and_keyword_only(row: v.MessageRow) -> None:
    for kind in (row.message, row.reply.message):
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert "__slots__" in vars(kind)
        assert all(field.kw_only for field in dataclasses.fields(kind))


def test_each_row_has_a_golden_vector_for_request_and_reply(
    row: v.MessageRow, goldens: dict[type[v.Message], list[Any]]
) -> None:
    assert goldens[row.message]
    assert goldens[row.reply.message]


def test_each_row_tells_purpose_section_and_version(row: v.MessageRow) -> None:
    assert row.summary.endswith(".")
    assert row.section.endswith(f"message types, VHOST_USER_{row.name}")
    assert row.since


@pytest.mark.parametrize(("name", "size"), FIXED_SIZES.items(), ids=FIXED_SIZES)
def test_a_fixed_layout_has_the_size_of_the_specification(name: str, size: int) -> None:
    layout = getattr(formats, name)
    assert (layout.min_size, layout.max_size) == (size, size)


@pytest.mark.parametrize(
    ("layout", "low", "high"),
    [(formats.MEM_TABLE, 8, 264), (formats.CONFIG, 12, 268), (formats.CRYPTO_SESSION, 16, 4096)],
    ids=["mem-table", "config", "crypto-session"],
)
def test_a_variable_layout_has_the_bounds_of_the_specification(
    layout: Any, low: int, high: int
) -> None:
    assert (layout.min_size, layout.max_size) == (low, high)


def test_a_golden_request_is_built_and_taken(request_golden: Any) -> None:
    row = v.CURRENT.row_of(type(request_golden.message))
    assert row is not None
    expected = header(row.number, len(request_golden.payload)) + request_golden.payload
    assert row.payload.build(request_golden.message.to_fields()) == request_golden.payload
    parsed = row.message.from_fields(row.payload.parse(request_golden.payload))
    assert parsed == request_golden.message
    connection = responder(row, everything())
    prepare(connection, row)
    fds = tuple(CountingFd() for _ in range(request_golden.fds))
    received = feed(connection, expected, fds)
    assert received.message == request_golden.message
    assert received.fds == fds
    assert received.row is row
    assert not any(fd.closes for fd in fds)


def test_a_golden_reply_is_built_and_parsed(reply_golden: Any) -> None:
    rules = {row.reply.message: row.reply for row in v.CURRENT.rows()}
    rule = rules[type(reply_golden.message)]
    assert rule.payload.build(reply_golden.message.to_fields()) == reply_golden.payload
    assert rule.message.from_fields(rule.payload.parse(reply_golden.payload)) == (
        reply_golden.message
    )


def everything() -> v.Negotiated:
    full = 0xFFFF_FFFF_FFFF_FFFF
    negotiated = v.Negotiated()
    negotiated.features |= full
    negotiated.protocol_features |= full
    return negotiated


def test_a_row_with_a_gate_is_refused_before_its_feature_is_negotiated(
    row: v.MessageRow, goldens: dict[type[v.Message], list[Any]]
) -> None:
    golden = goldens[row.message][0]
    connection = responder(row, v.Negotiated())
    fds = tuple(CountingFd() for _ in range(golden.fds))
    data = header(row.number, len(golden.payload)) + golden.payload
    if row.feature is None:
        assert feed(connection, data, fds).message == golden.message
        return
    with pytest.raises(v.RemoteProtocolError, match=f"negotiate {row.feature.name}") as caught:
        feed(connection, data, fds)
    assert (caught.value.message, caught.value.section) == (row.name, row.section)
    assert [fd.closes for fd in fds] == [1] * golden.fds
    can_report = row.reply.failure is not None and row.name != "CREATE_CRYPTO_SESSION"
    assert (caught.value.answer is not None) is can_report


@pytest.mark.parametrize("missing", list(v.DEPENDENCIES), ids=lambda feature: feature.name)
def test_a_feature_without_those_it_depends_on_unlocks_nothing(missing: Any) -> None:
    negotiated = everything()
    needed = v.DEPENDENCIES[missing]
    negotiated.protocol_features &= ~needed[0].mask
    assert negotiated.has(missing)
    assert negotiated.missing(missing) == (needed[0],)


def test_surplus_fds_are_closed_and_the_message_is_nacked(
    row: v.MessageRow, goldens: dict[type[v.Message], list[Any]]
) -> None:
    golden = goldens[row.message][0]
    connection = responder(row, everything())
    prepare(connection, row)
    most = 1 if row.drop_fds else golden.fds
    fds = tuple(CountingFd() for _ in range(most + 1))
    data = header(row.number, len(golden.payload), flags=9) + golden.payload
    with pytest.raises(v.RemoteProtocolError) as caught:
        feed(connection, data, fds)
    assert caught.value.field == "fds"
    assert caught.value.value == most + 1
    assert [fd.closes for fd in fds] == [1] * (most + 1)
    assert (connection.wanted == v.HEADER_SIZE) is (caught.value.answer is not None)


def test_missing_fds_are_noticed(
    row: v.MessageRow, goldens: dict[type[v.Message], list[Any]]
) -> None:
    golden = goldens[row.message][0]
    if not golden.fds:
        assert row.fds[0] == 0
        return
    connection = responder(row, everything())
    data = header(row.number, len(golden.payload), flags=9) + golden.payload
    with pytest.raises(v.RemoteProtocolError, match="field=fds value="):
        feed(connection, data, tuple(CountingFd() for _ in range(golden.fds - 1)))


def test_an_fd_that_a_message_only_tolerates_is_closed_at_once() -> None:
    connection = v.Connection(v.Role.BACK_END, negotiated=everything())
    fd = CountingFd()
    payload = formats.MEM_REGION.build({"gpa": 0, "size": 4096, "uva": 0, "offset": 0})
    request = feed(connection, header(38, len(payload)) + payload, (fd,))
    assert request.fds == ()
    assert fd.closes == 1


@pytest.mark.parametrize("extra", [1, 8])
def test_a_payload_of_another_size_is_consumed_and_nacked(
    row: v.MessageRow, goldens: dict[type[v.Message], list[Any]], extra: int
) -> None:
    golden = goldens[row.message][0]
    if row.payload.min_size != row.payload.max_size:
        assert row.payload.accepts(len(golden.payload))
        return
    connection = responder(row, everything())
    prepare(connection, row)
    data = header(row.number, len(golden.payload) + extra, flags=9) + golden.payload + bytes(extra)
    fds = tuple(CountingFd() for _ in range(golden.fds))
    with pytest.raises(v.RemoteProtocolError, match="field=size") as caught:
        feed(connection, data, fds)
    assert caught.value.value == len(golden.payload) + extra
    assert [fd.closes for fd in fds] == [1] * golden.fds
    if row.reply.kind in (v.ReplyKind.NONE, v.ReplyKind.POSTCOPY):
        assert caught.value.answer is not None
        assert connection.wanted == v.HEADER_SIZE


def test_the_acknowledgement_is_given_for_each_row_without_a_reply_of_its_own(
    row: v.MessageRow, goldens: dict[type[v.Message], list[Any]]
) -> None:
    golden = goldens[row.message][0]
    connection = responder(row, everything())
    prepare(connection, row)
    fds = tuple(CountingFd() for _ in range(golden.fds))
    data = header(row.number, len(golden.payload), flags=9) + golden.payload
    request = feed(connection, data, fds)
    if row.reply.kind not in (v.ReplyKind.NONE, v.ReplyKind.POSTCOPY):
        outgoing = connection.refuse(request, "no such thing")
        assert (outgoing is not None) is (row.reply.failure is not None)
        return
    outgoing = connection.accept(request)
    assert outgoing is not None
    assert outgoing.data == header(row.number, 8, flags=5) + bytes(8)
