"""`vhostuser blk` as a process: options, sockets of every kind, and what it says when it cannot."""

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

from protocol.vhost_user import SetVringNum
from vhostuser.frontend import (
    LIBBLKIO,
    BlockDriver,
    FrontendClient,
    GuestMemory,
    RequestRefusedError,
)
from vhostuser.server import bind_unix

COMMAND = [sys.executable, "-m", "vhostuser", "blk"]
SECONDS = 60


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **options,
    )


@contextlib.contextmanager
def started(*arguments, **options):
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            for line in process.stderr:
                if "serving a" in line:
                    break
            else:
                pytest.fail("it did not start")
            yield process
        finally:
            process.kill()


def end(process):
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, log
    assert "Traceback" not in log, log
    return log


async def read_first_sector(sock):
    with GuestMemory() as memory, trio.fail_after(SECONDS):
        async with FrontendClient.over(sock, memory, order=LIBBLKIO) as client:
            await client.negotiate()
            disk = BlockDriver([client.setup_queue(0)])
            await client.start()
            return await disk.read(0, 512)


async def connect(path):
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.connect(os.fspath(path))
    return sock


def test_capabilities_are_printed_whatever_else_is_asked():
    done = run("--print-capabilities", "--socket-path", "/nowhere/at/all")
    assert done.returncode == 0
    assert json.loads(done.stdout)["type"] == "block"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--memory", "16M"], "Give --socket-path PATH, --connect PATH or --fd N"),
        (["--socket-path", "s", "--memory", "tiny"], "a size of 512 bytes or more"),
        (["--socket-path", "s", "--memory", "511"], "a size of 512 bytes or more"),
        # 2^63 bytes
        (["--socket-path", "s", "--memory", "8388608T"], "a size of 512 bytes or more"),
        (["--socket-path", "s", "--null", "8388608T"], "a size of 512 bytes or more"),
        (["--connect", "x" * 200, "--null", "1M"], "cannot connect to xxx"),
        (["--socket-path", "s", "--null", "1M", "--memory", "1M"], "not allowed with"),
        (["--socket-path", "s", "--num-queues", "0"], "a number from 1 to 256 is expected"),
        (["--socket-path", "s", "--blk-file", "missing.img"], "cannot open missing.img"),
        (["--socket-path", "s", "--blk-file", "/dev/null"], "character device: a disk is"),
        (["--socket-path", "s", "--blk-file", "/"], "is a directory: a disk is"),
        (["--socket-path", "s", "--read-only", "--blk-file", "/"], "is a directory: a disk is"),
        (["--socket-path", "no/such/folder/s"], "cannot listen on"),
        (["--socket-path", "x" * 200], "has 200 bytes, and the kernel takes 107"),
        (["--fd", "9"], "fd 9 is no open socket"),
        (["--socket-path", "s", "--control", "no/such/folder/c"], "cannot listen on"),
    ],
)
def test_what_cannot_be_done_is_said_with_a_hint_and_no_traceback(tmp_path, arguments, text):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode in {1, 2}
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "serving a disk of 1048576 bytes with 1 queue on {}"),
        (
            ["--read-only", "--num-queues", "3"],
            "serving a read-only disk of 1048576 bytes with 3 queues on {}",
        ),
    ],
)
def test_the_log_says_what_is_served_and_where(tmp_path, options, text):
    path = tmp_path / "s"
    arguments = [*COMMAND, "--socket-path", str(path), "--memory", "1M", *options]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert text.format(path) in process.stderr.readline()
            end(process)
        finally:
            process.kill()


async def test_the_built_in_disk_is_served_when_none_is_named(tmp_path):
    with started("--socket-path", tmp_path / "s") as process:
        sector = await read_first_sector(await connect(tmp_path / "s"))
        assert sector.endswith(b"\x55\xaa")
        end(process)
    assert not (tmp_path / "s").exists()


async def test_a_listening_fd_is_told_from_a_connected_one(tmp_path):
    listener = bind_unix(tmp_path / "s")
    with listener, started("--fd", listener.fileno(), pass_fds=[listener.fileno()]) as process:
        for _ in range(2):
            assert len(await read_first_sector(await connect(tmp_path / "s"))) == 512
        end(process)
    assert (tmp_path / "s").exists()  # whoever made it removes it


