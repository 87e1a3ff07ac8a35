"""The session without a device: requests in, plans out, outcomes settled."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from protocol.vhost_user import (
    U64,
    AddMemReg,
    Connection,
    GetConfig,
    GetFeatures,
    GetMaxMemSlots,
    GetProtocolFeatures,
    GetQueueNum,
    GetStatus,
    GetVringBase,
    Gpa,
    Limits,
    MemRegion,
    Message,
    Outgoing,
    ProtocolFeatures,
    RemMemReg,
    RemoteProtocolError,
    Request,
    ResetDevice,
    ResetOwner,
    Role,
    SetConfig,
    SetFeatures,
    SetLogFd,
    SetMemTable,
    SetOwner,
    SetProtocolFeatures,
    SetStatus,
    SetVringAddr,
    SetVringBase,
    SetVringCall,
    SetVringEnable,
    SetVringKick,
    SetVringNum,
    Uva,
)
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import RingFd, StopMode
from vhostuser.fds import OwnedFd
from vhostuser.session import (
    AddRegion,
    EnableRing,
    ReadConfig,
    RemoveRegion,
    ReplaceMemory,
    Session,
    SetRingFd,
    StartRing,
    StopRing,
    UseFeatures,
    WriteConfig,
)
from vhostuser.session.handlers import HANDLERS
from vhostuser.testing import deliver
from vhostuser.testing.datapath import fake_profile
from vhostuser.virtqueue import RingState

PROFILE = fake_profile()
REGION = MemRegion(gpa=Gpa(0), size=0x10000, uva=Uva(0x7000_0000), offset=0)
ADDR = SetVringAddr(
    index=0,
    flags=0,
    desc=Uva(0x7000_0000),
    avail=Uva(0x7000_1000),
    used=Uva(0x7000_2000),
    log=Gpa(0),
)


class Harness:
    """A session and the front-end's connection that talks to it."""

    def __init__(self) -> None:
        self.front_end = Connection(Role.FRONT_END)
        connection = Connection(Role.BACK_END, limits=Limits(queues=PROFILE.queues))
        self.session = Session(connection, PROFILE)
        self.fds: list[OwnedFd] = []

    def eventfd(self) -> OwnedFd:
        fd = OwnedFd(os.eventfd(0))
        self.fds.append(fd)
        return fd

    def send(self, message: Message, *fds: OwnedFd, need_reply: bool = False) -> Request:
        outgoing = self.front_end.request(message, fds=fds, need_reply=need_reply)
        received = deliver(outgoing, self.session.connection)
        assert isinstance(received, Request)
        return received

    def do(self, message: Message, *fds: OwnedFd, results: tuple = ()) -> Outgoing | None:
        """Carry a request through with `results` as its steps' outcome."""
        request = self.send(message, *fds)
        plan = self.session.begin(request)
        answer = self.session.finish(request, plan, results or (None,) * len(plan.steps))
        if answer is not None:
            deliver(answer, self.front_end)
        return answer

    def ask(self, message: Message, **outcome: tuple) -> Message:
        """Carry through a request that has an answer; return what the front-end got."""
        request = self.send(message)
        plan = self.session.begin(request)
        results = outcome.get("results", (None,) * len(plan.steps))
        answer = self.session.finish(request, plan, results)
        assert answer is not None
        return deliver(answer, self.front_end).message

    def negotiate(self, features: VirtioFeatures = PROFILE.features) -> None:
        self.do(SetProtocolFeatures(features=PROFILE.protocol_features))
        self.do(SetFeatures(features=features))

    def start(self, index: int = 0) -> StartRing:
        """Set a ring up, start it, and return the step that did."""
        self.do(SetVringNum(index=index, num=128))
        self.do(replace(ADDR, index=index))
        request = self.send(SetVringKick(index=index, no_fd=False), self.eventfd())
        plan = self.session.begin(request)
        self.session.finish(request, plan, (None,))
        (step,) = plan.steps
        assert isinstance(step, StartRing)
        return step


@pytest.fixture
def harness():
    harness = Harness()
    yield harness
    for fd in harness.fds:
        fd.close()


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (GetFeatures(), U64(value=int(PROFILE.features))),
        (GetProtocolFeatures(), U64(value=int(PROFILE.protocol_features))),
        (GetQueueNum(), U64(value=2)),
        (GetMaxMemSlots(), U64(value=509)),
        (GetStatus(), U64(value=0)),
    ],
)
def test_questions_are_answered_from_the_profile(harness, message, answer):
    harness.negotiate()
    assert harness.ask(message) == answer


def test_a_plan_alone_changes_nothing(harness):
    harness.negotiate()
    before = harness.session.state
    request = harness.send(SetStatus(status=7))
    harness.session.begin(request)
    assert harness.session.state is before


