"""The table of notify areas: in every order of events the rules hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vhost_user import CURRENT, RFC_V1, RFC_V2, VringHostNotifier, VringNotifyArea
from vhostuser.session import PAUSE_SECONDS, AreaEvent, AreaState, Handover, area_message

MAPPED = {AreaState.OFFERED, AreaState.HANDED_OVER, AreaState.KEPT}


def play(dialect, *events):
    ring = Handover(dialect, now=0)
    told = [ring.apply(event, now=number) for number, event in enumerate(events)]
    return ring, told


def test_an_area_ends_with_its_ring_and_the_next_waits():
    ring, told = play(CURRENT, AreaEvent.START, AreaEvent.OFFER, AreaEvent.ACCEPT, AreaEvent.STOP)
    assert ring.state is AreaState.NONE
    assert ring.due == 3 + PAUSE_SECONDS
    assert not any(told), "the front-end takes it off by itself"


@pytest.mark.parametrize("dialect", [RFC_V1, RFC_V2])
def test_an_area_of_the_rfc_stays_the_front_ends(dialect):
    ring, told = play(
        dialect,
        AreaEvent.START,
        AreaEvent.OFFER,
        AreaEvent.ACCEPT,
        AreaEvent.STOP,
        AreaEvent.START,
    )
    assert ring.state is AreaState.HANDED_OVER
    assert not any(told)


def test_an_area_that_was_handed_over_is_taken_back_by_a_message():
    _, told = play(CURRENT, AreaEvent.START, AreaEvent.OFFER, AreaEvent.ACCEPT, AreaEvent.END)
    assert told == [False, False, False, True]


def test_what_was_refused_is_not_taken_back():
    _, told = play(CURRENT, AreaEvent.START, AreaEvent.OFFER, AreaEvent.REFUSE, AreaEvent.END)
    assert not any(told)


@given(st.lists(st.sampled_from(AreaEvent)), st.sampled_from([CURRENT, RFC_V1, RFC_V2]))
def test_in_any_order_of_events(events, dialect):
    ring = Handover(dialect, now=0)
    last_end = 0
    for now, event in enumerate(events):
        before, number = ring.state, ring.number
        told = ring.apply(event, now)
        if before in MAPPED and ring.state not in MAPPED:
            last_end = now
        assert ring.due == last_end + PAUSE_SECONDS
        assert told == (event is AreaEvent.END and before in MAPPED)
        assert ring.number >= number
        if event is AreaEvent.STOP:
            assert ring.state in {AreaState.NONE, AreaState.KEPT}
        if ring.state is AreaState.WANTED:
            assert before in {AreaState.NONE, AreaState.WANTED}


def test_each_dialect_has_its_message():
    area = area_message(CURRENT, 3, size=4096, offset=8192)
    assert area == VringHostNotifier(index=3, no_fd=False, size=4096, offset=8192)
    for dialect in (RFC_V1, RFC_V2):
        gone = area_message(dialect, 3, no_fd=True)
        assert gone == VringNotifyArea(index=3, no_fd=True)