async def test_a_connected_fd_is_served_once_and_then_the_program_ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, started("--fd", theirs.fileno(), pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        assert len(await read_first_sector(trio.socket.from_stdlib_socket(ours))) == 512
        assert process.wait(SECONDS) == 0


async def test_systemd_passes_its_socket_as_fd_3(tmp_path):
    script = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    listener = bind_unix(tmp_path / "s")
    with (
        listener,
        subprocess.Popen(
            [sys.executable, "-c", script, str(listener.fileno()), *COMMAND],
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[listener.fileno()],
            close_fds=True,
            env={**os.environ, "LISTEN_FDS": "1"},
        ) as process,
    ):
        assert len(await read_first_sector(await connect(tmp_path / "s"))) == 512
        end(process)


async def test_a_back_end_that_connects_waits_for_its_front_end(tmp_path):
    with started("--connect", tmp_path / "front-end") as process:
        with trio.socket.from_stdlib_socket(bind_unix(tmp_path / "front-end")) as listener:
            for _ in range(2):
                with trio.fail_after(SECONDS):
                    sock, _ = await listener.accept()
                assert len(await read_first_sector(sock)) == 512
        end(process)


def test_a_stale_socket_is_replaced_and_a_live_one_never(tmp_path):
    path = tmp_path / "s"
    bind_unix(path).close()
    with started("--socket-path", path) as process:
        done = run("--socket-path", path)
        assert (done.returncode, "in use" in done.stderr) == (1, True)
        assert path.exists()
        end(process)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    done = run("--socket-path", path)
    assert (done.returncode, path.read_text()) == (1, "precious")


async def test_a_second_front_end_waits_and_is_served_after_the_first(tmp_path):
    with started("--socket-path", tmp_path / "s") as process:
        first = await connect(tmp_path / "s")
        for line in process.stderr:
            if "front-end process" in line:
                break
        second = await connect(tmp_path / "s")
        for line in process.stderr:
            if "another front-end waits" in line:
                break
        first.close()
        assert len(await read_first_sector(second)) == 512
        end(process)


@pytest.mark.parametrize("polling", [["--busy-poll"], ["--poll-us", "0"], ["--poll-us", "900"]])
async def test_options_reach_the_device(tmp_path, polling):
    options = ["--num-queues", "3", "--queue-size", "64", "--serial", "my-disk", "--workers", "2"]
    with started("--socket-path", tmp_path / "s", "--null", "3M", *options, *polling) as process:
        with GuestMemory() as memory, trio.fail_after(SECONDS):
            async with FrontendClient.connect(tmp_path / "s", memory) as client:
                await client.negotiate()
                assert client.queue_num == 3
                assert int.from_bytes(client.config[:8], "little") == 3 << 11
                with pytest.raises(RequestRefusedError):
                    await client.request(SetVringNum(index=0, num=128))
                disk = BlockDriver([client.setup_queue(index, num=64) for index in range(3)])
                await client.start()
                for queue in disk.queues:
                    assert await disk.get_id(queue=queue) == "my-disk"
        assert "Traceback" not in end(process)


@pytest.mark.parametrize("arguments", [[], ["--direct"], ["--workers", "2", "--num-queues", "2"]])
async def test_an_image_is_changed_in_place(tmp_path, arguments):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with started("--socket-path", tmp_path / "s", "--blk-file", image, *arguments) as process:
        with GuestMemory() as memory, trio.fail_after(SECONDS):
            sock = await connect(tmp_path / "s")
            async with FrontendClient.over(sock, memory, order=LIBBLKIO) as client:
                await client.negotiate()
                disk = BlockDriver([client.setup_queue(0)])
                await client.start()
                await disk.write(7, b"seven".ljust(512, b"!"))
                await disk.flush()
                assert await disk.get_id() == "vhostuser"
        end(process)
    assert image.read_bytes()[7 * 512 :][:512] == b"seven".ljust(512, b"!")
    assert image.stat().st_size == 1 << 20
