"""Two connections joined in memory: what one asks the other takes, and what it answers comes back.

Also: what a refusal does, which requests get which answer, and what our own side may not do.
"""

from __future__ import annotations

from typing import Any

import pytest

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeatures
from vhostuser.testing import ConnectionPair, CountingFd, deliver

ALL = 0xFFFF_FFFF_FFFF_FFFF


def pair(
    protocol_features: int = ALL,
    features: int = ALL,
    *,
    channel: v.Channel = v.Channel.FRONT_END,
) -> ConnectionPair:
    negotiated = v.Negotiated(VirtioFeatures(features), v.ProtocolFeatures(protocol_features))
    return ConnectionPair(channel, negotiated=negotiated)


def wire(connection: v.Connection, number: int, payload: bytes = b"", flags: int = 1) -> Any:
    """Feed one message as a peer that keeps no rules could send it."""
    header = v.Header(number=number, flags=flags, size=len(payload)).build()
    received = connection.receive(header)
    return connection.receive(payload) if received is None else received


ADDRESSES = v.SetVringAddr(
    index=0, flags=0, desc=v.Uva(0x1000), used=v.Uva(0x3000), avail=v.Uva(0x2000), log=v.Gpa(0)
)


# Replies and acknowledgements


def test_both_sides_agree_on_what_was_negotiated_and_only_after_it_was_accepted() -> None:
    joined = pair(0, 0)
    request = joined.request(v.SetProtocolFeatures(features=v.ProtocolFeatures.REPLY_ACK))
    assert not joined.back_end.negotiated.protocol_features
    joined.accept(request)
    joined.call(v.SetFeatures(features=VirtioFeatures.VERSION_1))
    for side in (joined.front_end, joined.back_end):
        assert side.negotiated.protocol_features == v.ProtocolFeatures.REPLY_ACK
        assert side.negotiated.features == VirtioFeatures.VERSION_1


def test_a_request_without_reply_is_answered_by_nothing() -> None:
    joined = pair()
    assert joined.call(v.SetOwner()) is None
    assert joined.front_end.pending == 0


def test_an_acknowledgement_comes_exactly_if_it_was_asked_for() -> None:
    joined = pair()
    reply = joined.call(v.SetOwner(), need_reply=True)
    assert reply is not None
    assert reply.message == v.U64(value=0)
    assert reply.request_message == v.SetOwner()


def test_a_message_with_a_reply_of_its_own_is_not_acknowledged_besides() -> None:
    joined = pair()
    request = joined.request(v.GetFeatures(), need_reply=True)
    outgoing = joined.back_end.accept(request, v.U64(value=1 << 32))
    assert outgoing is not None
    assert len(outgoing.data) == v.HEADER_SIZE + 8
    assert v.Header.parse(outgoing.data[:12]).flags == 5
    reply = deliver(outgoing, joined.front_end)
    assert isinstance(reply, v.Reply)
    assert reply.message == v.U64(value=1 << 32)
    assert joined.front_end.pending == 0


def test_need_reply_without_reply_ack_is_tolerated_and_not_answered() -> None:
    connection = v.Connection(v.Role.BACK_END)
    request = wire(connection, 3, flags=9)
    assert request.need_reply
    assert not request.ack
    assert connection.accept(request) is None
    assert connection.wanted == v.HEADER_SIZE


@pytest.mark.parametrize("agreed", [True, False])
def test_the_message_that_negotiates_reply_ack_is_acknowledged_if_it_asks(agreed: bool) -> None:
    connection = v.Connection(v.Role.BACK_END)
    mask = v.ProtocolFeatures.REPLY_ACK if agreed else v.ProtocolFeatures.CONFIG
    request = wire(connection, 16, int(mask).to_bytes(8, "little"), flags=9)
    assert request.ack is agreed
    assert (connection.accept(request) is not None) is agreed
    assert (connection.accept(wire(connection, 3, flags=9)) is not None) is agreed


def test_replies_are_matched_in_order() -> None:
    joined = pair()
    front_end, back_end = joined.front_end, joined.back_end
    first = front_end.request(v.GetFeatures())
    second = front_end.request(v.GetQueueNum())
    assert front_end.pending == 2
    for outgoing, value in ((first, 5), (second, 7)):
        request = deliver(outgoing, back_end)
        assert isinstance(request, v.Request)
        answer = back_end.accept(request, v.U64(value=value))
        assert answer is not None
        reply = deliver(answer, front_end)
        assert isinstance(reply, v.Reply)
        assert reply.message == v.U64(value=value)
    assert front_end.pending == 0


