"""SIGTERM ends the back-end within a second, whatever the front-end is doing."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from parts.require import require

from vhostuser.testing.guest import (
    Guest,
    build_initramfs,
    disk_arguments,
    machine_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_SECONDS = 1
_BUSY = """
    dd if=/dev/vda of=/dev/null bs=64k count=1 iflag=direct 2>/dev/null
    echo "GUEST is busy"
    while true; do dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null; done &
    while true; do dd if=/dev/zero of=/dev/vda bs=4k oflag=direct 2>/dev/null; done
"""


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def newest_qemu() -> str:
    return str(require("qemu-10") / "qemu-system-x86_64")


def test_an_idle_back_end_ends_in_time(backend: Callable[..., Any]) -> None:
    served = backend("--memory", "16M")
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(_SECONDS) == 0
    served.expect_end()


def test_a_back_end_with_a_connected_front_end_ends_in_time(
    newest_qemu: str, backend: Callable[..., Any]
) -> None:
    served = backend("--memory", "16M")
    command = [newest_qemu, *machine_arguments(), *disk_arguments(served.socket), "-S"]
    with _running(command) as front_end:
        served.wait_for_log(f"front-end process {front_end.pid}")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(_SECONDS) == 0
    served.expect_end()


def test_a_back_end_under_load_ends_in_time(
    newest_qemu: str, guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as disk:
        disk.truncate(64 << 20)
    served = backend("--blk-file", image, "--num-queues", 2)
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(build_initramfs(guest_files, _BUSY))
    guest = Guest(socket=served.socket, files=guest_files, script=_BUSY, qemu=newest_qemu)
    with _running(guest.command(initramfs)) as front_end:
        assert front_end.stdout is not None
        assert any("GUEST is busy" in line for line in front_end.stdout), served.log
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(_SECONDS) == 0
    served.expect_end()
