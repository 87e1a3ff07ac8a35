"""The host reaches itself through TAP devices and our switch, from namespace to namespace."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from namespaces import namespace
from parts.require import require
from tap_rig import tap_switch, two_stations
from transfers import exchange_datagrams, transfer

pytestmark = pytest.mark.interop

_MIB = 1 << 20
_MTU_FRAME = 1514
_BOTH_ADDRESSES = ("10.9.0.2", "fd09::2")


@pytest.fixture(autouse=True)
def _namespaces():
    require("namespaces")


def _longest(ring):
    """Bytes of a frame of this ring, on the average: at least one was as long."""
    return ring["bytes"] / ring["frames"]


@pytest.mark.parametrize("offloads", ["both", "left", "right", "neither"])
def test_files_cross_whole_both_ways_whoever_has_offloads(offloads):
    with two_stations() as (switch, left, right):
        left.set_offloads("left", on=offloads in {"both", "left"})
        right.set_offloads("right", on=offloads in {"both", "right"})

        for address in _BOTH_ADDRESSES:
            transfer(left, right, address, 8 * _MIB)
            transfer(right, left, address.replace("2", "1"), 8 * _MIB)
        from_left, from_right = switch.sent(0)[0], switch.sent(1)[0]

        assert (_longest(from_left) > _MTU_FRAME) == (offloads in {"both", "left"})
        assert (_longest(from_right) > _MTU_FRAME) == (offloads in {"both", "right"})
        for ring in (from_left, from_right):
            assert ring["drops"]["header"] == ring["drops"]["offload"] == 0, ring


@pytest.mark.parametrize("at_once", [False, True], ids=["one-by-one", "cut-on-the-way"])
@pytest.mark.parametrize("address", _BOTH_ADDRESSES)
def test_datagrams_arrive_as_they_were_sent(address, at_once):
    with two_stations() as (switch, left, right):
        exchange_datagrams(left, right, address, at_once=at_once)

        assert all(ring["drops"]["offload"] == 0 for ring in switch.received(1))


@pytest.mark.parametrize("how", [[], ["--reverse"]], ids=["there", "back"])
def test_iperf3_gets_through_on_many_connections_and_queues(how):
    iperf = require("iperf3") / "iperf3"
    with two_stations(queues=2, count=2) as (switch, left, right):
        serving = right.start([iperf, "--server", "--one-off", "--forceflush"], stdout=-1)
        with serving:
            try:
                assert serving.stdout is not None
                while "listening" not in serving.stdout.readline():
                    pass
                command = [
                    iperf,
                    "--client",
                    "10.9.0.2",
                    "--parallel",
                    16,
                    "--bytes",
                    "64M",
                    "--json",
                ]
                report = json.loads(left.run(*command, *how))
            finally:
                serving.kill()

        assert report["end"]["sum_received"]["bytes"] >= 63 * _MIB, report["end"]
        for number in (0, 1):
            for ring in (*switch.sent(number), *switch.received(number)):
                assert ring["frames"] > 0, "all queues of both have had a part in it"


def test_a_frame_for_one_station_is_not_shown_to_a_third():
    taps = [{"name": name} for name in ("a", "b", "c")]
    with namespace() as a, namespace() as b, namespace() as c, tap_switch(*taps) as switch:
        for number, (station, name) in enumerate(((a, "a"), (b, "b"), (c, "c")), 1):
            station.take(name, switch.home, f"10.9.0.{number}/24")
        transfer(c, a, "10.9.0.1", 100)  # so that all are known
        transfer(a, b, "10.9.0.2", 100)
        before = switch.received(2)[0]["bytes"]

        transfer(a, b, "10.9.0.2", _MIB)

        assert switch.received(2)[0]["bytes"] - before < _MIB // 10
        assert switch.received(1)[0]["bytes"] > _MIB


def test_all_stations_get_a_broadcast():
    taps = [{"name": name} for name in ("a", "b", "c")]
    with namespace() as a, namespace() as b, namespace() as c, tap_switch(*taps) as switch:
        for number, (station, name) in enumerate(((a, "a"), (b, "b"), (c, "c")), 1):
            station.take(name, switch.home, f"10.9.0.{number}/24")
        with (
            a.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
            b.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
            c.socket(socket.AF_INET, socket.SOCK_DGRAM) as third,
        ):
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for receiving in (second, third):
                receiving.bind(("10.9.0.255", 4000))
                receiving.settimeout(30)
            sending.sendto(b"to all of you", ("10.9.0.255", 4000))
            assert second.recv(100) == third.recv(100) == b"to all of you"


def test_a_tap_in_a_bridge_reaches_what_is_behind_the_bridge():
    taps = [{"name": "inside", "bridge": "br7", "mtu": 1400}, {"name": "outside"}]
    with namespace() as station, namespace() as home:
        home.ip("link add br7 type bridge")
        home.set_up("br7", "10.9.0.1/24")
        with tap_switch(*taps, home=home) as switch:
            assert switch.home.link("inside")["master"] == "br7"
            assert switch.home.link("inside")["mtu"] == 1400
            station.take("outside", switch.home, "10.9.0.2/24")

            transfer(home, station, "10.9.0.2", _MIB)
            transfer(station, home, "10.9.0.1", _MIB)


def _epolled(pid):
    """The files that a process waits for by epoll."""
    found = []
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        lines = info.read_text().splitlines()
        found += [int(line.split()[1]) for line in lines if line.startswith("tfd:")]
    return found


def _tap_files(pid):
    folder = Path(f"/proc/{pid}/fd")
    return [int(fd.name) for fd in folder.iterdir() if str(fd.readlink()) == "/dev/net/tun"]


def test_a_device_that_is_removed_ends_its_port_and_nothing_else():
    taps = [{"name": "a", "queues": 2}, {"name": "b"}, {"name": "c"}]
    with namespace() as a, namespace() as b, namespace() as c, tap_switch(*taps) as switch:
        for number, (station, name) in enumerate(((a, "a"), (b, "b"), (c, "c")), 1):
            station.take(name, switch.home, f"10.9.0.{number}/24")
        transfer(a, b, "10.9.0.2", 100)
        transfer(c, b, "10.9.0.2", 100)

        a.ip("link del dev a")

        assert switch.hear() == {"removed": "a", "link_up": False, "number": 0}
        transfer(b, c, "10.9.0.3", _MIB)
        addresses = switch.ask("counters")["addresses"]
        assert {port for _, port in addresses} == {1, 2}, "those of the dead port are forgotten"
        pid = switch.process.pid
        waited_for = set(_epolled(pid)) & set(_tap_files(pid))
        assert len(waited_for) == 2, "nobody waits for a file that is ready for ever"


def test_a_pulled_cable_shows_at_the_host_and_stops_frames_until_it_is_back():
    with two_stations() as (switch, left, right):
        transfer(left, right, "10.9.0.2", 100)
        switch.ask("down 1")
        assert right.link("right")["operstate"] == "DOWN"
        switch.ask("up 1")
        assert right.link("right")["operstate"] != "DOWN"
        transfer(left, right, "10.9.0.2", _MIB)


def test_an_address_is_announced_to_the_others():
    with two_stations() as (switch, _left, right):
        with right.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035)) as hearing:
            hearing.bind(("right", 0x8035))
            hearing.settimeout(30)
            switch.ask("announce 0")
            frame = hearing.recv(100)

        assert frame[:14] == bytes.fromhex("ffffffffffff 020000000042 8035")
        assert ["02:00:00:00:00:42", 0] in switch.ask("counters")["addresses"]


def test_a_device_of_roots_stays_and_can_be_used_again():
    with namespace() as home:
        home.ip("tuntap add dev kept mode tap vnet_hdr multi_queue")
        for queues in (1, 2):
            with tap_switch({"name": "kept", "queues": queues}, home=home):
                assert home.link("kept")["flags"].count("UP") == 1
        assert "LOWER_UP" not in home.link("kept")["flags"]


def test_devices_without_a_name_get_one_each_and_vanish():
    with namespace() as home:
        with tap_switch({}, {"queues": 3}, home=home):
            names = sorted(_names(home))
            assert len(names) == 2
        assert _names(home) == []


def _names(home):
    links = json.loads(home.run("ip", "-j", "link"))
    return [link["ifname"] for link in links if link["ifname"] != "lo"]


def test_a_worker_that_polls_serves_a_tap_too():
    with two_stations(busy_poll=True) as (_switch, left, right):
        transfer(left, right, "10.9.0.2", _MIB)
        transfer(right, left, "10.9.0.1", _MIB)
