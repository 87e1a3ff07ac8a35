"""Guests on a switch talk with each other, whatever offloads, rings and queues their cards have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from net_guests import Card, NetMachine, Station, Talker, send_file
from switch_rig import Switch

from protocol.virtio import NetFeatures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

_OFFLOADS = (
    *("csum", "gso", "host_tso4", "host_tso6", "host_ecn", "host_ufo"),
    *("guest_csum", "guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo"),
)
_PLAIN = ",".join(f"{name}=off" for name in _OFFLOADS)
_LARGEST_PLAIN = 1514
_FILE_KIB = 384
# QEMU 7.2 without KVM dies by itself when a guest uses MSI-X with vhost-user-net.
_VECTORS = {"qemu-7": ",vectors=0", "qemu-10": ""}


def _machine(switch: Switch, letter: str, part: str, packed: str) -> NetMachine:
    """Return a guest with three cards: with all that there is, with no offloads, and one that has
    to receive large frames without buffers that can be merged."""
    kinds = ((2, f"packed={packed}"), (1, _PLAIN), (1, "mrg_rxbuf=off"))
    cards = [
        Card(
            socket=switch.add(f"{letter}{place}", queue_pairs=pairs),
            mac=_mac(letter, place),
            pairs=pairs,
            options=options + _VECTORS[part],
        )
        for place, (pairs, options) in enumerate(kinds)
    ]
    return NetMachine(part=part, cards=cards)


def _mac(letter: str, place: int) -> str:
    return f"02:00:00:00:{ord(letter):02x}:{place:02x}"


def _settle(guest: Talker, letter: str) -> list[Station]:
    guest.make_data(_FILE_KIB)
    first = 10 * (ord(letter) - ord("a") + 1)
    return [Station.settle(guest, place, _mac(letter, place), first + place) for place in range(3)]


@pytest.mark.parametrize(
    ("part", "packed", "workers"), [("qemu-10", "off", 1), ("qemu-7", "on", 2)]
)
def test_guests_talk_whatever_their_cards_can(
    part: str, packed: str, workers: int, backend: Callable[..., Any], tmp_path: Path
) -> None:
    switch = Switch.start(backend, "--workers", workers)
    ports = [f"{letter}{place}" for letter in "ab" for place in range(3)]
    one = _machine(switch, "a", "qemu-10", "on")
    other = _machine(switch, "b", part, packed)

    with Talker.boot(one, tmp_path / "a") as a, Talker.boot(other, tmp_path / "b") as b:
        here, there = _settle(a, "a"), _settle(b, "b")
        for station in (*here, *there):
            _has_what_it_should(station)
        for near, far in zip(here, reversed(there), strict=True):
            near.ping(far.ip, count=3, size=20_000)
            near.ping(far.ip6)
        for near in here:
            for far in there:
                send_file(near, far)
                send_file(far, near, address=near.ip6)
        send_file(here[0], here[1])
        _tagged_frames_pass(here[0], there[1])
        known = switch.addresses()
        counted = {
            name: switch.counted(name)
            for name in [f"{g}{place}" for g in "ab" for place in range(3)]
        }
        a.finish()
        b.finish()

    assert {_mac(name[0], int(name[1])): name for name in ports}.items() <= known.items()
    for name, found in counted.items():
        plain = name.endswith("1")
        assert (found.segments > 0) == plain, (name, found)
        assert found.drops.keys() <= {"no-buffer", "no-receiver"}, (name, found)
        if plain:
            assert found.received_bytes <= found.received * _LARGEST_PLAIN, (name, found)
    for name in ("a0", "a2", "b0", "b2"):
        # Frames of more than a packet go through as they are.
        assert counted[name].sent_bytes > counted[name].sent * _LARGEST_PLAIN, counted[name]
    switch.served.terminate()


def _has_what_it_should(station: Station) -> None:
    offloads = {
        feature.bit_length() - 1
        for feature in (NetFeatures.CSUM, NetFeatures.HOST_TSO4, NetFeatures.GUEST_TSO6)
    }
    several = {NetFeatures.MQ.bit_length() - 1}
    merged = NetFeatures.MRG_RXBUF.bit_length() - 1
    assert station.pairs == (2 if station.place == 0 else 1)
    assert (several <= station.features) == (station.place == 0)
    assert (offloads & station.features) == (set() if station.place == 1 else offloads)
    assert (merged in station.features) == (station.place != 2)


def _tagged_frames_pass(one: Station, other: Station) -> None:
    """VLAN 5 of the one is VLAN 5 of the other, and no other."""
    for station in (one, other):
        station.run("ip link add link eth0 name v5 type vlan id 5")
        station.run(f"ip addr add 10.5.0.{station.number}/24 dev v5 && ip link set v5 up")
    one.ping(f"10.5.0.{other.number}")
    send_file(one, other, address=f"10.5.0.{other.number}")
    other.run("ip link del v5 && ip link add link eth0 name v6 type vlan id 6")
    other.run(f"ip addr add 10.5.0.{other.number}/24 dev v6 && ip link set v6 up")
    one.run(f"! ping -q -c 1 -W 1 10.5.0.{other.number}")
