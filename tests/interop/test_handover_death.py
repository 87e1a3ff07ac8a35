"""Accelerators that die under a guest: the software goes on where it can, or the rings break."""

from __future__ import annotations

import hashlib
import signal
from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import checks, control, empty_image, script
from handover_rig import boot, monitor_of, tell, wait_for_areas
from parts.require import require

from vhostuser.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_DISK_MIB = 32
_PIECE = 32 << 10
_FAULT = "sudden-death:on-signal"
_GONE = "closed the connection"
_FAILED = "failed: it is gone, or needs a reset"
_TAKEN_OVER = "the software goes on at"
_SOFTWARE = "is served by the software: the accelerator is out of use"
_BROKEN = "is served no longer: the accelerator failed: "
_ENDED = "is gone: start it, and then this again"
_NOT_IN_ORDER = "requests were under way, and without IN_ORDER nobody knows"


def _qemu(part: str) -> str:
    return str(require(part) / "qemu-system-x86_64")


def _disk(folder: Path) -> tuple[object, ...]:
    """Options of a disk that two processes reach: the simulated device and the software."""
    image = empty_image(folder / "image", _DISK_MIB)
    return ("--blk-file", image, "--num-queues", 2, "--no-locking")


def _states(served: Any) -> list[str]:
    return [ring["actual"] for ring in control(served.control, "query-rings")]


def _expect_written(found: dict[str, str], folder: Path) -> None:
    """Compare what guest_death.sh has found, and what it has written, with the image."""
    pieces = int(found.pop("pieces"))
    written = (folder / "image").read_bytes()[: pieces * _PIECE]
    assert pieces > 30
    assert found == {"load": f"ok {hashlib.sha256(written).hexdigest()}", "end": ""}


def test_the_software_takes_over_from_an_idle_device(
    guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    disk = _disk(tmp_path)
    simulated = backend(*disk, "--fault", _FAULT, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", *disk, command="accel")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_handover.sh"),
        qemu=_qemu("qemu-10"),
        page_per_vq=True,
    )

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE started")
        wait_for_areas(served, "handed over")
        simulated.process.send_signal(signal.SIGUSR1)
        simulated.expect_death()
        wait_for_areas(served, "refused")
        machine.go_on()
        machine.wait_for("PAUSE done")
        machine.go_on()
        machine.wait_for("PAUSE rebound")
        machine.go_on()
        console = machine.finish()

    found = checks(console)
    names = ("warm", "handed-over", "resumed", "rebound", "all")
    assert [found.get(name) for name in names] == ["ok"] * len(names), console
    assert "I/O error" not in console
    served.troubles = (_GONE, _FAILED, _TAKEN_OVER, _SOFTWARE)
    assert served.log.count(_TAKEN_OVER) == 2
    served.terminate()


def test_the_software_goes_on_with_a_ring_whose_device_died_while_it_was_stopped(
    guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    disk = _disk(tmp_path)
    simulated = backend(*disk, "--fault", _FAULT, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", *disk, command="accel")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_death.sh"),
        qemu=_qemu("qemu-7"),
        packed=True,
        page_per_vq=True,
    )
    monitor = monitor_of(tmp_path)

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE loaded")
        wait_for_areas(served, "handed over")
        tell(monitor, [("stop", 0)])
        simulated.process.send_signal(signal.SIGUSR1)
        simulated.expect_death()
        served.wait_for_log("failed: ")
        tell(monitor, [("cont", 0)])
        served.wait_for_log(f"ring 1 {_SOFTWARE}")
        machine.go_on()
        console = machine.finish()

    _expect_written(checks(console), tmp_path)
    assert "I/O error" not in console
    served.troubles = (_GONE, _FAILED, _SOFTWARE)
    assert served.log.count(_SOFTWARE) == 2
    served.terminate()


def test_a_reset_heals_a_ring_that_broke_with_requests_under_way(
    guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    disk = _disk(tmp_path)
    simulated = backend(*disk, "--fault", "stuck-queue:on-signal", command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", *disk, command="accel")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_death.sh"),
        qemu=_qemu("qemu-10"),
        page_per_vq=True,
    )

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE loaded")
        wait_for_areas(served, "handed over")
        simulated.process.send_signal(signal.SIGUSR1)
        simulated.wait_for_log("injected: stuck-queue")
        machine.go_on()
        machine.wait_for("PAUSE stuck")
        simulated.process.kill()
        simulated.process.wait()
        served.wait_for_log(_NOT_IN_ORDER)
        machine.wait_for("vhost vring error in virtqueue")
        assert "broken" in _states(served)
        tell(monitor_of(tmp_path), [("system_reset", 0)])
        machine.wait_for("PAUSE loaded")
        machine.go_on()
        console = machine.finish()

    _expect_written(checks(console), tmp_path)
    served.troubles = (_GONE, _FAILED, _TAKEN_OVER, _SOFTWARE, _BROKEN)
    assert _SOFTWARE in served.log
    served.terminate()


def test_without_software_rings_break_and_the_machine_stays(
    guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    simulated = backend(*_disk(tmp_path), "--fault", _FAULT, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", command="accel")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_death.sh"),
        qemu=_qemu("qemu-10"),
        page_per_vq=True,
    )
    monitor = monitor_of(tmp_path)

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE loaded")
        wait_for_areas(served, "handed over")
        simulated.process.send_signal(signal.SIGUSR1)
        simulated.expect_death()
        machine.wait_for("vhost vring error in virtqueue")
        machine.wait_for("vhost vring error in virtqueue")
        assert _states(served) == ["broken", "broken"]
        assert control(monitor, "query-status")["status"] == "running"
        # What starts next is refused, with the reason; the machine goes on without its disk.
        tell(monitor, [("system_reset", 0)])
        refused = "message=SET_VRING_KICK field=index value=0"
        served.wait_for_log(refused)
        assert control(monitor, "query-status")["status"] == "running"

    assert served.log.count(_BROKEN) == 2
    assert "there is no software that reaches its store" in served.log
    served.troubles = (_GONE, _FAILED, _BROKEN, refused, _ENDED)
    served.expect_end(1)  # a service manager starts it again
    assert _ENDED in served.log
