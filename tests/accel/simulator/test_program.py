"""`vhostuser simulate` as a process: it starts, says so, obeys signals and leaves nothing."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from simulator_rig import DISK_FEATURES, driven, write_and_verify

from accel.vfio_user import open_device
from vhostuser.cli.main import main
from vhostuser.datapath import AcceleratorNews
from vhostuser.frontend import BlockDriver

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30
DISK = ("blk", "--memory=1M", "--num-queues=2")


@contextlib.contextmanager
def simulating(*options: object) -> Iterator[subprocess.Popen[str]]:
    """Run the program for the length of the block; it has said that it is ready."""
    command = [sys.executable, "-m", "vhostuser", "simulate", *map(str, options)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], SECONDS)[0]
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_it_simulates_and_ends_when_told_to(tmp_path, number):
    path = tmp_path / "disk.sock"
    with simulating(*DISK, f"--socket-path={path}") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"simulating a virtio disk of 1048576 bytes on {path}\n"
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
    assert not path.exists()


def test_two_network_devices_have_two_sockets(tmp_path):
    one, other = tmp_path / "one.sock", tmp_path / "other.sock"
    with simulating("net", f"--socket-path={one}", f"--peer={other}") as process:
        assert process.stdout is not None
        assert process.stdout.readline().count("a virtio network device on") == 2
        assert one.is_socket()
        assert other.is_socket()
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert list(tmp_path.iterdir()) == []


async def test_guests_come_one_after_the_other_and_the_disk_grows(tmp_path):
    path, image = tmp_path / "disk.sock", tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with simulating("blk", f"--blk-file={image}", f"--socket-path={path}") as process:
        for seed in range(2):
            async with open_device(path) as device, driven(device, DISK_FEATURES) as guest:
                queue = await guest.open_queue(0)
                await guest.accelerator.start()
                await write_and_verify(BlockDriver([queue]), seed)
                with image.open("ab") as grown:
                    grown.truncate((2 + seed) << 20)
                process.send_signal(signal.SIGHUP)
                with trio.fail_after(SECONDS):
                    assert await guest.accelerator.news() is AcceleratorNews.CONFIG_CHANGED
                capacity = await guest.accelerator.read_config(0, 8)
                assert int.from_bytes(capacity, "little") == (2 + seed) * 2048
        process.terminate()
        assert process.wait(SECONDS) == 0


async def test_a_device_that_dies_is_missed(tmp_path):
    path = tmp_path / "disk.sock"
    with simulating(*DISK, f"--socket-path={path}", "--fault=sudden-death:on-signal") as process:
        try:
            async with open_device(path) as device, driven(device, DISK_FEATURES) as guest:
                queue = await guest.open_queue(0)
                await guest.accelerator.start()
                await write_and_verify(BlockDriver([queue]), 1)
                process.send_signal(signal.SIGUSR1)
                with trio.fail_after(SECONDS):
                    assert await guest.accelerator.news() is AcceleratorNews.FAILED
        except* OSError:  # memory cannot be taken back from who is gone
            pass
        assert process.wait(SECONDS) == 137


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("blk",), "--socket-path"),
        (("net",), "socket-path: is missing"),
        (("net", "--socket-path=a", "--peer=a"), "give it one of its own"),
        ((*DISK, "--socket-path=x", "--fault=fire"), "stuck-queue"),
        ((*DISK, "--socket-path=x", "--fault=stuck-queue:queue=2"), "there is no queue 2"),
        (("net", "--socket-path=x", "--mac=ff:00:00:00:00:00"), "02:00:00:00:00:01"),
        (("net", "--socket-path=x", "--page-size=5000"), "4096 or 16384 or 65536"),
    ],
)
def test_what_cannot_be_is_refused_in_words(options, words, capsys, handlers_kept):
    with contextlib.suppress(SystemExit):
        assert main(["simulate", *options]) == 1
    assert words in capsys.readouterr().err


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    """Put the handlers of signals back, which a program leaves to its end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_socket_that_cannot_be_is_refused_in_words(tmp_path):
    command = [sys.executable, "-m", "vhostuser", "simulate", *DISK]
    done = subprocess.run(
        [*command, f"--socket-path={tmp_path}/no/socket"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("vhostuser: cannot listen on")
    assert "make the folder" in done.stderr
