"""Machines on an accelerator that are booted anew, reset, and stopped again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import MIB, checks, control, digest, empty_image, script
from handover_rig import boot, kicks, monitor_of, tell, wait_for_areas
from parts.require import require

from vhostuser.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_DISK_MIB = 32
# Where guest_checks.sh has its places, in MiB.
_SHARE_AT, _SHARE_MIB = 4, 4
# Shorter and longer than what passes between two areas of a ring: some stops meet an offer.
_PAUSES = [0.005] * 20 + [0.24, 0.25, 0.255, 0.26, 0.27, 0.3]


def test_a_guest_keeps_its_data_through_rebinding_and_reboot(
    guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = empty_image(tmp_path / "image", _DISK_MIB)
    # Larger pages than the host's: each begins with a page that can be handed over.
    shape = ("--num-queues", 2, "--page-size", 65536)
    simulated = backend("--blk-file", image, *shape, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", command="accel")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_checks.sh"),
        qemu=str(require("qemu-10") / "qemu-system-x86_64"),
        page_per_vq=True,
    )

    with boot(guest, tmp_path) as machine:
        console = machine.finish()

    found = checks(console)
    shares = [
        "ok " + digest(image, _SHARE_AT + cpu * _SHARE_MIB, _SHARE_MIB) for cpu in range(guest.cpus)
    ]
    for moment in ("written-by", "rebound", "after-reboot"):
        assert [found[f"{moment}-cpu{cpu}"] for cpu in range(guest.cpus)] == shares, console
    assert (found["sectors"], found["end"]) == (str(_DISK_MIB * MIB // 512), "")
    assert found["discard"].startswith("ok "), console
    handed = "ring 1: the driver rings the accelerator's doorbell itself"
    assert served.log.count(handed) >= 3, "at the first boot, after rebinding, at the second boot"
    assert "does not take" not in served.log
    served.terminate()
    simulated.terminate()


def test_a_machine_survives_stops_and_a_reset_under_load(
    qemu: str, guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = empty_image(tmp_path / "image", _DISK_MIB)
    simulated = backend("--blk-file", image, "--num-queues", 2, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", command="accel")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_hammer.sh"),
        qemu=qemu,
        packed="qemu-10" in qemu,
        page_per_vq=True,
    )
    monitor = monitor_of(tmp_path)

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE loaded")
        wait_for_areas(served, "handed over")
        tell(monitor, [step for pause in _PAUSES for step in (("stop", 0.002), ("cont", pause))])
        wait_for_areas(served, "handed over")
        before = kicks(served)
        machine.go_on()
        machine.wait_for("PAUSE verified")
        assert kicks(served) == before
        tell(monitor, [("system_reset", 0)])
        machine.wait_for("PAUSE booted-again")
        wait_for_areas(served, "handed over")
        assert control(monitor, "query-status")["status"] == "running"
        machine.go_on()
        console = machine.finish()

    found = checks(console)
    rounds = [found.pop(f"rounds-cpu{cpu}") for cpu in range(guest.cpus)]
    assert all(int(count) > 0 for count in rounds), console
    kept = f"ok {digest(image, 1, 4)}"
    assert found == {
        "stopped-cpu0": "ok",
        "stopped-cpu1": "ok",
        "written": kept,
        "after-reset": kept,
        "end": "",
    }, console
    served.terminate()
    simulated.terminate()
