"""`vhostuser blk --config`: several disks in one process, checked, activated and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest
import trio

from vhostuser.frontend import BlockDriver, FrontendClient, GuestMemory
from vhostuser.server import bind_unix

COMMAND = [sys.executable, "-m", "vhostuser", "blk"]
SECONDS = 60
TWO = """
control = "control"
[[disk]]
id = "one"
socket-path = "one"
memory = "1M"
serial = "first"
[[disk]]
id = "two"
socket-path = "two"
socket-mode = "0600"
memory = "2M"
serial = "second"
"""


def run(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=folder,
    )


@contextlib.contextmanager
def started(command, count, **options):
    """Start a program and wait until it serves `count` disks; at the end it gets SIGTERM."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            for _ in range(count):
                assert any("serving a" in line for line in process.stderr)
            yield process
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, log
            assert "Traceback" not in log
        finally:
            process.kill()


async def serial(path):
    with GuestMemory() as memory, trio.fail_after(SECONDS):
        async with FrontendClient.connect(path, memory) as client:
            await client.negotiate()
            disk = BlockDriver([client.setup_queue(0)])
            await client.start()
            return await disk.get_id()


async def test_every_disk_of_a_file_is_served_on_its_own_socket(tmp_path):
    path = tmp_path / "disks.toml"
    path.write_text(TWO)
    with started([*COMMAND, "--config", str(path)], 2):
        assert await serial(tmp_path / "one") == "first"
        assert await serial(tmp_path / "two") == "second"
        assert stat.S_IMODE((tmp_path / "two").stat().st_mode) == 0o600
        assert (tmp_path / "control").is_socket()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_right_passes_the_check_silently(tmp_path):
    (tmp_path / "disks.toml").write_text(TWO)
    done = run(tmp_path, "--config", "disks.toml", "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["disks.toml"]


def test_a_file_that_is_wrong_fails_the_check_with_a_line_a_mistake(tmp_path):
    text = TWO.replace('"1M"', '"tiny"').replace('socket-path = "two"', 'socket-path = "no/two"')
    (tmp_path / "disks.toml").write_text(text)
    done = run(tmp_path, "--config", "disks.toml", "--check")
    expected = "a size of 512 bytes or more (for example 64M) is expected, not 'tiny'"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "disks.toml: disk 'one': memory: " + expected,
        "disks.toml: disk 'two': socket-path: there is no folder no: make it first",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "missing.toml"], "cannot read missing.toml: No such file or directory"),
        (
            ["--config", "good.toml", "--null", "1M"],
            "--null is of a disk: with --config it belongs",
        ),
        (["--config", "bad.toml"], "bad.toml: disk 1: id: is missing"),
        (["--config", "empty.toml"], "there is nothing to serve: give a [[disk]], or a control"),
        (["--config", "twice.toml"], "there is a disk 'a' already: choose another id"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused_with_a_hint(tmp_path, arguments, text):
    (tmp_path / "good.toml").write_text(TWO)
    (tmp_path / "bad.toml").write_text("[[disk]]\n")
    (tmp_path / "empty.toml").write_text("")
    disk = '[[disk]]\nid = "a"\nnull = "1M"\nsocket-path = '
    (tmp_path / "twice.toml").write_text(f'{disk}"a"\n{disk}"b"\n')
    before = sorted(tmp_path.iterdir())
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_with_a_mistake_is_looked_at_for_others(tmp_path):
    text = TWO.replace('"0600"', '"0999"').replace('socket-path = "two"', 'socket-path = "no/two"')
    (tmp_path / "disks.toml").write_text(text)
    done = run(tmp_path, "--config", "disks.toml", "--check")
    assert done.returncode == 1
    assert [line.split(": ")[2] for line in done.stderr.splitlines()] == [
        "socket-mode",
        "socket-path",
    ]


def test_a_file_with_nothing_to_serve_fails_the_check(tmp_path):
    (tmp_path / "empty.toml").write_text("")
    done = run(tmp_path, "--config", "empty.toml", "--check")
    expected = "empty.toml: there is nothing to serve: give a [[disk]], or a control socket\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_the_options_of_one_disk_can_be_checked_too(tmp_path):
    done = run(tmp_path, "--socket-path", "no/s", "--blk-file", "missing", "--check")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "socket-path: there is no folder no: make it first",
        "blk-file: cannot look at missing: No such file or directory",
    ]