def test_a_plan_that_failed_changes_nothing_and_is_nacked(harness):
    harness.negotiate()
    before = harness.session.state
    request = harness.send(AddMemReg(region=REGION), harness.eventfd(), need_reply=True)
    plan = harness.session.begin(request)
    assert plan.steps == (AddRegion(REGION, request.fds[0]),)
    answer = harness.session.refuse(request, OSError(12, "out of memory"))
    assert deliver(answer, harness.front_end).message == U64(value=1)
    assert harness.session.state is before
    assert harness.session.connection.wanted == 12


def test_a_plan_that_failed_closes_the_connection_where_no_ack_was_asked_for(harness):
    harness.negotiate()
    request = harness.send(AddMemReg(region=REGION), harness.eventfd())
    harness.session.begin(request)
    assert harness.session.refuse(request, OSError(12, "out of memory")) is None
    assert harness.session.connection.wanted == 0


def test_the_status_is_given_back_as_it_was_set(harness):
    harness.negotiate()
    harness.do(SetStatus(status=0xB))
    assert harness.ask(GetStatus()) == U64(value=0xB)


def test_a_device_that_is_gone_needs_a_reset_until_the_driver_has_reset_it(harness):
    harness.negotiate()
    harness.do(SetStatus(status=0xF))
    harness.session.ring_failed(0)
    assert harness.ask(GetStatus()) == U64(value=0x4F)
    harness.do(SetStatus(status=0x4F))  # read, changed, written back, as QEMU does
    assert harness.ask(GetStatus()) == U64(value=0x4F)
    harness.do(SetStatus(status=0))
    assert harness.ask(GetStatus()) == U64(value=0)


def test_configuration_is_read_by_a_step(harness):
    harness.negotiate()
    request = harness.send(GetConfig(offset=8, size=4))
    plan = harness.session.begin(request)
    assert plan.steps == (ReadConfig(8, 4),)
    answer = harness.session.finish(request, plan, (b"abcd",))
    assert deliver(answer, harness.front_end).message.data == b"abcd"


@pytest.mark.parametrize(("flags", "migration"), [(0, False), (1, True)])
def test_configuration_is_written_by_a_step_that_knows_of_a_migration(harness, flags, migration):
    harness.negotiate()
    request = harness.send(SetConfig(offset=32, flags=flags, data=b"\1"))
    plan = harness.session.begin(request)
    assert plan.steps == (WriteConfig(32, b"\1", migration=migration),)


def test_the_device_learns_what_was_accepted(harness):
    request = harness.send(SetFeatures(features=PROFILE.features))
    assert harness.session.begin(request).steps == (UseFeatures(PROFILE.features),)


def test_a_driver_may_leave_version_1_away(harness):
    features = VirtioFeatures.PROTOCOL_FEATURES
    harness.negotiate(features)
    harness.start()
    assert harness.session.state.features == features


def test_without_protocol_features_every_ring_is_enabled_at_once(harness):
    features = PROFILE.features & ~VirtioFeatures.PROTOCOL_FEATURES
    request = harness.send(SetFeatures(features=features))
    plan = harness.session.begin(request)
    assert plan.steps == (
        UseFeatures(features),
        EnableRing(0, enabled=True),
        EnableRing(1, enabled=True),
    )
    harness.session.finish(request, plan, (None, None, None))
    assert all(vring.enabled for vring in harness.session.state.vrings)


def test_features_may_come_again_while_a_ring_runs_and_disturb_nothing(harness):
    harness.negotiate()
    harness.start()
    request = harness.send(SetFeatures(features=PROFILE.features))
    assert harness.session.begin(request).steps == (UseFeatures(PROFILE.features),)


def test_enabling_is_legal_before_anything_else(harness):
    harness.do(SetVringEnable(index=1, enable=1))
    assert harness.session.state.vrings[1].enabled


def test_a_ring_starts_at_its_kick_with_all_that_was_said_before(harness):
    harness.negotiate(PROFILE.features & ~VirtioFeatures.RING_PACKED)
    harness.do(SetVringBase(index=0, base=77))
    start = harness.start().start
    assert (start.num, start.desc, start.driver, start.device) == (
        128,
        ADDR.desc,
        ADDR.avail,
        ADDR.used,
    )
    assert start.state.avail == 77
    assert harness.session.state.vrings[0].started


@pytest.mark.parametrize(
    ("base", "position"),
    [
        (None, RingState(avail=0, used=0, avail_wrap=True, used_wrap=True)),
        (0x8000, RingState(avail=0, used=0, avail_wrap=True, used_wrap=True)),
        (0x8005, RingState(avail=5, used=5, avail_wrap=True, used_wrap=True)),
        (0x80048005, RingState(avail=5, used=4, avail_wrap=True, used_wrap=True)),
        (0x80048000, RingState(avail=0, used=4, avail_wrap=True, used_wrap=True)),
        (0x00048005, RingState(avail=5, used=4, avail_wrap=True, used_wrap=False)),
    ],
)
def test_a_packed_base_holds_both_positions_and_both_wrap_counters(harness, base, position):
    harness.negotiate()
    if base is not None:
        harness.do(SetVringBase(index=0, base=base))
    assert harness.start().start.state == position


