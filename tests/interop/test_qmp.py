"""The control socket, driven by QEMU's own QMP client library."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

from vhostuser.testing.guest import disk_arguments, machine_arguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.interop


@contextlib.asynccontextmanager
async def _client(control: Path) -> AsyncIterator[QMPClient]:
    client = QMPClient("interop")
    await client.connect(str(control))
    try:
        yield client
    finally:
        with contextlib.suppress(EOFError):  # after quit
            await client.disconnect()


def _execute(control: Path, *commands: str) -> list[Any]:
    """Connect, run the commands one after the other, disconnect; return their answers."""

    async def run() -> list[Any]:
        async with _client(control) as client:
            return [await client.execute(command) for command in commands]

    return asyncio.run(run())


@contextlib.contextmanager
def _front_end(qemu: str, socket: Path) -> Iterator[int]:
    """A QEMU that has connected and waits before its guest runs; yields its process id."""
    command = [qemu, *machine_arguments(), *disk_arguments(socket), "-S"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_without_a_front_end_the_queries_show_an_idle_server(backend: Callable[..., Any]) -> None:
    served = backend("--memory", "16M", "--num-queues", 2)
    names, connections, memory, rings, features = _execute(
        served.control,
        "query-commands",
        "query-connections",
        "query-memory",
        "query-rings",
        "query-features",
    )
    assert {"query-connections", "query-rings", "quit"} <= {entry["name"] for entry in names}
    assert (connections, memory) == ([], [])
    assert [ring["ring"] for ring in rings] == [0, 1]
    (features,) = features
    assert {"VERSION_1", "RING_PACKED"} <= set(features["offered"]["virtio"])
    assert {"CONFIG", "MQ", "REPLY_ACK"} <= set(features["offered"]["protocol"])
    assert features["negotiated"] is None


def test_the_queries_show_the_front_end_that_is_connected(
    qemu: str, backend: Callable[..., Any]
) -> None:
    served = backend("--memory", "16M")
    with _front_end(qemu, served.socket) as pid:
        served.wait_for_log(f"front-end process {pid}")
        connections, features = _execute(served.control, "query-connections", "query-features")
    assert [entry["process"] for entry in connections] == [pid]
    assert [each["negotiated"] is None for each in features] == [False]


def test_events_tell_of_front_ends_that_come_and_go(qemu: str, backend: Callable[..., Any]) -> None:
    served = backend("--memory", "16M")

    async def watch() -> list[str]:
        async with _client(served.control) as client:
            with client.listener() as events:
                with _front_end(qemu, served.socket):
                    came = await events.get()
                left = await events.get()
            return [str(came["event"]), str(left["event"])]

    assert asyncio.run(watch()) == ["CONNECTED", "DISCONNECTED"]


def test_disks_are_added_resized_and_removed_while_qemu_uses_another(
    qemu: str, backend: Callable[..., Any], tmp_path: Path
) -> None:
    served = backend("--memory", "16M")
    second = tmp_path / "second.sock"

    async def change() -> tuple[list[Any], list[str]]:
        async with _client(served.control) as client:
            with client.listener() as events:
                options = {"id": "second", "socket-path": str(second), "memory": "8M"}
                await client.execute("disk-add", options)
                disks = await client.execute("query-disks")
                assert second.is_socket()
                await client.execute("block-resize", {"id": "second", "size": "9M"})
                await client.execute("disk-remove", {"id": "second"})
                return disks, [str(event["event"]) for event in events.history]

    with _front_end(qemu, served.socket) as pid:
        served.wait_for_log(f"front-end process {pid}")
        disks, names = asyncio.run(change())
        (connection,) = _execute(served.control, "query-connections")[0]
        assert connection["process"] == pid
    assert [(disk["id"], disk["size"] >> 20) for disk in disks] == [("disk", 16), ("second", 8)]
    assert names == ["DISK_ADDED", "BLOCK_RESIZED", "DISK_REMOVED"]
    assert not second.exists()


def test_an_unknown_command_is_an_error_and_harms_nobody(backend: Callable[..., Any]) -> None:
    served = backend("--memory", "16M")
    with pytest.raises(ExecuteError, match="query-commands"):
        _execute(served.control, "query-nonsense")
    assert _execute(served.control, "query-connections") == [[]]


def test_quit_answers_and_then_ends_the_program(backend: Callable[..., Any]) -> None:
    served = backend("--memory", "16M")
    assert _execute(served.control, "quit") == [{}]
    served.expect_end()
    assert not served.control.exists()
