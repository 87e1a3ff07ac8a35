"""Relays through Python: what goes in comes out, and every fd has one owner."""

from __future__ import annotations

import ctypes
import mmap
import os
import select

import pytest

from vhostuser.datapath import EventfdDoorbell, MappedDoorbell
from vhostuser.datapath.relay import Relay
from vhostuser.fds import OwnedFd
from vhostuser.testing import held

PATIENCE = 30


def counter():
    return OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))


def receive(fd):
    """Wait for a signal and take it out."""
    ready, _, _ = select.select([fd.fileno()], [], [], PATIENCE)
    assert ready, "no signal came"
    return os.eventfd_read(fd.fileno())


@pytest.fixture
def relay():
    before = held()
    with Relay() as relay:
        yield relay
    assert held().more_than(before) == ""


@pytest.fixture
def kick(relay):
    with counter() as kick:
        yield kick


@pytest.fixture
def target(relay):
    with counter() as target:
        yield target


def test_a_kick_rings_the_eventfd_of_a_doorbell(relay, kick, target):
    route = relay.add_kick(kick.duplicate(), EventfdDoorbell(fd=target.duplicate()))
    for _ in range(100):
        os.eventfd_write(kick.fileno(), 3)
        assert receive(target) == 1
    assert route.signals == 100


@pytest.mark.parametrize(("width", "stored"), [(2, 0xFFFF_0001), (4, 0x0003_0001)])
def test_a_kick_stores_the_value_of_a_doorbell_in_its_width(relay, kick, target, width, stored):
    with mmap.mmap(-1, mmap.PAGESIZE) as area:
        word = ctypes.c_uint32.from_buffer(area)
        word.value = 0xFFFF_FFFF
        doorbell = MappedDoorbell(address=ctypes.addressof(word), width=width, value=0x3_0001)
        route = relay.add_kick(kick.duplicate(), doorbell)
        other = relay.add_kick(kick.duplicate(), EventfdDoorbell(fd=target.duplicate()))
        os.eventfd_write(kick.fileno(), 1)
        receive(target)
        route.ring()
        other.ring()
        receive(target)  # the thread rings all that want it, one round after another
        other.ring()
        receive(target)
        assert word.value == stored
        route.remove()
        del word


def test_an_interrupt_reaches_the_call_fds_of_all_rings(relay, kick):
    with counter() as first, counter() as second:
        relay.add_fan_out(kick.duplicate(), [first.duplicate(), second.duplicate()])
        os.eventfd_write(kick.fileno(), 1)
        assert receive(first) == 1
        assert receive(second) == 1


def test_a_ring_is_no_signal_and_needs_no_thread(relay, kick, target):
    route = relay.add_kick(kick.duplicate(), EventfdDoorbell(fd=target.duplicate()))
    route.ring()
    assert receive(target) == 1
    assert route.signals == 0


def test_signals_go_to_another_target_or_nowhere(relay, kick, target):
    with counter() as second:
        route = relay.add_fan_out(kick.duplicate(), [])
        os.eventfd_write(kick.fileno(), 1)
        route.retarget([second.duplicate()])
        route.ring()
        receive(second)
        route.retarget(EventfdDoorbell(fd=target.duplicate()))
        route.ring()
        assert receive(target) == 1


def test_a_removed_route_keeps_its_count_and_no_fd(relay, kick, target):
    before = held()
    route = relay.add_kick(kick.duplicate(), EventfdDoorbell(fd=target.duplicate()))
    os.eventfd_write(kick.fileno(), 1)
    receive(target)
    route.remove()
    route.remove()
    assert held().more_than(before) == ""
    assert route.signals == 1
    route.ring()
    with pytest.raises(ValueError, match="removed"):
        route.retarget([])


def test_closing_ends_every_route(kick, target):
    before = held()
    relay = Relay()
    route = relay.add_kick(kick.duplicate(), EventfdDoorbell(fd=target.duplicate()))
    relay.close()
    relay.close()
    assert held().more_than(before) == ""
    assert route.signals == 0
    route.ring()
    route.remove()


def test_what_cannot_be_waited_for_or_stored_is_refused_and_closed(relay, kick, target):
    with OwnedFd(os.memfd_create("file")) as file:
        before = held()
        with pytest.raises(PermissionError, match="relay a ring's signals"):
            relay.add_kick(file.duplicate(), EventfdDoorbell(fd=target.duplicate()))
        with pytest.raises(OSError, match="Invalid argument"):
            relay.add_kick(kick.duplicate(), MappedDoorbell(address=4096, width=8, value=0))
        assert held().more_than(before) == ""