def test_fds_travel_both_ways_and_are_nobody_elses() -> None:
    joined = pair()
    there, back = CountingFd(), CountingFd()
    request = joined.request(v.SetDeviceStateFd(direction=0), fds=(there,))
    assert request.fds == (there,)
    reply = joined.accept(request, v.U64(value=0), fds=(back,))
    assert reply is not None
    assert reply.fds == (back,)
    assert there.closes == back.closes == 0


def test_the_back_end_asks_on_its_own_channel_with_what_the_main_one_negotiated() -> None:
    main = pair(0, 0)
    shared = main.back_end.negotiated
    channel = v.Connection(v.Role.BACK_END, v.Channel.BACK_END, negotiated=shared)
    with pytest.raises(v.LocalProtocolError, match="negotiate CONFIG"):
        channel.request(v.ConfigChange())
    main.call(v.SetProtocolFeatures(features=v.ProtocolFeatures.CONFIG))
    assert channel.request(v.ConfigChange()).data[:1] == b"\x02"


def test_the_front_end_acknowledges_on_the_back_end_channel() -> None:
    joined = pair(channel=v.Channel.BACK_END)
    reply = joined.call(v.ConfigChange(), need_reply=True)
    assert reply is not None
    assert reply.message == v.U64(value=0)
    refused = joined.refuse(joined.request(v.ConfigChange(), need_reply=True), "not now")
    assert refused is not None
    assert refused.message == v.U64(value=1)


# Refusals


FAILURES: list[tuple[v.Message, int, v.Message]] = [
    (v.GetConfig(offset=0, size=8), 0, v.ConfigReply()),
    (
        v.CreateCryptoSession(op_code=1, setup=b"abc"),
        0,
        v.CryptoSession(op_code=1, setup=b"abc", session_id=-1),
    ),
    (v.GetInflightFd(num_queues=1, queue_size=1), 0, v.Inflight()),
    (v.GetSharedObject(uuid=bytes(16)), 0, v.SharedObjectReply()),
    (v.SetDeviceStateFd(direction=1), 1, v.U64(value=0x101)),
    (v.CheckDeviceState(), 0, v.U64(value=1)),
    (
        v.IotlbMsg(iova=v.Iova(0), size=1, uva=v.Uva(0), perm=3, type=2),
        0,
        v.U64(value=1),
    ),
]


@pytest.mark.parametrize(
    ("message", "fds", "failure"), FAILURES, ids=[type(case[0]).__name__ for case in FAILURES]
)
def test_a_reply_that_can_report_a_failure_does_so(
    message: v.Message, fds: int, failure: v.Message
) -> None:
    joined = pair()
    request = joined.request(message, fds=tuple(CountingFd() for _ in range(fds)))
    reply = joined.refuse(request, OSError("disk on fire"))
    assert reply is not None
    assert reply.message == failure
    assert joined.back_end.wanted == v.HEADER_SIZE


@pytest.mark.parametrize(
    "message", [v.GetFeatures(), v.GetVringBase(index=0), v.SetOwner()], ids=repr
)
def test_a_refusal_that_cannot_be_reported_closes_the_connection(message: v.Message) -> None:
    joined = pair()
    assert joined.refuse(joined.request(message), "no") is None
    assert joined.back_end.state is v.ConnectionState.CLOSED
    assert joined.back_end.wanted == 0


def test_a_refused_request_has_changed_nothing_on_either_side() -> None:
    joined = pair()
    request = joined.request(v.SetVringKick(index=0, no_fd=True), need_reply=True)
    reply = joined.refuse(request, "no memory there")
    assert reply is not None
    assert reply.message == v.U64(value=1)
    for side in (joined.front_end, joined.back_end):
        assert side.ring(0) == v.RingState()
    assert joined.front_end.pending == 0


def test_refused_features_are_not_negotiated() -> None:
    joined = pair(int(v.ProtocolFeatures.REPLY_ACK), 0)
    request = joined.request(v.SetFeatures(features=VirtioFeatures.VERSION_1), need_reply=True)
    joined.refuse(request, "not offered")
    for side in (joined.front_end, joined.back_end):
        assert not side.negotiated.features


def test_a_request_is_answered_once_and_only_the_last_one() -> None:
    joined = pair()
    request = joined.request(v.SetOwner())
    joined.accept(request)
    for answer in (joined.back_end.accept, lambda each: joined.back_end.refuse(each, "")):
        with pytest.raises(v.LocalProtocolError, match="answer each request once"):
            answer(request)


