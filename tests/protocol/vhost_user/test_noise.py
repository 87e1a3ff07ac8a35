"""Invariant: whatever bytes come, on either channel and in either role, only RemoteProtocolError.

Every row is fed payloads of legal sizes with any content, as request and as reply.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeatures
from vhostuser.testing import CountingFd

ALL = (1 << 64) - 1
OTHER = {v.Channel.FRONT_END: v.Role.BACK_END, v.Channel.BACK_END: v.Role.FRONT_END}
SAME = {v.Channel.FRONT_END: v.Role.FRONT_END, v.Channel.BACK_END: v.Role.BACK_END}


def connection(role: v.Role, row: v.MessageRow) -> v.Connection:
    negotiated = v.Negotiated(VirtioFeatures(ALL), v.ProtocolFeatures(ALL))
    return v.Connection(role, row.channel, negotiated=negotiated)


def payload_of(data: st.DataObject, low: int, high: int) -> bytes:
    """Draw bytes of a legal size; rather zeros and ones than noise, which gets nowhere."""
    size = data.draw(st.integers(low, min(high, low + 40)))
    dense = st.binary(min_size=size, max_size=size)
    sparse = st.lists(st.sampled_from([0, 0, 0, 1, 2, 255]), min_size=size, max_size=size)
    return data.draw(st.one_of(dense, sparse.map(bytes)))


def feed(end: v.Connection, header: v.Header, payload: bytes, fds: Any) -> Any:
    try:
        received = end.receive(header.build(), fds)
        return end.receive(payload) if received is None and payload else received
    except v.RemoteProtocolError as error:
        return error


quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(data=st.data(), flags=st.sampled_from([1, 9]), count=st.integers(0, 2))
def test_any_payload_of_any_request_is_taken_or_rejected(
    row: v.MessageRow, data: st.DataObject, flags: int, count: int
) -> None:
    payload = payload_of(data, row.payload.min_size, row.payload.max_size)
    end = connection(OTHER[row.channel], row)
    fds = tuple(CountingFd() for _ in range(count))
    header = v.Header(number=row.number, flags=flags, size=len(payload))
    received = feed(end, header, payload, fds)
    if isinstance(received, v.Request):
        assert type(received.message) is row.message
        kept = row.payload.build(received.message.to_fields())
        assert row.message.from_fields(row.payload.parse(kept)) == received.message
        assert [fd.closes for fd in fds] == [0 if fd in received.fds else 1 for fd in fds]
    else:
        assert isinstance(received, v.RemoteProtocolError)
        assert received.message == row.name
        assert str(received).startswith(f"message={row.name} field=")
        assert "\n" not in str(received)
        assert [fd.closes for fd in fds] == [1] * count


@quick
@given(data=st.data(), count=st.integers(0, 2))
def test_any_payload_of_any_reply_is_taken_or_closes_the_connection(
    row: v.MessageRow, goldens: dict[type[v.Message], list[Any]], data: st.DataObject, count: int
) -> None:
    end = connection(SAME[row.channel], row)
    if v.Postcopy.ADVISED in row.legal_states and v.Postcopy.OFF not in row.legal_states:
        end.request(v.PostcopyAdvise())
        end.receive(v.Header(number=28, flags=5, size=0).build(), (CountingFd(),))
    golden = goldens[row.message][0]
    asked = tuple(CountingFd() for _ in range(golden.fds))
    end.request(golden.message, fds=asked, need_reply=True)
    own = row.reply.kind not in (v.ReplyKind.NONE, v.ReplyKind.POSTCOPY)
    layout = row.reply.payload if own else v.ACK.payload
    payload = payload_of(data, layout.min_size, layout.max_size)
    fds = tuple(CountingFd() for _ in range(count))
    header = v.Header(number=row.number, flags=5, size=len(payload))
    received = feed(end, header, payload, fds)
    if isinstance(received, v.Reply):
        assert received.request_message == golden.message
        assert end.pending == 0
        assert not any(fd.closes for fd in fds)
    else:
        assert isinstance(received, v.RemoteProtocolError)
        assert end.state is v.ConnectionState.CLOSED
        assert [fd.closes for fd in fds] == [1] * count
    assert not any(fd.closes for fd in asked)
