"""Doorbells that cannot be handed over: kicks are relayed, and the guest cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import checks, script
from handover_rig import boot, kicks, wait_for_areas
from parts.require import require

from vhostuser.testing.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_REFUSED = "ring 0: the front-end does not take the notify area"
_NONE = "kicks of ring 0 are relayed: page-per-vq=off: doorbells are 4 bytes apart"


@pytest.mark.parametrize(
    ("qemu_part", "packed", "shape", "page_per_vq", "logged", "not_logged"),
    [
        ("qemu-10", True, (), False, _REFUSED, _NONE),
        ("qemu-7", False, ("--shared-notify",), True, _NONE, _REFUSED),
    ],
    ids=["refused-by-qemu", "shared-by-the-device"],
)
def test_kicks_are_relayed(  # noqa: PLR0913 - a table and its fixtures
    *,
    qemu_part: str,
    packed: bool,
    shape: tuple[str, ...],
    page_per_vq: bool,
    logged: str,
    not_logged: str,
    guest_files: GuestFiles,
    backend: Callable[..., Any],
    tmp_path: Path,
) -> None:
    simulated = backend("--memory", "64M", "--num-queues", 2, *shape, command="simulate blk")
    served = backend("--accel", f"vfio-user:{simulated.socket}", command="accel")
    guest = Guest(
        socket=served.socket,
        files=guest_files,
        script=script("guest_handover.sh"),
        qemu=str(require(qemu_part) / "qemu-system-x86_64"),
        packed=packed,
        page_per_vq=page_per_vq,
    )

    with boot(guest, tmp_path) as machine:
        machine.wait_for("PAUSE started")
        wait_for_areas(served, "refused")
        before = kicks(served)
        machine.go_on()
        machine.wait_for("PAUSE done")
        relayed = sum(kicks(served)) - sum(before)
        machine.go_on()
        machine.wait_for("PAUSE rebound")
        wait_for_areas(served, "refused")
        machine.go_on()
        console = machine.finish()

    found = checks(console)
    names = ("warm", "handed-over", "resumed", "rebound", "all")
    assert [found.get(name) for name in names] == ["ok"] * len(names), console
    # One for each of the 600 requests but those that the driver knew the device would see anyway.
    assert relayed > 300, (before, kicks(served))
    assert logged in served.log
    assert not_logged not in served.log
    served.terminate()
    simulated.terminate()