BAD_ANSWERS: list[tuple[v.Message, v.Message | None, int, str]] = [
    (v.GetFeatures(), None, 0, "the answer is a U64"),
    (v.GetFeatures(), v.Empty(), 0, "the answer is a U64"),
    (v.GetFeatures(), v.U64(value=1), 1, "0 file descriptors"),
    (v.SetOwner(), v.U64(value=0), 0, "accept it without an answer"),
    (v.SetOwner(), None, 1, "accept it without an answer"),
    (v.GetVringBase(index=1), v.VringState(index=2, num=0), 0, "ring of the request"),
    (v.GetConfig(offset=0, size=4), v.ConfigReply(data=b"123"), 0, "as many bytes"),
    (v.PostcopyAdvise(), None, 0, "1 file descriptors"),
    (v.GetInflightFd(num_queues=1, queue_size=1), v.Inflight(mmap_size=8), 0, "1 file"),
    (v.GetInflightFd(num_queues=1, queue_size=1), v.Inflight(), 1, "0 file"),
    (v.GetFeatures(), v.U64(value=1 << 64), 0, "fits its field"),
]


@pytest.mark.parametrize(("message", "answer", "fds", "rule"), BAD_ANSWERS)
def test_an_answer_that_does_not_fit_changes_nothing(
    message: v.Message, answer: v.Message | None, fds: int, rule: str
) -> None:
    joined = pair()
    request = joined.request(message)
    with pytest.raises(v.LocalProtocolError, match=rule) as caught:
        joined.back_end.accept(request, answer, tuple(CountingFd() for _ in range(fds)))
    assert caught.value.message == request.row.name
    assert joined.back_end.state is v.ConnectionState.BUSY


@pytest.mark.parametrize(("value", "fds"), [(0, 0), (0x100, 1)])
def test_a_transfer_channel_comes_exactly_if_bit_8_is_clear(value: int, fds: int) -> None:
    joined = pair()
    request = joined.request(v.SetDeviceStateFd(direction=0), fds=(CountingFd(),))
    with pytest.raises(v.LocalProtocolError, match="bit 8"):
        joined.back_end.accept(request, v.U64(value=value), tuple(CountingFd() for _ in range(fds)))


# What the peer may not do


@pytest.mark.parametrize("index", [256, 65535, 65536, 0xFFFF_FFFF])
@pytest.mark.parametrize("number", [8, 9, 10, 11, 18, 23, 35, 45])
def test_a_ring_index_beyond_the_rings_is_refused(number: int, index: int) -> None:
    connection = pair().back_end
    payload = index.to_bytes(4, "little") + (1 if number in (8, 18) else 0).to_bytes(4, "little")
    payload += bytes(32 if number == 9 else 0)
    with pytest.raises(v.RemoteProtocolError, match="below the number of rings") as caught:
        wire(connection, number, payload, flags=9)
    assert (caught.value.field, caught.value.value) == ("index", index)
    has_own = number in (11, 45)
    assert (caught.value.answer is None) is has_own


def test_the_number_of_rings_is_the_callers_choice() -> None:
    negotiated = v.Negotiated(protocol_features=v.ProtocolFeatures.REPLY_ACK)
    limits = v.Limits(queues=2)
    connection = v.Connection(v.Role.BACK_END, limits=limits, negotiated=negotiated)
    connection.accept(wire(connection, 12, (0x101).to_bytes(8, "little")))
    with pytest.raises(v.RemoteProtocolError, match=r"number of rings \(2\)"):
        wire(connection, 12, (0x102).to_bytes(8, "little"), flags=9)
    assert connection.wanted == v.HEADER_SIZE


@pytest.mark.parametrize("number", [8, 10, 23])
def test_a_started_or_broken_ring_is_not_configured(number: int) -> None:
    joined = pair()
    back_end = joined.back_end
    joined.call(v.SetVringKick(index=0, no_fd=True))
    payload = bytes(4) + (1).to_bytes(4, "little")
    with pytest.raises(v.RemoteProtocolError, match="stop the ring with GET_VRING_BASE first"):
        wire(back_end, number, payload, flags=9)
    back_end.ring_broken(0)
    with pytest.raises(v.RemoteProtocolError, match="legal only while stopped, now broken"):
        wire(back_end, number, payload, flags=9)
    joined.call(v.GetVringBase(index=0), v.VringState(index=0, num=5))
    assert back_end.accept(wire(back_end, number, payload, flags=9)) is not None


def test_in_band_notifications_without_their_needs_close_the_connection() -> None:
    connection = pair().back_end
    payload = int(v.ProtocolFeatures.INBAND_NOTIFICATIONS).to_bytes(8, "little")
    with pytest.raises(v.RemoteProtocolError, match="BACKEND_REQ and REPLY_ACK") as caught:
        wire(connection, 16, payload, flags=9)
    assert caught.value.answer is None
    assert connection.state is v.ConnectionState.CLOSED


