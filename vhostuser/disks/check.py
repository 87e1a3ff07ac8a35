"""`--check`: what only a look at the host tells of disks, without serving them.

Nothing is made, locked or changed: a configuration can be checked while it is being served.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from protocol.virtio import BLK_SECTOR_SIZE as SECTOR
from vhostuser.devices import known_use
from vhostuser.options import Problem
from vhostuser.serving import Finding, check_served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vhostuser.disks.config import DiskConfig
    from vhostuser.serving import Placed, ProgramConfig

__all__ = ["check_disks"]


def check_disks(
    program: ProgramConfig, disks: Placed[DiskConfig], where: str = ""
) -> list[Finding]:
    """Look for what would keep these disks from being served.

    Args:
        program: the options of the program.
        disks: each with its place in messages.
        where: the place of the program's options in messages.
    """
    return check_served(program, disks, where, _of_disk) + list(_conflicts(disks))


def _of_disk(disk: DiskConfig) -> Iterator[Problem]:
    if disk.blk_file is not None:
        yield from _of_image(disk, disk.blk_file)


def _of_image(disk: DiskConfig, path: Path) -> Iterator[Problem]:
    try:
        found = path.stat()
    except OSError as error:
        yield Problem("blk-file", f"cannot look at {path}: {error.strerror}")
        return
    mode, use = found.st_mode, ""
    if stat.S_ISBLK(mode):
        use = known_use(found.st_rdev)
    smallest = disk.block_size or SECTOR
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        yield Problem("blk-file", f"{path} is neither a regular file nor a block device")
    elif use:
        yield Problem("blk-file", f"{path} is in use: {use}")
    elif not os.access(path, os.R_OK):
        yield Problem("blk-file", f"{path} cannot be read: it takes read permission")
    elif not disk.read_only and not os.access(path, os.W_OK):
        yield Problem("blk-file", f"{path} cannot be written: serve it with read-only = true")
    elif stat.S_ISREG(mode) and found.st_size < smallest:
        text = f"{path} has {found.st_size} bytes: a disk has at least {smallest}"
        yield Problem("blk-file", text)


def _conflicts(disks: Placed[DiskConfig]) -> Iterator[Finding]:
    images: dict[tuple[int, int], DiskConfig] = {}
    for disk, place in disks:
        image = None if disk.blk_file is None else _identity(disk.blk_file)
        if image is not None:
            other = images.setdefault(image, disk)
            if other is not disk and not (disk.read_only and other.read_only):
                text = f"disk {other.id} is the same image: two may share it only read-only"
                yield Finding(place, Problem("blk-file", text))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if stat.S_ISBLK(found.st_mode):
        return 0, found.st_rdev
    return found.st_dev, found.st_ino