def test_a_disk_without_a_place_for_front_ends_fails_the_check(tmp_path):
    done = run(tmp_path, "--null", "1M", "--check")
    assert (done.returncode, done.stderr[:20]) == (1, "where are front-ends")


async def test_a_process_without_disks_waits_for_commands(tmp_path):
    (tmp_path / "disks.toml").write_text('control = "control"\nlog-format = "json"\n')
    command = [*COMMAND, "--config", "disks.toml"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            commands = [
                {"execute": "qmp_capabilities"},
                {"execute": "disk-add", "arguments": {"id": "a", "socket-path": f"{tmp_path}/a"}},
                {"execute": "disk-remove", "arguments": {"id": "a"}},
                {"execute": "query-disks"},
                {"execute": "quit"},
            ]
            assert "waiting for disk-add" in process.stderr.readline()
            with trio.fail_after(SECONDS):
                stream = await trio.open_unix_socket(str(tmp_path / "control"))
                async with stream:
                    await stream.send_all(b"".join(json.dumps(each).encode() for each in commands))
                    answers = b"".join([data async for data in stream]).decode().splitlines()
            returned = [json.loads(line)["return"] for line in answers if '"return"' in line]
            assert returned == [{}, {"id": "a", "size": 16 << 20}, {}, [], {}]
            assert process.wait(SECONDS) == 0
            records = [json.loads(line) for line in process.stderr]
            assert [record["disk"] for record in records if "serving" in record["message"]] == ["a"]
        finally:
            process.kill()


ACTIVATE = (
    "import fcntl, os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
    "fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(',')];"
    "[os.dup2(fd, 3 + index) for index, fd in enumerate(fds)];"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


async def test_the_service_manager_passes_sockets_by_name_and_is_told(tmp_path):
    (tmp_path / "disks.toml").write_text(
        '[[disk]]\nid = "one"\nserial = "1"\n[[disk]]\nid = "two"\nserial = "2"\n'
    )
    with (
        bind_unix(tmp_path / "b") as two,
        bind_unix(tmp_path / "a") as one,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.settimeout(SECONDS)
        manager.bind(str(tmp_path / "notify"))
        fds = [two.fileno(), one.fileno()]
        command = [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), *COMMAND]
        environment = {
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "two:one",
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        with started(
            [*command, "--config", "disks.toml"],
            2,
            cwd=tmp_path,
            pass_fds=fds,
            env={**os.environ, **environment},
        ):
            assert manager.recv(100) == b"READY=1"
            assert await serial(tmp_path / "a") == "1"
            assert await serial(tmp_path / "b") == "2"
        assert manager.recv(100) == b"STOPPING=1"
    assert (tmp_path / "a").exists()  # whoever made it removes it


def test_a_socket_that_no_disk_takes_is_a_mistake(tmp_path):
    (tmp_path / "disks.toml").write_text('[[disk]]\nid = "one"\n')
    with bind_unix(tmp_path / "a") as one, bind_unix(tmp_path / "b") as two:
        fds = [one.fileno(), two.fileno()]
        done = subprocess.run(
            [
                *[sys.executable, "-c", ACTIVATE, ",".join(map(str, fds))],
                *[*COMMAND, "--config", "disks.toml"],
            ],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=tmp_path,
            pass_fds=fds,
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "one:other"},
        )
    assert done.returncode == 1
    assert "systemd passed sockets that no disk has for its id: other" in done.stderr