def test_an_empty_memory_table_is_refused_outside_post_copy() -> None:
    with pytest.raises(v.RemoteProtocolError, match="at least one region"):
        wire(pair().back_end, 5, bytes(8), flags=9)


BAD_REPLIES: list[tuple[str, bytes, str]] = [
    ("other-number", v.Header(number=2, flags=5, size=8).build(), "in the order of their"),
    ("no-reply-bit", v.Header(number=1, flags=1, size=8).build(), "flags of a reply"),
    ("need-reply-bit", v.Header(number=1, flags=13, size=8).build(), "flags of a reply"),
    ("other-size", v.Header(number=1, flags=5, size=4).build(), "8 bytes long"),
    ("too-big", v.Header(number=1, flags=5, size=4097).build(), "at most 4096"),
]


@pytest.mark.parametrize(
    ("header", "rule"), [case[1:] for case in BAD_REPLIES], ids=[case[0] for case in BAD_REPLIES]
)
def test_a_reply_that_is_none_closes_the_connection(header: bytes, rule: str) -> None:
    front_end = pair().front_end
    front_end.request(v.GetFeatures())
    fd = CountingFd()
    with pytest.raises(v.RemoteProtocolError, match=rule) as caught:
        front_end.receive(header, (fd,))
    assert caught.value.answer is None
    assert front_end.state is v.ConnectionState.CLOSED
    assert fd.closes == 1


def test_a_reply_with_fds_that_do_not_belong_to_it_closes_the_connection() -> None:
    front_end = pair().front_end
    front_end.request(v.GetFeatures())
    fd = CountingFd()
    front_end.receive(v.Header(number=1, flags=5, size=8).build(), (fd,))
    with pytest.raises(v.RemoteProtocolError, match="0 file descriptors") as caught:
        front_end.receive(bytes(8))
    assert caught.value.message == "GET_FEATURES"
    assert fd.closes == 1


def test_a_reply_that_nobody_asked_for_closes_the_connection() -> None:
    front_end = pair().front_end
    with pytest.raises(v.RemoteProtocolError, match="follows a request"):
        front_end.receive(v.Header(number=1, flags=5, size=8).build())
    assert front_end.wanted == 0


# What our own side may not do


def test_requests_go_on_the_own_channel_only() -> None:
    joined = pair()
    with pytest.raises(v.LocalProtocolError, match="back-end sends messages of its own channel"):
        joined.back_end.request(v.GetFeatures())
    with pytest.raises(v.LocalProtocolError, match="of its own channel"):
        joined.front_end.request(v.ConfigChange())
    with pytest.raises(v.LocalProtocolError, match="of its own channel"):
        joined.front_end.request(v.U64(value=1))


LOCAL: list[tuple[v.Message, dict[str, Any], str]] = [
    (v.GetConfig(offset=0, size=1), {}, "negotiate CONFIG"),
    (v.SetOwner(), {"need_reply": True}, "negotiate REPLY_ACK"),
    (v.SetVringKick(index=0), {}, "1 file descriptors"),
    (v.SetOwner(), {"fds": (CountingFd(),)}, "0 file descriptors"),
    (v.SetVringEnable(index=256, enable=1), {}, "below the number of rings"),
    (v.SetVringEnable(index=-1, enable=1), {}, "below the number of rings"),
]


@pytest.mark.parametrize(("message", "options", "rule"), LOCAL)
def test_what_the_peer_would_refuse_is_not_even_sent(
    message: v.Message, options: dict[str, Any], rule: str
) -> None:
    front_end = pair(0, 0).front_end
    with pytest.raises(v.LocalProtocolError, match=rule) as caught:
        front_end.request(message, **options)
    assert caught.value.message
    assert front_end.pending == 0


def test_a_closed_connection_sends_nothing_more() -> None:
    front_end = pair().front_end
    front_end.close()
    with pytest.raises(v.LocalProtocolError, match="closed connection"):
        front_end.request(v.SetOwner())


# Rings: what real front-ends do must work (S1 to S7)


def test_a_ring_that_was_never_set_up_can_be_enabled_before_any_feature() -> None:
    joined = ConnectionPair()
    joined.call(v.SetVringEnable(index=1, enable=1))
    assert joined.back_end.ring(1).gate is v.RingGate.ENABLED
    assert joined.back_end.ring(1).run is v.RingRun.STOPPED


