"""QEMU's own vfio-user client on our simulated devices: Linux's drivers work on them.

Ring layouts, registers and interrupts thus meet a driver and a client that are not ours.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from guest_rig import MIB, checks, digest, script
from lab_guest import UserDevice, checks_of
from parts.require import require

from vhostuser.testing.guest import GuestFiles, build_initramfs, machine_arguments, run_qemu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import RunLabGuest

pytestmark = [pytest.mark.lab, pytest.mark.interop, pytest.mark.timeout(300)]

_PART = "qemu-11"
_DISK_MIB = 32
# Where guest_checks.sh has its places, in MiB.
_HOST_AT, _SHARE_AT, _SHARE_MIB = 1, 4, 4
_END_SECONDS = 10
_GUEST_SECONDS = 240
_KERNEL_WORDS = (
    "console=ttyS0 quiet loglevel=4 nokaslr mitigations=off tsc=reliable no_timer_check "
    "random.trust_cpu=on"
)


class Simulator:
    """A simulated device in a process of its own, as a user starts it.

    Args:
        folder: for its socket and its log.
        arguments: of `vhostuser simulate`.
    """

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.socket = folder / "socket"
        command = [sys.executable, "-X", "dev", "-m", "vhostuser", "simulate"]
        words = [*map(str, arguments), "--socket-path", str(self.socket)]
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, *words], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        assert str(self.socket) in first, self._log.read_text()

    def end(self) -> None:
        """End it as a user would, which must succeed without a complaint."""
        self._process.send_signal(signal.SIGTERM)
        with self._process:
            status = self._process.wait(_END_SECONDS)
        log = self._log.read_text()
        assert status == 0, log
        words = ("Traceback", "WARNING", "ERROR", "ResourceWarning")
        assert not any(word in log for word in words), log

    def kill(self) -> None:
        """Leave nothing of it behind."""
        if self._process.returncode is None:
            self._process.kill()
        with self._process:
            pass


@pytest.fixture
def simulators() -> Iterator[list[Simulator]]:
    """A list; what is put there does not outlive the test."""
    started: list[Simulator] = []
    yield started
    for each in started:
        each.kill()


@pytest.mark.parametrize("doorbells", [(), ("--shared-notify",)], ids=["pages", "shared"])
def test_linux_keeps_its_data_on_a_simulated_disk_through_rebinding_and_reboot(
    doorbells: tuple[str, ...], simulators: list[Simulator], tmp_path: Path
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as disk:
        disk.truncate(_DISK_MIB * MIB)
        disk.seek(_HOST_AT * MIB)
        disk.write(bytes(i * 7 & 0xFF for i in range(251)) * (MIB // 251))
    options = ("--blk-file", image, "--num-queues", 2, "--serial", "simulated-7")
    simulators.append(Simulator(tmp_path, "blk", *options, *doorbells))
    files = GuestFiles.in_folder(require("vfio-kernel"))
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(build_initramfs(files, script("guest_checks.sh")))
    command = [
        *(str(require(_PART) / "qemu-system-x86_64"), *machine_arguments(cpus=2)),
        *("-kernel", str(files.kernel), "-initrd", str(initramfs), "-append", _KERNEL_WORDS),
        *("-object", "memory-backend-memfd,id=memory,size=256M,share=on"),
        *("-m", "256M", "-machine", "q35,memory-backend=memory"),
        *UserDevice(socket=simulators[0].socket).arguments(1, tmp_path),
    ]

    run = run_qemu(command, seconds=_GUEST_SECONDS)

    found = checks(run.console)
    shares = ["ok " + digest(image, _SHARE_AT + cpu * _SHARE_MIB, _SHARE_MIB) for cpu in range(2)]
    assert found.pop("discard").startswith("ok "), run.console
    assert found == {
        "queues": "2",
        "packed": "1",
        "version-1": "1",
        "serial": "simulated-7",
        "sectors": str(_DISK_MIB * MIB // 512),
        "host": digest(image, _HOST_AT, 1),
        "written-by-cpu0": shares[0],
        "written-by-cpu1": shares[1],
        "rebound-cpu0": shares[0],
        "rebound-cpu1": shares[1],
        "rebooting": "",
        "after-reboot-cpu0": shares[0],
        "after-reboot-cpu1": shares[1],
        "end": "",
    }, run.console
    assert (run.exit_status, run.complaints) == (0, "")
    simulators[0].end()


@pytest.mark.parametrize("doorbells", [(), ("--shared-notify",)], ids=["pages", "shared"])
def test_linux_gets_its_frames_back_from_a_simulated_network_card(
    doorbells: tuple[str, ...],
    simulators: list[Simulator],
    lab_guest: RunLabGuest,
    tmp_path: Path,
) -> None:
    simulators.append(Simulator(tmp_path, "net", "--mac", "52:54:00:00:00:07", *doorbells))
    device = UserDevice(socket=simulators[0].socket)

    run = lab_guest("linux_net", devices=[device], iommu=False, part=_PART)

    for name in checks_of("linux_net"):
        run.notes(name)
    assert run.notes("check_every_frame_comes_back_as_it_was") == {
        "driver": "virtio_net",
        "packed": "1",
        "address": "52:54:00:00:00:07",
    }
    simulators[0].end()