@pytest.mark.parametrize("packed", [False, True])
def test_stopping_drains_the_ring_and_returns_its_position(harness, packed):
    features = PROFILE.features
    harness.negotiate(features if packed else features & ~VirtioFeatures.RING_PACKED)
    harness.start()
    request = harness.send(GetVringBase(index=0, num=0xDEAD))
    plan = harness.session.begin(request)
    assert plan.steps == (StopRing(0, StopMode.DRAIN),)
    position = RingState(avail=9, used=9, avail_wrap=True, used_wrap=False)
    answer = harness.session.finish(request, plan, (position,))
    base = 0x00098009 if packed else 9
    assert deliver(answer, harness.front_end).message.num == base
    vring = harness.session.state.vrings[0]
    assert (vring.started, vring.base) == (False, base)


def test_a_ring_that_never_ran_returns_the_base_it_was_given(harness):
    harness.negotiate(PROFILE.features & ~VirtioFeatures.RING_PACKED)
    harness.do(SetVringBase(index=0, base=5))
    assert harness.ask(GetVringBase(index=0)).num == 5


def test_a_kick_for_a_started_ring_only_replaces_the_fd(harness):
    harness.negotiate()
    harness.start()
    request = harness.send(SetVringKick(index=0, no_fd=False), harness.eventfd())
    assert harness.session.begin(request).steps == (SetRingFd(0, RingFd.KICK, request.fds[0]),)


def test_a_kick_without_an_fd_starts_a_polled_ring(harness):
    harness.negotiate()
    harness.do(SetVringNum(index=0, num=128))
    harness.do(ADDR)
    request = harness.send(SetVringKick(index=0, no_fd=True))
    (step,) = harness.session.begin(request).steps
    assert step.kick is None


def test_a_call_fd_is_handed_on(harness):
    request = harness.send(SetVringCall(index=1, no_fd=False), harness.eventfd())
    assert harness.session.begin(request).steps == (SetRingFd(1, RingFd.CALL, request.fds[0]),)


def test_a_reset_stops_what_runs_and_forgets_the_rings_but_keeps_memory_and_features(harness):
    harness.negotiate()
    harness.do(AddMemReg(region=REGION), harness.eventfd())
    harness.start()
    request = harness.send(ResetDevice())
    plan = harness.session.begin(request)
    assert plan.steps == (
        StopRing(0, StopMode.DRAIN),
        EnableRing(0, enabled=False),
        EnableRing(1, enabled=False),
    )
    harness.session.finish(request, plan, (None, None, None))
    state = harness.session.state
    assert (state.vrings[0].started, state.vrings[0].num) == (False, 0)
    assert (state.regions, state.features) == ((REGION,), PROFILE.features)


def test_status_zero_before_the_stop_leaves_rings_their_place(harness):
    harness.negotiate()
    harness.start()
    harness.do(SetStatus(status=0))
    position = RingState(avail=9, used=9, avail_wrap=True, used_wrap=True)
    assert harness.ask(GetVringBase(index=0), results=(position,)).num == 0x80098009


def test_status_zero_after_the_stop_does_not_undo_an_earlier_enable(harness):
    harness.negotiate()
    harness.do(SetVringEnable(index=0, enable=1))
    harness.do(SetStatus(status=0))
    assert harness.session.state.vrings[0].enabled


def test_memory_follows_the_messages(harness):
    harness.negotiate()
    other = replace(REGION, gpa=Gpa(0x10000), uva=Uva(0x7001_0000))
    fds = harness.eventfd(), harness.eventfd()
    request = harness.send(SetMemTable(regions=(REGION, other)), *fds)
    plan = harness.session.begin(request)
    assert plan.steps == (ReplaceMemory(((REGION, request.fds[0]), (other, request.fds[1]))),)
    harness.session.finish(request, plan, (None,))
    request = harness.send(RemMemReg(region=replace(REGION, offset=0x5000)))
    plan = harness.session.begin(request)
    assert plan.steps == (RemoveRegion(replace(REGION, offset=0x5000)),)
    harness.session.finish(request, plan, (None,))
    assert harness.session.state.regions == (other,)


def test_the_table_is_full_at_509_regions(harness):
    harness.negotiate()
    harness.session.state = replace(harness.session.state, regions=(REGION,) * 509)
    request = harness.send(AddMemReg(region=REGION), harness.eventfd())
    with pytest.raises(RemoteProtocolError, match=r"at most 509"):
        harness.session.begin(request)


