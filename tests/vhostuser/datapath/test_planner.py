"""Who serves a ring, and why: every rule alone, and the words of each refusal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.vhost_user import Uva
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import AcceleratorCapabilities, RingStart
from vhostuser.datapath.planner import Choice, Situation, Way, choose, is_initial, take_over
from vhostuser.virtqueue import RingState

PLAIN = VirtioFeatures.VERSION_1 | VirtioFeatures.IN_ORDER
START = RingStart(
    features=VirtioFeatures.VERSION_1 | VirtioFeatures.PROTOCOL_FEATURES,
    num=64,
    desc=Uva(0),
    driver=Uva(0),
    device=Uva(0),
    state=RingState(avail=0, used=0),
)
HERE = Situation(capabilities=AcceleratorCapabilities(), features=PLAIN, largest=64)
LATER = replace(START, state=RingState(avail=7, used=7))


def test_a_ring_at_its_beginning_is_passed_through():
    assert choose(START, HERE) == Choice(Way.PASSTHROUGH)


def test_a_device_that_takes_positions_is_given_any_ring():
    able = replace(HERE, capabilities=AcceleratorCapabilities(start_at_state=True))
    assert choose(LATER, able) == Choice(Way.PASSTHROUGH)


OBSTACLES = [
    (LATER, {}, "only start at the beginning"),
    (START, {"failed": "it burnt"}, "out of use: it burnt"),
    (START, {"kicked": False}, "no kick fd"),
    (replace(START, num=128), {}, "at most 64 descriptors"),
    (replace(START, features=VirtioFeatures.RING_PACKED), {}, "lacks features 0x400000000"),
    (replace(START, features=VirtioFeatures.ACCESS_PLATFORM), {}, "behind a vIOMMU"),
]


@pytest.mark.parametrize(("start", "change", "words"), OBSTACLES)
def test_what_the_device_cannot_do_is_refused_without_software(start, change, words):
    choice = choose(start, replace(HERE, **change))
    assert choice.way is Way.REFUSAL
    assert words in choice.reason
    assert "no software that reaches its store" in choice.reason


@pytest.mark.parametrize(("start", "change", "words"), OBSTACLES)
def test_what_the_device_cannot_do_the_software_does(start, change, words):
    choice = choose(start, replace(HERE, software=~VirtioFeatures(0), **change))
    assert choice.way is Way.SOFTWARE
    assert words in choice.reason


def test_the_software_must_understand_what_was_negotiated():
    choice = choose(LATER, replace(HERE, software=VirtioFeatures(0)))
    assert choice.way is Way.REFUSAL
    assert "the software lacks features 0x100000000" in choice.reason


def test_nobody_starts_at_a_position_that_is_not_known():
    situation = replace(HERE, software=~VirtioFeatures(0), position_known=False)
    choice = choose(LATER, situation)
    assert choice.way is Way.REFUSAL
    assert "nobody knows where the ring stands" in choice.reason


def test_a_device_that_takes_positions_does_not_take_one_that_is_not_known():
    able = AcceleratorCapabilities(start_at_state=True)
    situation = replace(HERE, capabilities=able, position_known=False)
    assert choose(LATER, situation).way is Way.REFUSAL
    assert choose(START, situation).way is Way.PASSTHROUGH, "the driver was reset meanwhile"


def test_a_device_that_maps_on_a_miss_serves_a_guest_behind_a_viommu():
    able = replace(
        HERE,
        capabilities=AcceleratorCapabilities(maps_on_miss=True),
        features=PLAIN | VirtioFeatures.ACCESS_PLATFORM,
    )
    start = replace(START, features=START.features | VirtioFeatures.ACCESS_PLATFORM)
    assert choose(start, able).way is Way.PASSTHROUGH


@pytest.mark.parametrize(
    ("state", "features", "initial"),
    [
        (RingState(avail=0, used=0), VirtioFeatures(0), True),
        (RingState(avail=1, used=0), VirtioFeatures(0), False),
        (RingState(avail=0, used=0), VirtioFeatures.RING_PACKED, True),
        (RingState(avail=0, used=0, avail_wrap=False), VirtioFeatures.RING_PACKED, False),
        (RingState(avail=0, used=3), VirtioFeatures.RING_PACKED, False),
    ],
)
def test_where_rings_begin(state, features, initial):
    assert is_initial(state, features) is initial


DEAD = replace(HERE, failed="it burnt", software=~VirtioFeatures(0))
USED = RingState(avail=9, used=9)


@pytest.mark.parametrize(
    ("features", "used", "idle", "way", "words"),
    [
        (START.features, USED, True, Way.SOFTWARE, "it burnt"),
        (START.features, USED, False, Way.REFUSAL, "without IN_ORDER"),
        (START.features | VirtioFeatures.IN_ORDER, USED, False, Way.SOFTWARE, "it burnt"),
        (START.features | VirtioFeatures.IN_ORDER, None, False, Way.REFUSAL, "nobody knows which"),
    ],
)
def test_who_goes_on_after_a_failure(features, used, idle, way, words):
    choice = take_over(replace(START, features=features), DEAD, used=used, idle=idle)
    assert choice.way is way
    assert words in choice.reason


def test_nobody_goes_on_without_software():
    choice = take_over(START, replace(DEAD, software=None), used=USED, idle=True)
    assert choice.way is Way.REFUSAL
