"""Two network devices of a guest, the one's doorbells handed over, the other's kicks relayed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import checks, script
from handover_rig import NetGuest, boot, kicks, monitor_of, rest, switches, tell, wait_for_areas
from parts.require import require

from vhostuser.testing.guest import GuestFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.interop

_DRIVERS = ("failover", "net_failover", "virtio_net")


@pytest.fixture
def net_files() -> GuestFiles:
    """A kernel with a driver for network devices."""
    files = GuestFiles.in_folder(require("vfio-kernel"))
    modules = tuple(path for path in files.modules if path.stem.partition("-")[2] in _DRIVERS)
    return GuestFiles(kernel=files.kernel, busybox=files.busybox, modules=modules)


def test_what_one_device_sends_arrives_at_the_other(
    net_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    # QEMU 7 without KVM dies by itself when a guest masks a vector of vhost-user-net.
    qemu = require("qemu-10") / "qemu-system-x86_64"
    peer = tmp_path / "peer"
    simulated = backend("--peer", peer, command="simulate net")
    handed = backend("--accel", f"vfio-user:{simulated.socket}", command="accel")
    relayed = backend("--accel", f"vfio-user:{peer}", command="accel")
    guest = NetGuest(
        sockets={handed.socket: True, relayed.socket: False},
        files=net_files,
        script=script("guest_net.sh"),
        qemu=str(qemu),
    )

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE started")
        wait_for_areas(handed, "handed over")
        wait_for_areas(relayed, "refused")
        _, sent_before = kicks(relayed)
        before, asleep = kicks(handed), rest(handed)
        machine.go_on()
        machine.wait_for("PAUSE done")
        assert switches(handed).items() <= asleep.items(), "our process slept all the time"
        assert kicks(handed) == before
        _, sent = kicks(relayed)
        assert sent > sent_before

        tell(monitor_of(tmp_path), [("stop", 0), ("cont", 0)])
        wait_for_areas(handed, "handed over")
        before = kicks(handed)
        machine.go_on()
        console = machine.finish()

    assert checks(console) == {
        "warm": "1",
        "echoes": "ok",
        "to-the-other": "ok",
        "from-the-other": "ok",
        "resumed": "ok",
        "resumed-file": "ok",
        "end": "",
    }, console
    assert sum(kicks(handed)) <= sum(before) + 2, "none but QEMU's own at a stop"
    for process in (handed, relayed, simulated):
        process.terminate()
