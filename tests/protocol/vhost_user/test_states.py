"""The state tables, poked directly, and the tracker that walks them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vhost_user import states
from protocol.vhost_user.states import (
    ConnectionEvent,
    ConnectionState,
    DeviceEvent,
    DeviceRun,
    DeviceTracker,
    Postcopy,
    PostcopyEvent,
    RingEvent,
    RingGate,
    RingRun,
    RingState,
)

TABLES = {
    "connection": (states.CONNECTION, ConnectionState, ConnectionEvent),
    "ring-run": (states.RING_RUN, RingRun, RingEvent),
    "ring-gate": (states.RING_GATE, RingGate, RingEvent),
    "device": (states.DEVICE, DeviceRun, DeviceEvent),
    "postcopy": (states.POSTCOPY, Postcopy, PostcopyEvent),
}


@pytest.mark.parametrize(("table", "state", "event"), TABLES.values(), ids=TABLES)
def test_a_table_lists_every_state_and_only_its_own_events(
    table: Any, state: Any, event: Any
) -> None:
    assert set(table) == set(state)
    for events in table.values():
        assert set(events) <= set(event)
        assert set(events.values()) <= set(state)


@pytest.mark.parametrize(("table", "state", "event"), TABLES.values(), ids=TABLES)
def test_every_state_can_be_reached(table: Any, state: Any, event: Any) -> None:
    first = next(iter(state))
    reached = {first}
    for _ in state:
        reached |= {after for each in reached for after in table[each].values()}
    derived = {DeviceRun.RUNNING}  # follows from the rings, not from an event
    assert reached | derived >= set(state)
    assert event


def test_a_closed_connection_stays_closed() -> None:
    assert set(states.CONNECTION[ConnectionState.CLOSED].values()) == {ConnectionState.CLOSED}


@pytest.mark.parametrize("run", list(RingRun))
@pytest.mark.parametrize("gate", list(RingGate))
@pytest.mark.parametrize(
    ("event", "run_after", "gate_after"),
    [
        (RingEvent.STOP, RingRun.STOPPED, None),
        (RingEvent.RESET, RingRun.STOPPED, RingGate.DISABLED),
        (RingEvent.ENABLE, None, RingGate.ENABLED),
        (RingEvent.DISABLE, None, RingGate.DISABLED),
        (RingEvent.ADDRESS, None, None),
    ],
)
def test_what_is_legal_in_every_ring_state(
    run: RingRun,
    gate: RingGate,
    event: RingEvent,
    run_after: RingRun | None,
    gate_after: RingGate | None,
) -> None:
    assert RingState(run=run, gate=gate).after(event) == RingState(
        run=run_after or run, gate=gate_after or gate
    )


def test_only_a_stopped_ring_can_be_configured() -> None:
    assert states.legal_states(RingEvent.CONFIGURE) == {RingRun.STOPPED}


def test_a_broken_ring_stays_broken_until_it_is_stopped() -> None:
    tracker = DeviceTracker()
    tracker.apply(RingEvent.START, 0)
    tracker.apply(RingEvent.FAULT, 0)
    tracker.apply(RingEvent.START, 0)
    assert tracker.ring(0).run is RingRun.BROKEN
    assert not tracker.is_legal(RingEvent.CONFIGURE, 0)
    tracker.apply(RingEvent.STOP, 0)
    assert tracker.is_legal(RingEvent.CONFIGURE, 0)


def test_a_fault_that_comes_after_the_stop_changes_nothing() -> None:
    tracker = DeviceTracker()
    tracker.apply(RingEvent.FAULT, 0)
    assert tracker.ring(0).run is RingRun.STOPPED


def test_stopping_a_ring_keeps_whether_it_is_enabled() -> None:
    tracker = DeviceTracker()
    tracker.apply(RingEvent.ENABLE, 0)
    tracker.apply(RingEvent.START, 0)
    tracker.apply(RingEvent.STOP, 0)
    assert tracker.ring(0) == RingState(run=RingRun.STOPPED, gate=RingGate.ENABLED)


def test_the_device_is_suspended_exactly_while_no_ring_is_started() -> None:
    tracker = DeviceTracker()
    for event, index, run in (
        (RingEvent.STOP, 1, DeviceRun.SUSPENDED),
        (RingEvent.START, 1, DeviceRun.RUNNING),
        (RingEvent.START, 2, DeviceRun.RUNNING),
        (RingEvent.STOP, 1, DeviceRun.RUNNING),
        (RingEvent.STOP, 2, DeviceRun.SUSPENDED),
    ):
        tracker.apply(event, index)
        assert tracker.run is run
        assert tracker.is_legal(DeviceEvent.TRANSFER, 0) is (run is DeviceRun.SUSPENDED)


def test_a_reset_reaches_rings_that_were_never_touched_too() -> None:
    tracker = DeviceTracker()
    tracker.enable_all()
    tracker.apply(RingEvent.START, 1)
    assert tracker.ring(7).gate is RingGate.ENABLED
    tracker.apply(DeviceEvent.RESET, 0)
    assert tracker.ring(1) == tracker.ring(7) == RingState()


def test_postcopy_runs_in_order() -> None:
    tracker = DeviceTracker()
    assert not tracker.is_legal(PostcopyEvent.LISTEN, 0)
    assert not tracker.is_legal(PostcopyEvent.END, 0)
    for event, after in (
        (PostcopyEvent.ADVISE, Postcopy.ADVISED),
        (PostcopyEvent.LISTEN, Postcopy.LISTENING),
        (PostcopyEvent.END, Postcopy.OFF),
    ):
        assert tracker.is_legal(event, 0)
        tracker.apply(event, 0)
        assert tracker.postcopy is after


def test_an_event_without_rule_is_legal_anywhere() -> None:
    assert states.legal_states(None) == frozenset()
    assert states.legal_states(RingEvent.ENABLE) == frozenset()


@given(events=st.lists(st.tuples(st.sampled_from(list(RingEvent)), st.integers(0, 3))))
def test_rings_do_not_disturb_each_other(events: list[tuple[RingEvent, int]]) -> None:
    together = DeviceTracker()
    alone = {index: DeviceTracker() for index in range(4)}
    for event, index in events:
        if together.is_legal(event, index):
            assert alone[index].is_legal(event, index)
            together.apply(event, index)
            alone[index].apply(event, index)
    for index, tracker in alone.items():
        assert together.ring(index) == tracker.ring(index)