def test_protocol_features_can_be_asked_for_and_set_before_bit_30_is_acknowledged() -> None:
    joined = ConnectionPair()
    joined.call(v.GetProtocolFeatures(), v.U64(value=0x8209))
    joined.call(v.SetProtocolFeatures(features=v.ProtocolFeatures(0x8209)))
    assert int(joined.back_end.negotiated.protocol_features) == 0x8209


def test_features_set_again_leave_running_rings_alone() -> None:
    joined = pair()
    joined.call(v.SetVringKick(index=0, no_fd=True))
    joined.call(v.SetVringEnable(index=0, enable=0))
    with_30 = VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures.VERSION_1
    joined.call(v.SetFeatures(features=with_30))
    assert joined.back_end.ring(0) == v.RingState(run=v.RingRun.STARTED, gate=v.RingGate.DISABLED)


def test_features_without_bit_30_enable_every_ring_at_once() -> None:
    joined = pair()
    joined.call(v.SetVringEnable(index=1, enable=0))
    joined.call(v.SetFeatures(features=VirtioFeatures.VERSION_1))
    assert joined.back_end.ring(1).gate is v.RingGate.ENABLED
    assert joined.front_end.ring(200).gate is v.RingGate.ENABLED


def test_a_base_can_be_asked_for_with_anything_in_num_and_of_a_ring_never_started() -> None:
    joined = pair()
    for _ in range(2):
        reply = joined.call(
            v.GetVringBase(index=3, num=0xDEAD_BEEF), v.VringState(index=3, num=0x8000)
        )
        assert reply is not None
        assert reply.message == v.VringState(index=3, num=0x8000)


def test_addresses_may_change_on_the_fly_and_kick_and_call_be_swapped() -> None:
    joined = pair()
    joined.call(ADDRESSES)
    for _ in range(2):
        joined.call(v.SetVringKick(index=0), fds=(CountingFd(),))
        joined.call(v.SetVringCall(index=0), fds=(CountingFd(),))
    joined.call(ADDRESSES)
    assert joined.back_end.ring(0).run is v.RingRun.STARTED


def test_both_sides_see_the_same_ring_through_start_stop_and_reset() -> None:
    joined = pair()
    for message, answer in (
        (v.SetVringNum(index=0, num=64), None),
        (v.SetVringBase(index=0, base=0), None),
        (ADDRESSES, None),
        (v.SetVringKick(index=0, no_fd=True), None),
        (v.SetVringEnable(index=0, enable=1), None),
        (v.VringKick(index=1), None),
        (v.GetVringBaseSkipDrain(index=1), v.VringState(index=1, num=0)),
        (v.ResetDevice(), None),
    ):
        joined.call(message, answer)
        for index in (0, 1):
            assert joined.front_end.ring(index) == joined.back_end.ring(index)
        assert joined.front_end.run is joined.back_end.run
    assert joined.back_end.ring(0) == v.RingState()


def test_device_state_is_transferred_only_while_all_rings_are_stopped() -> None:
    joined = pair()
    joined.call(v.SetVringKick(index=0, no_fd=True))
    assert joined.back_end.run is v.DeviceRun.RUNNING
    with pytest.raises(v.LocalProtocolError, match="legal only while suspended, now running"):
        joined.front_end.request(v.CheckDeviceState())


# Post-copy


def test_memory_tables_are_answered_with_addresses_in_post_copy_mode_only() -> None:
    joined = pair()
    region = v.MemRegion(gpa=v.Gpa(0), size=4096, uva=v.Uva(4096))
    table = v.SetMemTable(regions=(region,))
    assert joined.call(table, fds=(CountingFd(),)) is None
    joined.accept(joined.request(v.PostcopyAdvise()), fds=(CountingFd(),))
    joined.call(v.PostcopyListen())
    reply = joined.call(table, v.MemTableReply(regions=(region,)), fds=(CountingFd(),))
    assert reply is not None
    assert reply.message == v.MemTableReply(regions=(region,))
    assert joined.call(v.SetMemTable(regions=())) is None
    slot = joined.call(
        v.AddMemReg(region=region), v.MemRegReply(region=region), fds=(CountingFd(),)
    )
    assert slot is not None
    ended = joined.call(v.PostcopyEnd(), v.U64(value=0))
    assert ended is not None
    assert joined.back_end.postcopy is v.Postcopy.OFF


def test_the_representation_tells_side_channel_and_state() -> None:
    connection = v.Connection(v.Role.BACK_END, v.Channel.BACK_END)
    assert repr(connection) == "<Connection back-end on the back-end channel, idle>"
