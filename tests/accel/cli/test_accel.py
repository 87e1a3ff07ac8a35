"""`vhostuser accel` as a process: what it serves, and which software it takes beside it."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 30


def start(*options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vhostuser", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    assert select.select([stream], [], [], SECONDS)[0]
    return stream.readline()


def told(simulate: tuple[str, ...], software: tuple[str, ...], folder: Path) -> str:
    """The first that `accel` says in front of a simulated device."""
    device, socket = folder / "device", folder / "disk"
    with ended(start("simulate", *simulate, f"--socket-path={device}")) as simulated:
        line_of(simulated.stdout)
        command = ("accel", f"--accel=vfio-user:{device}", f"--socket-path={socket}", *software)
        with ended(start(*command)) as accel:
            return line_of(accel.stderr)


@pytest.mark.parametrize(
    ("software", "queues"),
    [
        ((), "with 3 queues"),
        (("--memory=1M",), "with 3 queues"),
        (("--memory=1M", "--num-queues=2"), "with 2 queues"),
    ],
)
def test_software_beside_an_accelerator_has_as_many_queues_unless_told(tmp_path, software, queues):
    line = told(("blk", "--memory=1M", "--num-queues=3"), software, tmp_path)
    assert "a virtio block device" in line
    assert queues in line


def test_a_disk_in_software_is_refused_beside_another_device(tmp_path):
    line = told(("net",), ("--memory=1M",), tmp_path)
    assert "is no disk (virtio device type 1)" in line
    assert "leave out --blk-file" in line
