"""QEMU's guest on a simulated accelerator: it rings the doorbell, and is interrupted, by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import checks, script
from handover_rig import boot, kicks, monitor_of, rest, switches, tell, wait_for_areas

from vhostuser.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop


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
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_handover.sh"),
        qemu=qemu,
        packed=packed,
        page_per_vq=True,
    )

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE started")
        wait_for_areas(served, "handed over")
        before, asleep = kicks(served), rest(served)
        machine.go_on()
        machine.wait_for("PAUSE done")
        assert switches(served).items() <= asleep.items(), "our process slept all the time"
        assert kicks(served) == before

        tell(monitor_of(tmp_path), [("stop", 0), ("cont", 0)])
        machine.go_on()
        machine.wait_for("PAUSE rebound")
        wait_for_areas(served, "handed over")
        before = kicks(served)
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
    assert sum(kicks(served)) <= sum(before) + 2, "none but QEMU's own at a stop"
    served.terminate()
    simulated.terminate()
