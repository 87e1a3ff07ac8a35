"""An image that grows and shrinks under a guest that uses it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from guest_rig import MIB, LiveMachine, checks, control, empty_image, script

from vhostuser.testing.guest import Guest, build_initramfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_OLD, _NEW = 16, 40  # MiB


def _resize(image: Path, mib: int, socket: Path) -> None:
    os.truncate(image, mib * MIB)
    assert control(socket, "block-resize")["size"] == mib * MIB


def test_a_guest_follows_its_disk_to_a_larger_and_to_a_smaller_size(
    qemu: str, guest_files: GuestFiles, backend: Callable[..., Any], tmp_path: Path
) -> None:
    image = empty_image(tmp_path / "image", _OLD)
    served = backend("--blk-file", image)
    text = script("guest_resize.sh", old=_OLD, new=_NEW)
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(build_initramfs(guest_files, text))
    guest = Guest(socket=served.socket, files=guest_files, script=text, qemu=qemu, cpus=1)

    with LiveMachine(command=guest.command(initramfs), seconds=90) as machine:
        machine.wait_for("PAUSE larger")
        _resize(image, _NEW, served.control)
        machine.go_on()
        machine.wait_for("PAUSE truncated")
        os.truncate(image, _OLD * MIB)
        machine.go_on()
        machine.wait_for("PAUSE smaller")
        _resize(image, _OLD, served.control)
        machine.go_on()
        console = machine.finish()

    data = image.read_bytes()
    found = checks(console)
    read = [found.pop(name) for name in tuple(found) if found[name].startswith("ok ")]
    assert len(read) == 4, console
    assert found == {
        "first-size": str(_OLD * MIB // 512),
        "write-beyond-the-first-end": "error",
        "larger-size": str(_NEW * MIB // 512),
        "write-beyond-the-old-end": "done",
        "write-at-the-new-end": "done",
        "write-at-the-start": "done",
        "size-not-told": str(_NEW * MIB // 512),
        "read-what-was-cut-off": "error",
        "smaller-size": str(_OLD * MIB // 512),
        "bytes-beyond-the-end": "0",
        "write-beyond-the-end": "error",
        "write-at-the-last-end": "done",
        "end": "",
    }, console
    assert len(data) == _OLD * MIB
    assert data[:MIB] == data[-MIB:] != bytes(MIB)
    served.terminate()
