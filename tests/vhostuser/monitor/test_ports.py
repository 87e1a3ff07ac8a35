"""The control socket of a switch: ports are added, looked at and removed while frames flow."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio
from control_rig import controlling, guest_at
from net_rig import BROADCAST, frame

from vhostuser.devices import NET_DROPS
from vhostuser.monitor import Monitor
from vhostuser.monitor.common import Which
from vhostuser.monitor.ports import PORT_COMMANDS, query_ports
from vhostuser.switch import PortConfig, PortSet, SwitchConfig

MACS = [bytes.fromhex(f"0200000000{number:02x}") for number in range(1, 3)]


@contextlib.asynccontextmanager
async def monitored(tmp_path):
    """A switch with one port, and a client of its control socket."""
    with trio.fail_after(30):
        async with PortSet.open(SwitchConfig()) as ports:
            await ports.add(PortConfig(id="one", socket_path=tmp_path / "one"))
            monitor = Monitor(tmp_path / "control", ports, lambda: None, PORT_COMMANDS)
            ports.notify = monitor.emit
            async with trio.open_nursery() as nursery:
                nursery.start_soon(monitor.run)
                async with controlling(tmp_path / "control") as client:
                    yield client
                nursery.cancel_scope.cancel()


async def test_ports_are_added_and_removed_by_command_while_frames_flow(tmp_path):
    async with monitored(tmp_path) as client, guest_at(tmp_path / "one") as one:
        added = await client.ask(
            "port-add", id="two", socket_path=str(tmp_path / "two"), mac="02:00:00:00:00:02"
        )
        assert added == {"id": "two", "number": 1}
        async with guest_at(tmp_path / "two") as two:
            for number in range(3):
                await one.send(frame(BROADCAST, MACS[0], number))
                assert (await two.receive()).data == frame(BROADCAST, MACS[0], number)
            (served,) = await client.ask("query-connections", id="two")
            assert (served["id"], served["device"]) == ("two", "net")
            (features,) = await client.ask("query-features", id="two")
            assert {"GUEST_TSO4", "RING_PACKED"} <= set(features["offered"]["virtio"])
            assert await client.ask("port-remove", id="two") == {}
            await one.send(frame(BROADCAST, MACS[0], 4))
        assert not (tmp_path / "two").exists()
        assert [port["id"] for port in await client.ask("query-ports")] == ["one"]
        events = [(each["event"], each["data"]["id"]) for each in client.events]
        assert [each for each in events if each[1] == "two"] == [
            ("PORT_ADDED", "two"),
            ("CONNECTED", "two"),
            ("DISCONNECTED", "two"),
            ("PORT_REMOVED", "two"),
        ]


async def test_ports_tell_what_went_through_them(tmp_path):
    async with monitored(tmp_path) as client:
        await client.ask("port-add", id="two", socket_path=str(tmp_path / "two"))
        async with guest_at(tmp_path / "one") as one, guest_at(tmp_path / "two") as two:
            await one.send(frame(BROADCAST, MACS[0], size=60))
            await two.receive()
            await two.send(frame(MACS[0], MACS[1], size=600))
            await one.receive()
            await two.send(bytes(5))
            first, second = await client.ask("query-ports")
            assert (first["id"], first["number"], first["tap"]) == ("one", 0, None)
            assert (first["pairs"], first["pairs-used"], first["link"]) == (1, 1, True)
            assert first["mac"] == "02:00:00:00:00:00"
            assert first["config"]["socket-path"] == str(tmp_path / "one")
            receive, send = first["rings"]
            assert (receive["direction"], send["direction"]) == ("receive", "send")
            assert (receive["frames"], receive["bytes"], receive["drops"]) == (1, 600, {})
            assert (send["frames"], send["bytes"]) == (1, 60)
            assert send["kicks"] >= 0
            assert receive["calls"] + receive["calls-suppressed"] >= 1
            assert second["rings"][1]["drops"] == {"length": 1}
            known = await client.ask("query-addresses")
            assert [(each["mac"], each["id"]) for each in known] == [
                ("02:00:00:00:00:01", "one"),
                ("02:00:00:00:00:02", "two"),
            ]
            assert all(each["age"] < 30 for each in known)
            rings = await client.ask("query-rings", id="one")
            assert [ring["started"] for ring in rings] == [True, True, False]


async def test_paths_are_told_whole_however_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with PortSet.open(SwitchConfig()) as ports:
        await ports.add(PortConfig(id="made", socket_path=Path("made")))
        await ports.add(PortConfig(id="sought", connect=Path("sought")))
        made, sought = await query_ports(ports, Which())
    assert made["config"]["socket-path"] == str(tmp_path / "made")
    assert sought["config"]["connect"] == str(tmp_path / "sought")


async def test_a_cable_is_pulled_and_an_address_announced_by_command(tmp_path):
    async with monitored(tmp_path) as client:
        await client.ask("port-add", id="two", socket_path=str(tmp_path / "two"))
        async with guest_at(tmp_path / "one") as one, guest_at(tmp_path / "two") as two:
            await client.ask("port-announce", id="one", mac="02:00:00:00:00:09")
            assert (await two.receive()).data[6:12] == bytes.fromhex("020000000009")
            await client.ask("port-set-link", id="one", up=False)
            await one.send(frame(BROADCAST, MACS[0]))
            (port,) = await client.ask("query-ports", id="one")
            assert (port["link"], port["rings"][1]["drops"]) == (False, {"link": 1})
            await client.ask("port-set-link", id="one", up=True)
            await one.send(frame(BROADCAST, MACS[0]))
            assert (await two.receive()).data == frame(BROADCAST, MACS[0])
        links = [each["data"] for each in client.events if each["event"] == "PORT_LINK"]
        assert links == [{"id": "one", "up": False}, {"id": "one", "up": True}]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("port-add", {"id": "one", "socket-path": "/s"}, "there is a port 'one' already"),
        ("port-add", {"id": "two"}, "where does the port lead? Give --tap NAME, --socket-path"),
        ("port-add", {"id": "two", "fd": 0}, "fd: there is no such argument"),
        ("port-add", {"id": "two", "socket-path": "s"}, "socket-path: an absolute path is exp"),
        ("port-add", {"id": "two", "tap": "t", "bridge": "no-such-br0"}, "there is no bridge no-"),
        ("port-remove", {"id": "two"}, "there is no port 'two'; there are one"),
        ("port-set-link", {"id": "one"}, "up: is missing"),
        ("port-set-link", {"id": "two", "up": True}, "there is no port 'two'; there are one"),
        ("port-announce", {"id": "two"}, "there is no port 'two'; there are one"),
        ("port-announce", {"id": "one", "mac": "ff:ff:ff:ff:ff:ff"}, "an address of one device"),
        ("query-ports", {"id": "two"}, "there is no port 'two'; there are one"),
        ("disk-add", {"id": "two"}, "the command disk-add has not been found"),
    ],
)
async def test_what_a_command_cannot_do_is_an_error_with_a_hint(tmp_path, name, arguments, text):
    async with monitored(tmp_path) as client:
        assert text in (await client.execute(name, arguments=arguments))["error"]["desc"]
        assert [port["id"] for port in await client.ask("query-ports")] == ["one"]


async def test_without_a_mac_the_only_address_is_announced_that_the_guest_has_shown(tmp_path):
    async with monitored(tmp_path) as client:
        await client.ask("port-add", id="two", socket_path=str(tmp_path / "two"))
        async with guest_at(tmp_path / "one") as one, guest_at(tmp_path / "two") as two:
            answer = await client.execute("port-announce", arguments={"id": "one"})
            assert "Give mac: none is known at this port" in answer["error"]["desc"]
            for mac in MACS:
                await one.send(frame(BROADCAST, mac))
                assert (await two.receive()).data == frame(BROADCAST, mac)
                if mac == MACS[0]:
                    await client.ask("port-announce", id="one")
                    announced = (await two.receive()).data
                    assert (announced[6:12], announced[12:14]) == (mac, b"\x80\x35")
            answer = await client.execute("port-announce", arguments={"id": "one"})
            assert "Give mac: several are known at this port" in answer["error"]["desc"]


async def test_a_port_s_mac_is_announced_without_a_word_of_the_guest(tmp_path):
    async with monitored(tmp_path) as client:
        path = str(tmp_path / "two")
        await client.ask("port-add", id="two", socket_path=path, mac="02:00:00:00:00:02")
        async with guest_at(tmp_path / "one") as one, guest_at(tmp_path / "two"):
            await client.ask("port-announce", id="two")
            assert (await one.receive()).data[6:12] == MACS[1]


async def test_a_locked_port_announces_no_other_address(tmp_path):
    async with monitored(tmp_path) as client:
        path = str(tmp_path / "two")
        arguments = {"id": "two", "socket-path": path, "mac": "02:00:00:00:00:02", "lock-mac": True}
        assert "return" in await client.execute("port-add", arguments=arguments)
        arguments = {"id": "two", "mac": "02:00:00:00:00:03"}
        answer = await client.execute("port-announce", arguments=arguments)
        assert "the port is locked to 02:00:00:00:00:02" in answer["error"]["desc"]


async def test_every_reason_to_drop_is_in_the_reference():
    for name in NET_DROPS:
        assert f"`{name.replace('_', '-')}`" in PORT_COMMANDS["query-ports"].returns
