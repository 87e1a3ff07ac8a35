"""QEMU's guest on a simulated accelerator: it rings the doorbell, and is interrupted, by itself."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import LiveMachine, checks, control, script

from vhostuser.testing.guest import Guest, build_initramfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_SECONDS = 90
_SETTLED_SECONDS = 15


def _kicks(served: Any) -> list[int]:
    """How many kicks our process has seen of each ring."""
    return [ring["kicks"] for ring in control(served.control, "query-rings")]


def _areas(served: Any) -> list[str]:
    return [ring["area"] for ring in control(served.control, "query-rings")]


def _wait_for_areas(served: Any, wanted: str) -> None:
    """Wait until the areas of all rings are in a state."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    while set(areas := _areas(served)) != {wanted}:
        assert time.monotonic() < deadline, (areas, served.log)


def _rest(served: Any) -> int:
    """Wait until a process sleeps; return how often its threads left a processor until then."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    before, now = -1, _switches(served)
    while now != before:
        assert time.monotonic() < deadline, "it does not come to rest"
        time.sleep(0.2)
        before, now = now, _switches(served)
    return now


def _switches(served: Any) -> int:
    """How often the threads of a process left a processor: none did where none ran."""
    total = 0
    for status in Path(f"/proc/{served.process.pid}/task").glob("*/status"):
        total += sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", status.read_text())))
    return total


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_the_guest_and_the_device_meet_without_us(
    qemu: str,
    packed: bool,
    guest_files: GuestFiles,
    backend: Callable[..., Any],
    tmp_path: Path,
) -> None:
    simulated = backend("--memory", "64M", "--num-queues", 2, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", command="accel")
    text = script("guest_handover.sh")
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(build_initramfs(guest_files, text))
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=text,
        qemu=qemu,
        packed=packed,
        page_per_vq=True,
    )
    monitor = tmp_path / "qmp"
    command = [*guest.command(initramfs), "-qmp", f"unix:{monitor},server=on,wait=off"]

    with LiveMachine(command=command, seconds=_SECONDS) as machine:
        machine.wait_for("PAUSE started")
        _wait_for_areas(served, "handed over")
        before, switches = _kicks(served), _rest(served)
        machine.go_on()
        machine.wait_for("PAUSE done")
        assert _switches(served) == switches, "our process slept all the time"
        assert _kicks(served) == before

        control(monitor, "stop")
        control(monitor, "cont")
        machine.go_on()
        machine.wait_for("PAUSE rebound")
        _wait_for_areas(served, "handed over")
        before = _kicks(served)
        machine.go_on()
        console = machine.finish()

    found = checks(console)
    assert found == {
        "queues": "2",
        "packed": "1" if packed else "0",
        "warm": "ok",
        "handed-over": "ok",
        "resumed": "ok",
        "rebound": "ok",
        "all": "ok",
        "end": "",
    }, console
    assert sum(_kicks(served)) <= sum(before) + 2, "none but QEMU's own at a stop"
    served.terminate()
    simulated.terminate()
