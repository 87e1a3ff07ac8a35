"""A machine without an IOMMU: nothing may be handed over, and the user is told why."""

from __future__ import annotations

import subprocess
import sys

from driven import BLK, driver_of


def _command(*words):
    """Run our program as a user does; return its exit status and what it printed."""
    command = [sys.executable, "-m", "vhostuser", "accel", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert driver_of(BLK) == "virtio-pci"
    return done.returncode, done.stdout, done.stderr


def check_serving_is_refused():
    return _command("--accel", f"vfio:{BLK}", "--socket-path", "socket")


def check_binding_is_refused():
    return _command("bind", BLK)


def check_the_list_says_what_is_missing():
    return _command("list")
