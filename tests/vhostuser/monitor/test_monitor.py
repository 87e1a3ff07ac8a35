"""The control socket: the wire, the commands, and clients that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import stat

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from vhostuser.monitor import Monitor
from vhostuser.monitor.commands import COMMANDS
from vhostuser.monitor.qmp import LONGEST_COMMAND, CommandError, Splitter, parse
from vhostuser.testing import FakeDevice, RawFrontend, serving
from vhostuser.virtqueue import Fault


class Client:
    def __init__(self, stream):
        self.stream = stream
        self.buffer = b""

    async def read(self):
        while b"\n" not in self.buffer:
            more = await self.stream.receive_some()
            if not more:
                return None
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    async def execute(self, name, **members):
        await self.stream.send_all(json.dumps({"execute": name, **members}).encode())
        while "event" in (answer := await self.read()):
            pass
        return answer


@contextlib.asynccontextmanager
async def monitored(tmp_path):
    quits = []
    with trio.fail_after(30):
        async with serving(tmp_path / "socket", FakeDevice()) as server:
            monitor = Monitor(tmp_path / "control", server, lambda: quits.append(True))
            server.notify = monitor.emit
            async with trio.open_nursery() as nursery:
                nursery.start_soon(monitor.run)
                yield tmp_path, server, quits
                nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def connected(folder, *, negotiate=True):
    async with await trio.open_unix_socket(os.fspath(folder / "control")) as stream:
        client = Client(stream)
        assert "QMP" in await client.read()
        if negotiate:
            assert await client.execute("qmp_capabilities") == {"return": {}}
        yield client


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), JSON)), st.integers(1, 7), st.sampled_from(["", "\r\n"]))
def test_objects_come_out_whole_however_the_stream_is_cut(objects, size, between):
    data = between.join(json.dumps(each) for each in objects).encode()
    splitter = Splitter()
    got = []
    for start in range(0, len(data), size):
        got += splitter.feed(data[start : start + size])
    assert [json.loads(each) for each in got] == objects
    assert splitter.held == 0


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
        assert "RING_PACKED" in features["offered"]["virtio"]
        assert features["negotiated"][0]["virtio"] == []
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
        assert "no argument 'x'" in answer["error"]["desc"]


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
    def buggy(_server):
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(COMMANDS, "query-version", buggy)
    async with (
        monitored(tmp_path) as (folder, _, _),
        connected(folder) as client,
        connected(folder) as other,
    ):
        await client.stream.send_all(b'{"execute": "query-version"}')
        assert await client.read() is None
        assert "return" in await other.execute("query-rings")
    assert "ZeroDivisionError" in caplog.text
