"""`vhostuser net` as a process: ports of every kind, a file, the control socket, its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import trio
from control_rig import controlling, guest_at
from net_rig import BROADCAST, CONTROL, PACKED, PAIRS, SPLIT, datagram, frame

from protocol.virtio import NET_CONFIG_SIZE, NetCommand, NetConfig, net_pairs
from vhostuser.frontend import FrontendClient, GuestMemory, NetControl, NetDriver
from vhostuser.server import bind_unix

COMMAND = [sys.executable, "-m", "vhostuser", "net"]
SECONDS = 60
BRIDGE = "no-such-bridge"
MACS = [bytes.fromhex(f"0200000000{number:02x}") for number in range(1, 4)]
TWO = """
control = "control"
workers = 2
[[port]]
id = "one"
socket-path = "one"
[[port]]
id = "two"
socket-path = "two"
socket-mode = "0600"
"""


def run(folder, *arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=folder,
        **options,
    )


@contextlib.contextmanager
def started(folder, count, *arguments, command=COMMAND, **options):
    """Start a program and wait until it serves `count` ports; at the end it gets SIGTERM."""
    words = [*command, *map(str, arguments)]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, cwd=folder, **options
    ) as process:
        try:
            process.lines = []
            for line in process.stderr:
                process.lines.append(line)
                if sum("serving port" in each for each in process.lines) == count:
                    break
            assert process.poll() is None, process.lines
            yield process
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, log
            assert "Traceback" not in log
        finally:
            process.kill()


async def exchange(one, other):
    """Have two guests at sockets send each other a frame."""
    with trio.fail_after(SECONDS):
        async with guest_at(one) as a, guest_at(other) as b:
            await a.send(frame(BROADCAST, MACS[0]))
            assert (await b.receive()).data == frame(BROADCAST, MACS[0])
            await b.send(frame(MACS[0], MACS[1], 1, 1514))
            assert (await a.receive()).data == frame(MACS[0], MACS[1], 1, 1514)


def test_capabilities_are_printed_whatever_else_is_asked(tmp_path):
    done = run(tmp_path, "--print-capabilities", "--socket-path", "/nowhere/at/all")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"type": "net", "features": []}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "there is nothing to serve: give --socket-path PATH, --connect PATH or --tap NAME"),
        (["--socket-path", "a", "--socket-path", "a"], "a is the socket of port 'port0'"),
        (["--socket-path", "no/such/folder/s"], "cannot listen on"),
        (["--socket-path", "a", "--fd", "9"], "fd 9 is no open socket"),
        (["--socket-path", "a", "--bridge", "br0"], "bridge: is of a TAP device: give tap"),
        (["--connect", "a", "--socket-mode", "0660"], "socket-mode: is of a socket that is made"),
        (["--tap", "a name"], "an interface's name of letters, digits"),
        (["--tap", "t", "--bridge", "no-such-bridge"], "there is no bridge no-such-bridge"),
        (["--socket-path", "a", "--mode", "hub"], "one of switch, echo, sink, source is expected"),
        (["--socket-path", "a", "--queue-pairs", "129"], "a number from 1 to 128 is expected"),
        (["--config", "two.toml", "--tap", "t"], "--tap is of a port: with --config it belongs"),
        (["--config", "two.toml", "--mtu", "900"], "--mtu is of a port: with --config it belongs"),
        (["--config", "bad.toml"], "bad.toml: port 1: id: is missing"),
        (["--config", "empty.toml"], "there is nothing to serve: give --socket-path"),
    ],
)
def test_what_cannot_be_done_is_said_with_a_hint_and_no_traceback(tmp_path, arguments, text):
    (tmp_path / "two.toml").write_text(TWO)
    (tmp_path / "bad.toml").write_text("[[port]]\n")
    (tmp_path / "empty.toml").write_text("")
    before = sorted(tmp_path.iterdir())
    done = run(tmp_path, *arguments)
    assert done.returncode in {1, 2}
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


async def test_each_socket_of_a_command_line_is_a_port(tmp_path):
    ends = [f"--socket-path={name}" for name in ("a", "b", "c")]
    with started(tmp_path, 3, *ends, "--mtu=9000", "--socket-mode=0600") as process:
        for number, name in enumerate("abc"):
            text = f"[port=port{number}]: serving port {number} with 1 queue pair on {name}"
            assert text in process.lines[number]
        await exchange(tmp_path / "a", tmp_path / "b")
        await exchange(tmp_path / "c", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


async def test_it_connects_to_front_ends_that_listen(tmp_path):
    listener = bind_unix(tmp_path / "theirs")
    with listener, started(tmp_path, 2, "--connect=theirs", "--socket-path=ours"):
        listener.setblocking(False)  # noqa: FBT003 - no keyword
        with trio.fail_after(SECONDS):
            await trio.lowlevel.wait_readable(listener)
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(SECONDS)
                sock.sendall(bytes.fromhex("010000000100000000000000"))  # GET_FEATURES
                assert len(sock.recv(20)) == 20


async def test_every_port_of_a_file_is_served(tmp_path):
    (tmp_path / "net.toml").write_text(TWO)
    with started(tmp_path, 2, "--config", "net.toml"):
        await exchange(tmp_path / "one", tmp_path / "two")
        assert (tmp_path / "two").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["net.toml"]


def test_a_file_that_is_right_passes_the_check_silently(tmp_path):
    (tmp_path / "net.toml").write_text(TWO)
    done = run(tmp_path, "--config", "net.toml", "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["net.toml"]


def test_a_file_that_is_wrong_fails_the_check_with_a_line_a_mistake(tmp_path):
    text = TWO.replace("workers = 2", "workers = 0").replace(
        'socket-path = "two"\nsocket-mode = "0600"', 'tap = "t"\nbridge = "' + BRIDGE + '"\nmtu = 1'
    )
    (tmp_path / "net.toml").write_text(text)
    done = run(tmp_path, "--config", "net.toml", "--check")
    assert done.returncode == 1
    *found, tap = done.stderr.splitlines()
    assert tap.startswith("net.toml: port 'two': tap: ")  # the bridge, or the right to a TAP
    assert found == [
        "net.toml: workers: a number from 1 to 64 is expected, not 0",
        "net.toml: port 'two': mtu: a number from 68 to 65521 is expected, not 1",
    ]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--socket-path=a", "--socket-path=b", "--control=c"], []),
        (["--socket-path=a", "--socket-path=a"], ["socket-path: {}/a is the socket of port port0"]),
        (["--socket-path=no/a"], ["socket-path: there is no folder no: make it first"]),
        ([], ["there is nothing to serve: give --socket-path PATH"]),
    ],
)
def test_a_command_line_can_be_checked_too(tmp_path, arguments, lines):
    done = run(tmp_path, *arguments, "--check")
    assert done.returncode == bool(lines)
    found = done.stderr.splitlines()
    assert len(found) == len(lines)
    for line, text in zip(found, lines, strict=True):
        assert line.startswith(text.format(tmp_path))


async def test_a_switch_without_ports_waits_for_commands(tmp_path):
    command = [*COMMAND, "--control=control", "--log-format=json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert "no port yet: waiting for port-add on control" in process.stderr.readline()
            with trio.fail_after(SECONDS):
                async with controlling(tmp_path / "control") as client:
                    for name in ("a", "b"):
                        await client.ask("port-add", id=name, socket_path=str(tmp_path / name))
                    await exchange(tmp_path / "a", tmp_path / "b")
                    await client.ask("port-remove", id="a")
                    await client.ask("quit")
            assert process.wait(SECONDS) == 0
            records = [json.loads(line) for line in process.stderr]
            served = [record["port"] for record in records if "serving" in record["message"]]
            assert served == ["a", "b"]
            assert [r["port"] for r in records if r["message"] == "removed"] == ["a"]
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


ACTIVATE = (
    "import fcntl, os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
    "fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(',')];"
    "[os.dup2(fd, 3 + index) for index, fd in enumerate(fds)];"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@pytest.mark.parametrize("arguments", [[], ["--config", "net.toml"]])
async def test_sockets_of_the_service_manager_are_ports_by_name(tmp_path, arguments):
    (tmp_path / "net.toml").write_text('[[port]]\nid = "one"\n[[port]]\nid = "two"\n')
    with (
        bind_unix(tmp_path / "a") as one,
        bind_unix(tmp_path / "b") as two,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.settimeout(SECONDS)
        manager.bind(str(tmp_path / "notify"))
        fds = [one.fileno(), two.fileno()]
        environment = {
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "one:two",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        with started(
            tmp_path,
            2,
            *arguments,
            command=[sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), *COMMAND],
            pass_fds=fds,
            env={**os.environ, **environment},
        ) as process:
            assert manager.recv(100) == b"READY=1"
            assert ["[port=one]" in process.lines[0], "[port=two]" in process.lines[1]] == [
                True
            ] * 2
            await exchange(tmp_path / "a", tmp_path / "b")
        assert manager.recv(100) == b"STOPPING=1"
    assert (tmp_path / "a").exists()  # whoever made it removes it


def test_a_connected_fd_is_served_once_and_then_the_program_ends(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, ours:
        command = [*COMMAND, f"--fd={theirs.fileno()}"]
        with subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True, cwd=tmp_path
        ) as process:
            try:
                theirs.close()
                ours.close()
                assert process.wait(SECONDS) == 0
                assert "ended: no other front-end can come" in process.stderr.read()
            finally:
                process.kill()


async def test_guests_with_several_pairs_have_them_on_several_workers(tmp_path):
    with started(
        tmp_path, 2, "--socket-path=a", "--socket-path=b", "--queue-pairs=4", "--workers=2"
    ):
        await exchange(tmp_path / "a", tmp_path / "b")


# Some messages have eight bits for a ring's number: beside 128 pairs there is none for a control
# queue, and front-ends that use all of them keep it to themselves.
@pytest.mark.parametrize(
    ("pairs", "features"), [(128, PACKED), (127, SPLIT | CONTROL)], ids=["128", "127-and-control"]
)
async def test_there_may_be_many_pairs_and_each_carries_frames(tmp_path, pairs, features):
    options = [f"--queue-pairs={pairs}", "--workers=2", "--speed=25000"]
    with (
        started(tmp_path, 2, "--socket-path=a", "--socket-path=b", *options),
        GuestMemory() as memory,
        trio.fail_after(SECONDS),
    ):
        async with (
            FrontendClient.connect(tmp_path / "a", memory) as client,
            guest_at(tmp_path / "b") as other,
        ):
            await client.negotiate(features=features | PAIRS, queues=2 * pairs)
            rings = [client.setup_queue(index, num=16) for index in range(2 * pairs)]
            control = client.setup_queue(2 * pairs) if features & CONTROL == CONTROL else None
            await client.start()
            config = NetConfig.parse(await client.get_config(0, NET_CONFIG_SIZE))
            assert (client.queue_num, config.max_virtqueue_pairs) == (pairs, pairs)
            assert (config.speed, config.duplex) == (25_000, 1)
            if control is not None:
                await NetControl(control).command(NetCommand.PAIRS, net_pairs(pairs))
            one = NetDriver(list(zip(rings[::2], rings[1::2], strict=True)), buffers=2)
            for pair in range(pairs):
                await one.send(datagram(MACS[1], MACS[0], pair), pair=pair)
                assert (await other.receive()).data == datagram(MACS[1], MACS[0], pair)
                answer = datagram(MACS[0], MACS[1], pair, back=True)
                await other.send(answer)
                assert (await one.receive(pair=pair)).data == answer
