"""`--check`: what only a look at the host tells of a configuration, without serving anything.

Nothing is made, locked or changed: a configuration can be checked while it is being served.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from protocol.virtio import BLK_SECTOR_SIZE as SECTOR
from vhostuser.devices import known_use
from vhostuser.disks.file import Finding
from vhostuser.disks.options import Problem
from vhostuser.errors import UsageError
from vhostuser.server import group_number, require_socket_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vhostuser.disks.config import DiskConfig, ProgramConfig

    Placed = Sequence[tuple[DiskConfig, str]]

__all__ = ["check_disks"]


def check_disks(program: ProgramConfig, disks: Placed, where: str = "") -> list[Finding]:
    """Look for what would keep these disks from being served.

    Args:
        program: the options of the program.
        disks: each with its place in messages.
        where: the place of the program's options in messages.
    """
    findings = [Finding(place, each) for disk, place in disks for each in _of_disk(disk)]
    if program.control is not None:
        findings += [Finding(where, each) for each in _of_socket("control", program.control)]
    return findings + list(_conflicts(program, disks))


def _of_disk(disk: DiskConfig) -> Iterator[Problem]:
    if disk.socket_path is not None:
        yield from _of_socket("socket-path", disk.socket_path)
    if disk.socket_group is not None:
        yield from _of_group(disk.socket_group)
    if disk.connect is not None:
        try:
            require_socket_path(disk.connect)
        except UsageError as error:
            yield Problem("connect", str(error))
    if disk.blk_file is not None:
        yield from _of_image(disk, disk.blk_file)


def _of_socket(key: str, path: Path) -> Iterator[Problem]:
    try:
        require_socket_path(path)
    except UsageError as error:
        yield Problem(key, str(error))
        return
    folder = path.parent
    if not folder.is_dir():
        yield Problem(key, f"there is no folder {folder}: make it first")
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Problem(key, f"no socket can be made in {folder}: it takes write permission on it")
    elif path.exists() and not path.is_socket():
        yield Problem(key, f"{path} exists and is no socket: remove it or choose another path")


def _of_group(group: str) -> Iterator[Problem]:
    try:
        number = group_number(group)
    except UsageError as error:
        yield Problem("socket-group", str(error))
        return
    if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
        text = f"only a member of group {group}, or root, can give it a socket"
        yield Problem("socket-group", text)


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


def _conflicts(program: ProgramConfig, disks: Placed) -> Iterator[Finding]:
    names: dict[str, str] = {}
    sockets: dict[Path, str] = {}
    images: dict[tuple[int, int], tuple[DiskConfig, str]] = {}
    if program.control is not None:
        sockets[program.control.absolute()] = "the control socket"
    for disk, place in disks:
        if disk.id in names:
            yield Finding(place, Problem("id", f"another disk is called {disk.id}: choose another"))
        names[disk.id] = place
        if disk.socket_path is not None:
            path = disk.socket_path.absolute()
            if path in sockets:
                text = f"{path} is the socket of {sockets[path]}, too: choose another"
                yield Finding(place, Problem("socket-path", text))
            sockets.setdefault(path, f"disk {disk.id}")
        image = None if disk.blk_file is None else _identity(disk.blk_file)
        if image is not None:
            other, _ = images.setdefault(image, (disk, place))
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
