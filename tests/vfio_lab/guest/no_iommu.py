"""A machine without an IOMMU: nothing may be handed over, and the user is told why."""

from __future__ import annotations

import contextlib
import io

from driven import BLK, driver_of

from vhostuser.cli.main import main


def _command(*words):
    """Run our program; return its exit status and what it printed."""
    printed, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaint):
        status = main(["accel", *words])
    assert driver_of(BLK) == "virtio-pci"
    return status, printed.getvalue(), complaint.getvalue()


def check_serving_is_refused():
    return _command("--accel", f"vfio:{BLK}", "--socket-path", "socket")


def check_binding_is_refused():
    return _command("bind", BLK)


def check_the_list_says_what_is_missing():
    return _command("list")
