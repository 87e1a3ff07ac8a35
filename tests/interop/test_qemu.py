"""QEMU, old and new, boots a guest on our disk: firmware, driver, rebinding, reboot, power-off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import MIB, checks, digest, script

from vhostuser.testing.guest import Guest, disk_arguments, machine_arguments, run_qemu

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_DISK_MIB = 32
# Where guest_checks.sh has its places, in MiB.
_HOST_AT, _SHARE_AT, _SHARE_MIB = 1, 4, 4


@pytest.mark.parametrize("kind", ["split", "packed", "legacy"])
def test_a_guest_keeps_its_data_through_rebinding_and_reboot(
    qemu: str, kind: str, guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as disk:
        disk.truncate(_DISK_MIB * MIB)
        disk.seek(_HOST_AT * MIB)
        disk.write(bytes(i * 7 & 0xFF for i in range(251)) * (MIB // 251))
    served = backend("--blk-file", image, "--num-queues", 2, "--serial", "interop-7")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_checks.sh"),
        qemu=qemu,
        packed=kind == "packed",
        legacy=kind == "legacy",
    )

    run = guest.run(seconds=90)

    found = checks(run.console)
    shares = [
        "ok " + digest(image, _SHARE_AT + cpu * _SHARE_MIB, _SHARE_MIB) for cpu in range(guest.cpus)
    ]
    discard = found.pop("discard")
    assert discard.startswith("ok "), run.console
    assert found == {
        "queues": "2",
        "packed": "1" if kind == "packed" else "0",
        "version-1": "0" if kind == "legacy" else "1",
        "serial": "interop-7",
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
    assert run.console.count("GUEST power-off") == 1
    assert (run.exit_status, run.complaints) == (0, "")
    served.terminate()


def test_a_guest_sees_that_a_disk_is_read_only(
    qemu: str, guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"keep me" + bytes(4 * MIB - 7))
    served = backend("--blk-file", image, "--read-only")
    script = """
        echo "CHECK read-only $(cat /sys/block/vda/ro)"
        echo "CHECK content $(dd if=/dev/vda bs=7 count=1 2>/dev/null)"
        dd if=/dev/zero of=/dev/vda bs=512 count=1 2>/dev/null || echo "CHECK write refused"
    """

    run = Guest(socket=served.socket, files=guest_files, script=script, qemu=qemu, cpus=1).run(
        seconds=60
    )

    assert checks(run.console) == {"read-only": "1", "content": "keep me", "write": "refused"}
    assert image.read_bytes().startswith(b"keep me")
    served.terminate()


def test_the_firmware_reads_and_writes_the_disk(
    qemu: str, boot_sector: bytes, backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = tmp_path / "image"
    text = b"the firmware read this\n\0".ljust(8 * 512, b"\xa5")
    image.write_bytes((boot_sector + text).ljust(4 * MIB, b"\0"))
    served = backend("--blk-file", image)
    command = [qemu, *machine_arguments(), *disk_arguments(served.socket)]

    run = run_qemu([*command, "-device", "isa-debug-exit,iobase=0xf4"], seconds=30)

    assert run.console == "the firmware read this\nWRITTEN\n"
    assert image.read_bytes()[16 * 512 : 24 * 512] == text
    served.terminate()
