"""What a front-end asks of a network device, besides its rings."""

from __future__ import annotations

import pytest

from protocol.vhost_user import (
    U64,
    AddMemReg,
    Connection,
    GetQueueNum,
    Limits,
    LocalProtocolError,
    MemRegion,
    NetSetMtu,
    ProtocolFeatures,
    RemMemReg,
    RemoteProtocolError,
    Request,
    Role,
    SendRarp,
    SetFeatures,
    SetMemTable,
    SetProtocolFeatures,
)
from vhostuser.devices import NetOptions
from vhostuser.devices.net_profile import net_profile
from vhostuser.session import Announce, RemoveRegion, Session
from vhostuser.testing import CountingFd, deliver

MAC = b"\x52\x54\0\x12\x34\x56"
NONE = ProtocolFeatures(0)
PROFILE = net_profile(NetOptions(queue_pairs=4, mtu=9000))


class Talk:
    """A session with a network device, and the front-end's end of it."""

    def __init__(self, leave_out=NONE):
        self.front_end = Connection(Role.FRONT_END)
        back_end = Connection(Role.BACK_END, limits=Limits(queues=PROFILE.queues))
        self.session = Session(back_end, PROFILE)
        self.settle(SetProtocolFeatures(features=PROFILE.protocol_features & ~leave_out))
        self.settle(SetFeatures(features=PROFILE.features))

    def plan(self, message, *, need_reply=False):
        fds = [CountingFd()] if isinstance(message, AddMemReg | SetMemTable) else []
        outgoing = self.front_end.request(message, fds=fds, need_reply=need_reply)
        request = deliver(outgoing, self.session.connection)
        assert isinstance(request, Request)
        return request, self.session.begin(request)

    def settle(self, message, *, need_reply=False):
        """Carry a message through, as if its steps were done; return the answer's payload."""
        request, plan = self.plan(message, need_reply=need_reply)
        answer = self.session.finish(request, plan, [None] * len(plan.steps))
        return None if answer is None else deliver(answer, self.front_end).message


def test_queues_are_counted_in_pairs():
    assert Talk().settle(GetQueueNum()) == U64(value=4)


def test_an_address_is_announced():
    talk = Talk()
    _, plan = talk.plan(SendRarp(mac=MAC))
    assert plan.steps == (Announce(MAC),)


@pytest.mark.parametrize("mtu", [68, 1500, 9000])
def test_an_mtu_that_the_device_carries_is_accepted(mtu):
    talk = Talk()
    before = talk.session.state
    assert talk.settle(NetSetMtu(mtu=mtu), need_reply=True) == U64(value=0)
    assert talk.session.state == before


@pytest.mark.parametrize("mtu", [0, 67, 9001, 65535])
def test_any_other_is_refused_with_the_reason(mtu):
    talk = Talk()
    with pytest.raises(
        RemoteProtocolError,
        match=r"message=NET_SET_MTU field=mtu .*68 to 9000 \(raise it with --mtu\)",
    ):
        talk.plan(NetSetMtu(mtu=mtu), need_reply=True)


@pytest.mark.parametrize(
    ("message", "feature"),
    [
        (SendRarp(mac=MAC), ProtocolFeatures.RARP),
        (NetSetMtu(mtu=1500), ProtocolFeatures.MTU),
    ],
)
def test_each_is_unlocked_by_its_feature(message, feature):
    talk = Talk(leave_out=feature)
    with pytest.raises(LocalProtocolError, match=f"negotiate {feature.name}"):
        talk.plan(message)


def _region(**changed):
    return MemRegion(**{"gpa": 0, "size": 1 << 20, "uva": 1 << 30, "offset": 0} | changed)


def test_a_region_may_be_added_once_for_each_pair_and_is_there_until_all_removed_it():
    talk = Talk()
    steps = []
    for _ in range(4):
        request, plan = talk.plan(AddMemReg(region=_region()), need_reply=True)
        steps.append(plan.steps)
        talk.session.finish(request, plan, [None] * len(plan.steps))
    assert [len(each) for each in steps] == [1, 0, 0, 0]
    assert talk.session.state.regions == (_region(),)

    removals = []
    for _ in range(4):
        request, plan = talk.plan(RemMemReg(region=_region()))
        removals.append(plan.steps)
        talk.session.finish(request, plan, [None] * len(plan.steps))
    assert removals == [(), (), (), (RemoveRegion(_region()),)]
    assert talk.session.state.regions == ()
    with pytest.raises(RemoteProtocolError, match="no region"):
        talk.plan(RemMemReg(region=_region()))


def test_it_may_not_be_added_more_often():
    talk = Talk()
    for _ in range(4):
        talk.settle(AddMemReg(region=_region()))
    with pytest.raises(RemoteProtocolError, match="a range that no other region holds"):
        talk.plan(AddMemReg(region=_region()))


@pytest.mark.parametrize("changed", [{"offset": 4096}, {"size": 4096}, {"uva": 1 << 31}])
def test_one_that_differs_is_not_the_same_region(changed):
    talk = Talk()
    talk.settle(AddMemReg(region=_region()))
    with pytest.raises(RemoteProtocolError, match="a range that no other region holds"):
        talk.plan(AddMemReg(region=_region(**changed)))


def test_a_new_table_forgets_what_was_added_again():
    talk = Talk()
    for _ in range(3):
        talk.settle(AddMemReg(region=_region()))
    talk.settle(SetMemTable(regions=(_region(),)))
    assert not talk.session.state.repeated