def test_the_table_is_full_at_32_tebibytes(harness):
    harness.negotiate()
    most = 1 << 45
    half = replace(REGION, size=most // 2)
    harness.do(AddMemReg(region=half), harness.eventfd())
    rest = replace(half, gpa=Gpa(most), uva=Uva(most))
    harness.do(SetMemTable(regions=(half, rest)), harness.eventfd(), harness.eventfd())
    harness.do(RemMemReg(region=rest))
    request = harness.send(AddMemReg(region=replace(rest, size=most // 2 + 1)), harness.eventfd())
    with pytest.raises(RemoteProtocolError, match=r"field=size .*at most 0x200000000000 bytes"):
        harness.session.begin(request)


@pytest.mark.parametrize("message", [SetOwner(), ResetOwner()])
def test_owner_messages_need_nothing_done(harness, message):
    assert harness.session.begin(harness.send(message)).steps == ()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            SetFeatures(features=VirtioFeatures.ACCESS_PLATFORM),
            r"bits 0x200000000 were not offered",
        ),
        (
            SetProtocolFeatures(features=ProtocolFeatures.PAGEFAULT),
            r"message=SET_PROTOCOL_FEATURES field=features .*bits 0x100 were not offered",
        ),
        (SetVringNum(index=0, num=257), r"message=SET_VRING_NUM field=num .*1 to 256"),
        (replace(ADDR, desc=Uva(0x7000_0008)), r"field=desc value=0x70000008 .*multiple of 16"),
        (replace(ADDR, avail=Uva(0x7000_1001)), r"field=avail .*multiple of 4"),
        (replace(ADDR, used=Uva(0x7000_2002)), r"field=used .*multiple of 4"),
        (SetVringKick(index=0, no_fd=True), r"only after SET_VRING_NUM"),
        (GetConfig(offset=250, size=7), r"message=GET_CONFIG"),
        (SetConfig(offset=250, data=bytes(7)), r"field=offset\+size value=257 .*256 bytes"),
        (RemMemReg(region=REGION), r"message=REM_MEM_REG .*no region"),
    ],
)
def test_a_refusal_names_message_field_value_and_rule(harness, message, text):
    harness.negotiate()
    request = harness.send(message)
    with pytest.raises(RemoteProtocolError, match=text):
        harness.session.begin(request)


@pytest.mark.parametrize("size", [3, 100, 255])
def test_a_split_ring_has_a_power_of_two_descriptors(harness, size):
    harness.negotiate(PROFILE.features & ~VirtioFeatures.RING_PACKED)
    request = harness.send(SetVringNum(index=0, num=size))
    with pytest.raises(RemoteProtocolError, match=r"power of two"):
        harness.session.begin(request)


def test_a_packed_ring_may_have_any_number_of_descriptors(harness):
    harness.negotiate()
    harness.do(SetVringNum(index=0, num=100))
    assert harness.session.state.vrings[0].num == 100


def test_something_that_signals_nothing_is_refused_as_a_kick(harness):
    harness.negotiate()
    harness.do(SetVringNum(index=0, num=128))
    harness.do(ADDR)
    with OwnedFd(os.open("/dev/null", os.O_RDWR)) as fd:
        request = harness.send(SetVringKick(index=0, no_fd=False), fd)
        with pytest.raises(
            RemoteProtocolError, match=r"value=character_device .*eventfd, a pipe or a socket"
        ):
            harness.session.begin(request)


def test_the_format_of_rings_cannot_change_while_one_runs(harness):
    harness.negotiate()
    harness.start()
    features = PROFILE.features & ~VirtioFeatures.RING_PACKED
    with pytest.raises(RemoteProtocolError, match=r"cannot change while one runs"):
        harness.session.begin(harness.send(SetFeatures(features=features)))


def test_a_running_ring_does_not_move(harness):
    harness.negotiate()
    harness.start()
    harness.do(replace(ADDR, flags=1, log=Gpa(0x1000)))
    request = harness.send(replace(ADDR, desc=Uva(0x7000_4000)))
    with pytest.raises(RemoteProtocolError, match=r"cannot move"):
        harness.session.begin(request)


def test_a_message_without_a_handler_is_refused_by_name(harness):
    assert SetLogFd not in HANDLERS
    request = harness.send(SetLogFd(), harness.eventfd())
    with pytest.raises(RemoteProtocolError, match=r"a fake device does not serve this message"):
        harness.session.begin(request)


def test_a_broken_ring_can_be_stopped_and_started_anew(harness):
    harness.negotiate()
    harness.start()
    harness.session.ring_broken(0)
    assert harness.session.state.vrings[0].broken
    position = RingState(avail=3, used=3, avail_wrap=True, used_wrap=True)
    harness.do(GetVringBase(index=0), results=(position,))
    harness.start()
    assert not harness.session.state.vrings[0].broken
