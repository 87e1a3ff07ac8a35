"""User-mode Linux, a kernel without a hypervisor, whose driver is itself the front-end.

Its virtio_uml shares little with QEMU: it asks for an acknowledgement of everything, its call fds
are sockets, its addresses of the front-end are guest-physical ones, its rings start without a
position of their own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import MIB, LiveMachine, checks, control, digest, empty_image, script
from parts.require import require

from vhostuser.testing.guest import GuestFiles, build_initramfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.interop

_OLD, _NEW = 32, 48  # MiB
_VIRTIO_BLK = 2


@pytest.fixture
def uml(tmp_path: Path) -> Callable[[Path, str], list[str]]:
    """Makes the command line of a user-mode Linux with a disk on a socket and a script to run."""
    folder = require("uml")
    modules = tuple(sorted((folder / "modules").glob("*.ko")))
    files = GuestFiles(
        kernel=folder / "linux.uml", busybox=require("guest") / "busybox", modules=modules
    )

    def command(socket: Path, text: str) -> list[str]:
        initramfs = tmp_path / "initramfs"
        initramfs.write_bytes(build_initramfs(files, text))
        return [
            *(str(files.kernel), "mem=128M", f"initrd={initramfs}", "quiet", "loglevel=4"),
            # First all consoles, then the one that is used.
            *("con=null", "con0=fd:0,fd:1", "ssl=null"),
            f"virtio_uml.device={socket}:{_VIRTIO_BLK}",
            f"uml_dir={tmp_path}",
        ]

    return command


def test_user_mode_linux_finds_every_byte_and_follows_its_disk_to_a_larger_size(
    uml: Callable[[Path, str], list[str]], backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = empty_image(tmp_path / "image", _OLD)
    with image.open("r+b") as disk:
        disk.seek(MIB)
        disk.write(bytes(i * 7 & 0xFF for i in range(251)) * (MIB // 251))
    served = backend("--blk-file", image, "--serial", "uml-7")
    command = uml(served.socket, script("guest_uml.sh", new=_NEW))

    with LiveMachine(command=command, seconds=60) as machine:
        machine.wait_for("PAUSE larger")
        rings = control(served.control, "query-rings")
        os.truncate(image, _NEW * MIB)
        control(served.control, "block-resize")
        machine.go_on()
        console = machine.finish()

    written = digest(image, 4, 4)
    found = checks(console)
    assert found.pop("discard").startswith("ok "), console
    assert found == {
        "packed": "1",
        "version-1": "1",
        "serial": "uml-7",
        "sectors": str(_OLD * MIB // 512),
        "host": digest(image, 1, 1),
        **{f"read-by-{reader}": f"ok {written}" for reader in range(3)},
        "end": str(_NEW * MIB // 512),
    }, console
    assert digest(image, 8, 1) == digest(image, 16, 1) == digest(image, _NEW - 1, 1)
    assert digest(image, 8, 1) == digest(image, 4, 1) != digest(image, 2, 1)
    assert "GUEST power-off" in console
    assert rings[0]["errors"] == 0
    assert rings[0]["calls"] > 0
    served.terminate()
