"""Memory that a guest gets while it runs is the accelerator's, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import checks, control, script
from handover_rig import boot, kicks, monitor_of, wait_for_areas
from parts.require import require

from vhostuser.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_MORE = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _RoomyGuest(Guest):
    """A guest with room for more memory, of which it gives programs first."""

    def command(self, initramfs: Path) -> list[str]:
        words = super(_RoomyGuest, self).command(initramfs)
        words[words.index("-append") + 1] += " memhp_default_state=online_movable"
        words[words.index("-m") + 1] += ",slots=2,maxmem=1G"
        return words


def test_memory_that_is_plugged_in_is_reached_by_the_device(
    guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    simulated = backend("--memory", "64M", "--num-queues", 2, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", command="accel")
    guest = _RoomyGuest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_hotplug.sh"),
        qemu=str(require("qemu-10") / "qemu-system-x86_64"),
        page_per_vq=True,
    )
    monitor = monitor_of(tmp_path)

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE running")
        wait_for_areas(served, "handed over")
        before = kicks(served)
        more = {"qom-type": "memory-backend-memfd", "id": "more", "size": _MORE, "share": True}
        control(monitor, "object-add", **more)
        control(monitor, "device_add", driver="pc-dimm", id="dimm", memdev="more")
        machine.go_on()
        console = machine.finish()

    found = checks(console)
    assert found == {"before": "ok", "plugged": "ok", "from-there": "ok", "end": ""}, console
    assert kicks(served) == before
    served.terminate()
    simulated.terminate()
