"""The ports of a switch in one process: added, removed and failing one by one."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
import trio
from control_rig import guest_at
from net_rig import BROADCAST, frame

from protocol.virtio import NET_CONFIG_SIZE, NetConfig
from vhostuser.errors import TapError, UsageError
from vhostuser.switch import PortConfig, PortSet, SwitchConfig
from vhostuser.testing import RawFrontend

GET_FEATURES = 1
SECONDS = 30
MACS = [bytes.fromhex(f"0200000000{number:02x}") for number in range(1, 4)]


class Events(list):
    def __call__(self, name, data):
        self.append((name, dict(data)))

    def of(self, identity):
        return [name for name, data in self if data["id"] == identity]


@contextlib.asynccontextmanager
async def port_set(**options):
    with trio.fail_after(SECONDS):
        async with PortSet.open(SwitchConfig(**options)) as ports:
            ports.notify = Events()
            yield ports


def at(path, identity, **options):
    return PortConfig(id=identity, socket_path=path / identity, **options)


async def left(port):
    """Wait until the front-end that has just gone is left."""
    while port.server.connection is not None:
        await trio.lowlevel.checkpoint()


async def test_ports_come_and_go_while_others_exchange_frames(tmp_path):
    async with port_set() as ports:
        for name in ("a", "b"):
            await ports.add(at(tmp_path, name))
        async with guest_at(tmp_path / "a") as one, guest_at(tmp_path / "b") as other:
            hello = frame(BROADCAST, MACS[0])
            await one.send(hello)
            assert (await other.receive()).data == hello
            added = await ports.add(at(tmp_path, "c"))
            async with guest_at(tmp_path / "c") as third:
                for number in range(3):
                    await one.send(frame(BROADCAST, MACS[0], number))
                    for guest in (other, third):
                        got = await guest.receive()
                        assert got.data == frame(BROADCAST, MACS[0], number)
            await left(added)
            await ports.remove("c")
            assert not (tmp_path / "c").exists()
            answer = frame(MACS[0], MACS[1], 9)
            await other.send(answer)
            assert (await one.receive()).data == answer
            known = {entry.mac: entry.port for entry in ports.switch.addresses()}
            assert known == {MACS[0]: 0, MACS[1]: 1}
        assert ports.notify.of("c") == [
            *["PORT_ADDED", "CONNECTED", "DISCONNECTED", "PORT_REMOVED"],
        ]
    assert list(tmp_path.iterdir()) == []


async def test_a_port_that_is_removed_leaves_its_front_end_and_its_name_and_number(tmp_path):
    async with port_set(workers=2) as ports:
        await ports.add(at(tmp_path, "a", mac=MACS[0]))
        async with RawFrontend.connect(tmp_path / "a") as raw:
            await raw.ask(GET_FEATURES)
            await ports.remove("a")
            assert await raw.reply() is None
        again = await ports.add(at(tmp_path, "a", mac=MACS[0]))
        assert again.port.number == 0
        assert again.facts == {"number": 0}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"id": "a"}, UsageError, "there is a port 'a' already"),
        ({"socket_path": "a"}, UsageError, "is the socket of port 'a': choose another"),
        ({"socket_path": "no/folder"}, UsageError, "make the folder"),
        ({"socket_path": None}, UsageError, "where does the port lead"),
        (
            {"socket_path": None, "tap": "tap0"},
            UsageError,
            "tap0 is the TAP device of port 't', too",
        ),
        ({"mac": MACS[0]}, UsageError, "mac: port 'a' has the same address: each needs its own"),
        ({"socket_path": None, "tap": "no-right"}, TapError, "no right to make no-right"),
    ],
)
async def test_a_port_that_cannot_be_added_changes_nothing(tmp_path, taps, options, error, text):
    values = {"id": "b", "socket_path": "b"} | options
    if values["socket_path"]:
        values["socket_path"] = tmp_path / values["socket_path"]
    async with port_set() as ports:
        await ports.add(at(tmp_path, "a", mac=MACS[0]))
        await ports.add(PortConfig(id="t", tap="tap0"))
        before = sorted(tmp_path.iterdir())
        with pytest.raises(error, match=text):
            await ports.add(PortConfig(**values))
        assert [port.id for port in ports.members] == ["a", "t"]
        assert sorted(ports.switch.ports) == [0, 1]
        assert sorted(tmp_path.iterdir()) == before
        assert ports.notify.of("b") == []


async def test_a_port_that_fails_ends_alone_and_says_so(tmp_path, caplog):
    async with port_set() as ports:
        await ports.add(at(tmp_path, "good"))
        bad = await ports.add(at(tmp_path, "bad"))
        bad.server.endpoint._socket.close()  # the host takes its socket away
        await bad.ended.wait()
        assert [port.id for port in ports.members] == ["good"]
        assert ports.notify[-1] == ("PORT_REMOVED", {"id": "bad", "reason": "failed"})
        await ports.add(at(tmp_path, "other"))
        async with guest_at(tmp_path / "good") as one, guest_at(tmp_path / "other") as other:
            await one.send(frame(BROADCAST, MACS[0]))
            assert (await other.receive()).data == frame(BROADCAST, MACS[0])
    assert "failed" in caplog.text


async def test_a_port_whose_tap_is_gone_ends_alone(tmp_path, taps, caplog):
    caplog.set_level("INFO")
    async with port_set() as ports:
        await ports.add(at(tmp_path, "a"))
        port = await ports.add(PortConfig(id="t", tap="tap0", queue_pairs=2, bridge="br0"))
        assert (port.server, port.device, port.port.pairs) == (None, None, 2)
        assert "serving port 1 with 2 queue pairs on TAP tap0 in bridge br0" in caplog.messages
        port.tap.removed.set()
        await port.ended.wait()
        assert ports.notify[-1] == ("PORT_REMOVED", {"id": "t", "reason": "ended"})
        assert "ended: its TAP device is gone" in caplog.messages
        assert sorted(ports.switch.ports) == [0]


async def test_the_set_is_finished_when_the_last_port_ended_by_itself(taps):
    async with port_set() as ports:
        port = await ports.add(PortConfig(id="t", tap="tap0"))
        port.tap.removed.set()
        await ports.finished()


async def test_a_pulled_cable_is_seen_by_whoever_is_at_the_port(tmp_path, taps, caplog):
    caplog.set_level("INFO")
    async with port_set() as ports:
        guest = await ports.add(at(tmp_path, "a"))
        host = await ports.add(PortConfig(id="t", tap="tap0"))
        for identity in ("a", "t"):
            await ports.set_link(identity, up=False)
        assert (guest.port.link_up, host.port.link_up, host.tap.carrier) == (False,) * 3
        assert guest.device.status == 0
        await ports.set_link("a", up=True)
        assert guest.port.link_up
        assert ports.notify[-3:] == [
            ("PORT_LINK", {"id": "a", "up": False}),
            ("PORT_LINK", {"id": "t", "up": False}),
            ("PORT_LINK", {"id": "a", "up": True}),
        ]
        with pytest.raises(UsageError, match="there is no port 'x'; there are a, t"):
            await ports.set_link("x", up=True)
    assert caplog.messages.count("the link is down now") == 2


async def test_what_is_announced_is_known_at_the_port(tmp_path):
    async with port_set() as ports:
        for name in ("a", "b"):
            await ports.add(at(tmp_path, name))
        async with guest_at(tmp_path / "a"), guest_at(tmp_path / "b") as other:
            ports.find("a").announce(MACS[2])
            heard = (await other.receive()).data
            assert (heard[:6], heard[6:12], heard[12:14]) == (BROADCAST, MACS[2], b"\x80\x35")
            (entry,) = ports.switch.addresses()
            assert (entry.mac, ports.by_number(entry.port).id) == (MACS[2], "a")
            assert ports.by_number(7) is None


async def test_sockets_of_the_service_manager_are_ports_by_name(tmp_path):
    ours, theirs = socket.socketpair()
    number = theirs.detach()
    os.set_inheritable(number, True)  # noqa: FBT003 - no keyword
    async with port_set() as ports:
        ports.inherited = {"given": number}
        port = await ports.add(PortConfig(id="given"))
        assert ports.inherited == {}
        ours.close()
        await port.ended.wait()
        await ports.finished()


@pytest.mark.parametrize("mode", ["echo", "sink", "source"])
async def test_a_mode_is_every_ports_own_business(tmp_path, mode):
    async with port_set(mode=mode, frame_size=100) as ports:
        port = await ports.add(at(tmp_path, "a"))
        async with guest_at(tmp_path / "a") as guest:
            sent = frame(BROADCAST, MACS[0])
            await guest.send(sent)
            if mode == "echo":
                assert (await guest.receive()).data == sent
            elif mode == "source":
                assert len((await guest.receive()).data) == 100
            received, sending = port.port.counters()
            assert sending.drops["sunk"] == (mode != "echo")
            assert bool(received.frames) == (mode != "sink")


async def test_options_reach_port_and_device(tmp_path):
    async with port_set() as ports:
        config = at(
            tmp_path,
            "a",
            mac=MACS[2],
            lock_mac=True,
            queue_pairs=3,
            queue_size=256,
            mtu=9000,
            speed=25_000,
        )
        port = await ports.add(config)
        profile = port.device.profile
        assert (profile.queues, profile.queue_size, profile.mtu) == (7, 256, 9000)
        assert await port.device.read_config(0, NET_CONFIG_SIZE) == bytes(
            NetConfig(
                mac=MACS[2], status=1, max_virtqueue_pairs=3, mtu=9000, speed=25_000, duplex=1
            )
        )
        assert (port.mac, port.port.pairs) == (MACS[2], 3)
        async with guest_at(tmp_path / "a") as guest:
            await guest.send(frame(BROADCAST, MACS[0]))
        assert port.port.counters()[1].drops["spoofed"] == 1
