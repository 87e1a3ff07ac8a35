"""The control socket: the wire, the commands, and clients that misbehave."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing
from control_rig import controlling
from hypothesis import given, settings
from hypothesis import strategies as st

from vhostuser.disks import DiskConfig, DiskSet, ServedKind
from vhostuser.errors import StoreError
from vhostuser.monitor import Monitor
from vhostuser.monitor.common import Which
from vhostuser.monitor.disks import DISK_COMMANDS, query_disks
from vhostuser.monitor.qmp import LONGEST_COMMAND, CommandError, Splitter, parse
from vhostuser.testing import FakeDevice, RawFrontend
from vhostuser.virtqueue import Fault


@contextlib.asynccontextmanager
async def fake_device(_config):
    device = FakeDevice()

    async def resize(size):
        if size >= 1 << 60:
            raise StoreError(errno.ENOSPC, "no room for that")
        return size

    device.resize = resize
    yield device


@contextlib.asynccontextmanager
async def monitored(tmp_path):
    quits = []
    with trio.fail_after(30):
        async with DiskSet.open(kind=ServedKind(open_device=fake_device)) as disks:
            disk = await disks.add(DiskConfig(id="one", socket_path=tmp_path / "socket"))
            monitor = Monitor(
                tmp_path / "control", disks, lambda: quits.append(True), DISK_COMMANDS
            )
            disks.notify = monitor.emit
            async with trio.open_nursery() as nursery:
                nursery.start_soon(monitor.run)
                yield tmp_path, disk.server, quits
                nursery.cancel_scope.cancel()


async def test_a_disk_s_paths_are_told_whole_however_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with DiskSet.open(kind=ServedKind(open_device=fake_device)) as disks:
        config = DiskConfig(id="one", socket_path=Path("socket"), blk_file=Path("image"))
        await disks.add(config)
        (disk,) = await query_disks(disks, Which())
    paths = disk["config"]["socket-path"], disk["config"]["blk-file"]
    assert paths == (str(tmp_path / "socket"), str(tmp_path / "image"))


def connected(folder, *, negotiate=True):
    return controlling(folder / "control", negotiate=negotiate)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(deadline=None)  # the machine may have other things to do
@given(st.lists(st.dictionaries(st.text(), JSON)), st.integers(1, 7), st.sampled_from(["", "\r\n"]))
def test_objects_come_out_whole_however_the_stream_is_cut(objects, size, between):
    data = between.join(json.dumps(each) for each in objects).encode()
    splitter = Splitter()
    got = []
    for start in range(0, len(data), size):
        got += splitter.feed(data[start : start + size])
    assert [json.loads(each) for each in got] == objects
    assert splitter.held == 0


@settings(deadline=None)  # the machine may have other things to do
@given(st.binary())
def test_any_bytes_are_a_command_or_an_error(data):
    splitter = Splitter()
    for each in splitter.feed(data + b"\n"):
        with contextlib.suppress(CommandError):
            parse(each)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"hello", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "a command is"),
        (b'{"execute": 3}', "a command is"),
        (b'{"execute": "x", "arguments": []}', "'arguments' is an object"),
        (b'{"execute": "x", "extra": 1}', "unknown member 'extra'"),
    ],
)
def test_what_is_no_command_is_refused_with_a_hint(text, error):
    with pytest.raises(CommandError, match=error):
        parse(text)


async def test_nothing_is_executed_before_the_negotiation(tmp_path):
    async with monitored(tmp_path) as (folder, _, _), connected(folder, negotiate=False) as client:
        answer = await client.execute("query-rings", id=7)
        assert answer["error"]["class"] == "CommandNotFound"
        assert answer["id"] == 7


async def test_queries_tell_of_the_connected_front_end(tmp_path):
    async with (
        monitored(tmp_path) as (folder, server, _),
        connected(folder) as client,
        RawFrontend.connect(folder / "socket") as raw,
    ):
        await raw.ask(1)
        (connection,) = (await client.execute("query-connections"))["return"]
        assert connection["process"] == os.getpid()
        assert connection["connection"] == server.connection.number
        features = (await client.execute("query-features"))["return"]
        (features,) = features
        assert "RING_PACKED" in features["offered"]["virtio"]
        assert features["negotiated"]["virtio"] == []
        rings = (await client.execute("query-rings"))["return"]
        assert [ring["ring"] for ring in rings] == [0, 1]
        assert rings[0]["started"] is False
        (memory,) = (await client.execute("query-memory"))["return"]
        assert memory["regions"] == []
        names = {entry["name"] for entry in (await client.execute("query-commands"))["return"]}
        assert {"quit", "query-version"} <= names


async def test_unknown_commands_and_arguments_are_errors(tmp_path):
    async with monitored(tmp_path) as (folder, _, _), connected(folder) as client:
        assert "not been found" in (await client.execute("nonsense"))["error"]["desc"]
        answer = await client.execute("query-rings", arguments={"x": 1})
        assert "x: there is no such argument: there are id" in answer["error"]["desc"]


async def test_events_reach_clients_that_have_negotiated(tmp_path):
    async with monitored(tmp_path) as (folder, server, _), connected(folder) as client:
        async with RawFrontend.connect(folder / "socket") as raw:
            await raw.ask(1)
            assert (await client.read())["event"] == "CONNECTED"
            server.device.datapath.events.ring_broken(1, Fault.NEXT, 9)
            event = await client.read()
            assert (event["event"], event["data"]["ring"]) == ("RING_BROKEN", 1)
            assert set(event["timestamp"]) == {"seconds", "microseconds"}
        assert (await client.read())["event"] == "DISCONNECTED"


async def test_quit_is_answered_before_it_is_done(tmp_path):
    async with monitored(tmp_path) as (folder, _, quits):
        async with connected(folder) as client:
            assert await client.execute("quit") == {"return": {}}
            assert await client.read() is None
        assert quits == [True]


async def test_a_client_that_sends_too_much_loses_its_connection_only(tmp_path, caplog):
    async with monitored(tmp_path) as (folder, _, _), connected(folder) as good:
        async with connected(folder) as bad:
            with contextlib.suppress(trio.BrokenResourceError):
                await bad.stream.send_all(b'{"' + b"x" * (LONGEST_COMMAND + 1))
            assert await bad.read() is None
        assert "return" in await good.execute("query-version")
    assert "a command of over" in caplog.text


async def test_only_the_owner_may_connect_and_the_path_goes_with_the_server(tmp_path):
    async with monitored(tmp_path) as (folder, _, _):
        assert stat.S_IMODE((folder / "control").stat().st_mode) == 0o600
    assert not (tmp_path / "control").exists()


async def test_a_bug_in_a_command_costs_its_client_only(tmp_path, monkeypatch, caplog):
    async def buggy(_disks, _arguments):
        raise ZeroDivisionError("a bug")

    row = dataclasses.replace(DISK_COMMANDS["query-version"], run=buggy)
    monkeypatch.setitem(DISK_COMMANDS, "query-version", row)
    async with (
        monitored(tmp_path) as (folder, _, _),
        connected(folder) as client,
        connected(folder) as other,
    ):
        await client.stream.send_all(b'{"execute": "query-version"}')
        assert await client.read() is None
        assert "return" in await other.execute("query-rings")
    assert "ZeroDivisionError" in caplog.text


async def test_disks_are_added_resized_and_removed_by_command(tmp_path):
    async with monitored(tmp_path) as (folder, _, _), connected(folder) as client:
        arguments = {"id": "two", "socket-path": str(folder / "two"), "memory": "4M"}
        answer = await client.execute("disk-add", arguments=arguments)
        assert answer["return"]["id"] == "two"
        async with RawFrontend.connect(folder / "two") as raw:
            await raw.ask(1)
            (one, two) = (await client.execute("query-disks"))["return"]
            assert (one["id"], one["connection"]) == ("one", None)
            assert (two["id"], two["config"]["memory"]) == ("two", 4 << 20)
            assert two["connection"] is not None
            (served,) = (await client.execute("query-connections"))["return"]
            assert served["id"] == "two"
            for name in ("query-rings", "query-features", "query-disks"):
                for disk in ("one", "two"):
                    entries = (await client.execute(name, arguments={"id": disk}))["return"]
                    assert {entry["id"] for entry in entries} == {disk}
            resized = await client.execute("block-resize", arguments={"id": "two", "size": "8M"})
            assert resized == {"return": {"id": "two", "size": 8 << 20}}
            assert await client.execute("disk-remove", arguments={"id": "two"}) == {"return": {}}
            assert await raw.reply() is None
        assert not (folder / "two").exists()


async def test_added_resized_and_removed_disks_are_events_and_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO")
    async with monitored(tmp_path) as (folder, _, _), connected(folder) as client:
        async with connected(folder) as other:
            arguments = {"id": "two", "socket-path": str(folder / "two")}
            await other.execute("disk-add", arguments=arguments)
            await other.execute("block-resize", arguments={"id": "two", "size": 1 << 20})
            await other.execute("disk-remove", arguments={"id": "two"})
        events = [await client.read() for _ in range(3)]
        assert [(each["event"], each["data"]["id"]) for each in events] == [
            ("DISK_ADDED", "two"),
            ("BLOCK_RESIZED", "two"),
            ("DISK_REMOVED", "two"),
        ]
        assert events[1]["data"]["size"] == 1 << 20
    assert f"resized: it has {1 << 20} bytes now" in caplog.messages
    assert "removed" in caplog.messages


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("disk-add", {"id": "one", "socket-path": "/s"}, "there is a disk 'one' already"),
        ("disk-add", {"id": "two"}, "where are front-ends?"),
        ("disk-add", {"id": "two", "fd": 0}, "fd: there is no such argument"),
        ("disk-add", {"id": "two", "memory": "big"}, "memory: a size of 512 bytes or more"),
        ("disk-add", {"socket-path": "s"}, "id: is missing"),
        ("disk-remove", {}, "id: is missing"),
        ("disk-remove", {"id": "two"}, "there is no disk 'two'; there are one"),
        ("block-resize", {"id": "two"}, "there is no disk 'two'; there are one"),
        ("block-resize", {"size": -1}, "size: a size of 512 bytes or more"),
        ("block-resize", {"size": 1 << 62}, "no room for that"),
        ("query-rings", {"id": "two"}, "there is no disk 'two'; there are one"),
        ("query-rings", {"id": "\n"}, "id: a name of letters"),
    ],
)
async def test_what_a_command_cannot_do_is_an_error_with_a_hint(tmp_path, name, arguments, text):
    async with monitored(tmp_path) as (folder, _, _), connected(folder) as client:
        error = (await client.execute(name, arguments=arguments))["error"]
        assert error["class"] == "GenericError"
        assert text in error["desc"]
        assert "return" in await client.execute("query-disks")


async def test_a_client_that_does_not_read_gives_up_its_place(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("vhostuser.monitor.monitor._SEND_SECONDS", 0.01)
    async with monitored(tmp_path) as (folder, _, _), connected(folder) as good:
        async with connected(folder) as bad:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await bad.stream.send_all(b'{"execute": "query-commands"}' * 100)
        assert "return" in await good.execute("query-version")
    assert "it reads no answer" in caplog.text


async def test_events_pass_by_a_client_that_leaves_with_answers_unread(tmp_path):
    long = json.dumps({"execute": "query-version", "id": "x" * (LONGEST_COMMAND - 100)}).encode()
    async with monitored(tmp_path) as (folder, server, _), connected(folder) as good:
        async with connected(folder) as bad:
            for _ in range(20):
                await bad.stream.send_all(long)
            await bad.stream.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            server.notify("RING_BROKEN", {"ring": 1})
            assert (await good.read())["event"] == "RING_BROKEN"
        assert "return" in await good.execute("query-version")
