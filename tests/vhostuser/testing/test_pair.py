"""The joined connections: what one side sends is what the other receives, errors included."""

from __future__ import annotations

import pytest

from protocol.vhost_user import (
    U64,
    Channel,
    ConfigChange,
    GetFeatures,
    GetVringBase,
    LocalProtocolError,
    Negotiated,
    ProtocolFeatures,
    RemoteProtocolError,
    SetFeatures,
    SetVringCall,
    SetVringNum,
    VringState,
)
from protocol.virtio import VirtioFeatures
from vhostuser.testing import ConnectionPair, CountingFd

AGREED = Negotiated(
    VirtioFeatures.PROTOCOL_FEATURES, ProtocolFeatures.REPLY_ACK | ProtocolFeatures.CONFIG
)


def test_a_request_arrives_as_it_was_made_and_so_does_its_answer() -> None:
    pair = ConnectionPair()
    request = pair.request(GetVringBase(index=3))
    assert request.message == GetVringBase(index=3)
    reply = pair.accept(request, VringState(index=3, num=7))
    assert reply is not None
    assert reply.message == VringState(index=3, num=7)


def test_a_call_without_a_reply_gives_none_and_both_sides_remember_it() -> None:
    pair = ConnectionPair()
    features = VirtioFeatures.VERSION_1
    assert pair.call(SetFeatures(features=features)) is None
    assert pair.front_end.negotiated.features == features
    assert pair.back_end.negotiated.features == features


def test_a_refusal_is_a_number_other_than_0_where_an_acknowledgement_was_asked_for() -> None:
    pair = ConnectionPair(negotiated=AGREED)
    request = pair.request(SetVringNum(index=0, num=8), need_reply=True)
    reply = pair.refuse(request, "told so")
    assert reply is not None
    assert reply.message == U64(value=1)


def test_fds_arrive_with_their_message_and_a_rejected_one_closes_them() -> None:
    pair = ConnectionPair()
    kept, lost = CountingFd("kept"), CountingFd("lost")
    assert pair.request(SetVringCall(index=0), fds=[kept]).fds == (kept,)
    assert not kept.closed
    pair = ConnectionPair()
    pair.back_end.limits = type(pair.back_end.limits)(queues=1)
    with pytest.raises(RemoteProtocolError, match=r"field=index value=5"):
        pair.request(SetVringCall(index=5), fds=[lost])
    assert lost.closes == 1


def test_on_the_back_end_channel_the_back_end_asks() -> None:
    pair = ConnectionPair(Channel.BACK_END, negotiated=AGREED)
    reply = pair.call(ConfigChange(), need_reply=True)
    assert reply is not None
    assert reply.message == U64(value=0)
    assert pair.requester is pair.back_end


def test_what_the_requester_may_not_send_never_arrives() -> None:
    pair = ConnectionPair()
    with pytest.raises(LocalProtocolError, match=r"REPLY_ACK"):
        pair.request(GetFeatures(), need_reply=True)
    assert pair.request(GetFeatures()).message == GetFeatures()
