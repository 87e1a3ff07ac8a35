"""The host's block devices: what they say of their blocks, and whether they are free to be served.

A device that is mounted, swapped to or part of another is not: guest and host would write to it
behind each other's back. The kernel knows (an exclusive open fails); files of /proc and /sys say
why, so that the user need not search. Nothing here reads or writes a device's data.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser.errors import StoreError
from vhostuser.fds import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BlockSizes",
    "block_device_size",
    "block_device_sizes",
    "claim",
    "known_use",
    "reason_in_use",
]

SECTOR = 512
_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_BLKPBSZGET = 0x127B
_BLKIOMIN = 0x1278
_BLKIOOPT = 0x1279
_BLKALIGNOFF = 0x127A
_BLKGETSIZE64 = 0x80081272
_PROC = Path("/proc")
_SYS = Path("/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSizes:
    """In which pieces a store is best used; all in bytes.

    Attributes:
        logical: the unit of addresses, a power of two from 512 on.
        physical: what is written at once, a power of two and at least `logical`.
        offset: where the first whole physical block begins.
        minimum: shortest request that costs no more than it must; 0: unknown.
        optimal: longest request that still gains; 0: unknown.
        discard: what can be given back.
    """

    logical: int = SECTOR
    physical: int = SECTOR
    offset: int = 0
    minimum: int = 0
    optimal: int = 0
    discard: int = SECTOR


def block_device_size(fd: OwnedFd) -> int:
    """Return a block device's size in bytes."""
    return int(struct.unpack("Q", fcntl.ioctl(fd.fileno(), _BLKGETSIZE64, bytes(8)))[0])


def block_device_sizes(fd: OwnedFd, *, sys: Path = _SYS) -> BlockSizes:
    """Ask a block device for its block sizes.

    Args:
        fd: the device.
        sys: where sysfs is mounted.
    """
    logical = _ask(fd, _BLKSSZGET)
    folder = sys / "dev" / "block" / _number(os.fstat(fd.fileno()).st_rdev)
    return BlockSizes(
        logical=logical,
        physical=max(_ask(fd, _BLKPBSZGET), logical),
        offset=max(_ask(fd, _BLKALIGNOFF), 0),  # negative: it is nowhere aligned
        minimum=_ask(fd, _BLKIOMIN),
        optimal=_ask(fd, _BLKIOOPT),
        discard=max(_discard_granularity(folder), logical),
    )


def _ask(fd: OwnedFd, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(fd.fileno(), request, bytes(4)))[0])


def _discard_granularity(folder: Path) -> int:
    """Read it of a disk, or of the disk that a partition is part of; 0 where it is not told."""
    for queue in (folder / "queue", folder / ".." / "queue"):
        try:
            return int((queue / "discard_granularity").read_text())
        except (OSError, ValueError):
            continue
    return 0


def claim(fd: OwnedFd, path: Path, *, read_only: bool) -> OwnedFd:
    """Make sure that a block device can be served, and that the host does not use it itself.

    Args:
        fd: the device, open for reading or writing; it stays the caller's.
        path: for messages.
        read_only: only look; else nobody can mount the device while the result is open.

    Returns:
        Another description of the same device.

    Raises:
        StoreError: it is in use, the text says by what; or it cannot be written.
    """
    if not read_only and _ask(fd, _BLKROGET):  # open() does not mind
        raise StoreError(
            errno.EROFS, f"{path} is write-protected; it can be read, so --read-only would serve it"
        )
    same = f"/proc/self/fd/{fd.fileno()}"
    flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        claimed = OwnedFd(os.open(same, flags | os.O_EXCL))
        if not read_only:
            return claimed
        claimed.close()  # others may read it, too
        return OwnedFd(os.open(same, flags))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise StoreError(error.errno, f"cannot open {path}: {error.strerror}") from error
        reason = reason_in_use(os.fstat(fd.fileno()).st_rdev)
        raise StoreError(error.errno, f"{path} is in use: {reason}") from error


def reason_in_use(device: int, *, proc: Path = _PROC, sys: Path = _SYS) -> str:
    """Say who uses a block device that the kernel called busy, and what to do about it.

    Args: see `known_use`.
    """
    unknown = "another program has it for itself alone; end that first"
    return known_use(device, proc=proc, sys=sys) or unknown


def known_use(device: int, *, proc: Path = _PROC, sys: Path = _SYS) -> str:
    """Say what the host does with a block device, and how to end that; empty if nothing is known.

    Args:
        device: its number.
        proc: where procfs is mounted.
        sys: where sysfs is mounted.
    """
    folder = sys / "dev" / "block" / _number(device)
    parts = {_number(device): "it"}
    for partition in folder.glob("*/partition"):
        parts[_read(partition.parent / "dev")] = partition.parent.name
    for number, source, mount_point in _mounts(proc / "self" / "mountinfo"):
        for name in {number, _number_of(source)} & parts.keys():
            return f"{parts[name]} is mounted on {mount_point}; unmount it first"
    for source in _swaps(proc / "swaps"):
        name = _number_of(source)
        if name in parts:
            return f"{parts[name]} is swap space; switch it off first (swapoff {source})"
    for holder in (*folder.glob("holders/*"), *folder.glob("*/holders/*")):
        called = _read(holder / "dm" / "name") or holder.name
        return f"{called} is built on it (device mapper or RAID); serve that, or take it apart"
    return ""


def _mounts(path: Path) -> Iterator[tuple[str, str, str]]:
    """Give device number, source and mount point of each file system that is mounted."""
    for line in _read(path).splitlines():
        mounted, _, file_system = line.partition(" - ")
        fields, source = mounted.split(), file_system.split()
        yield fields[2], _plain(source[1]), _plain(fields[4])


def _swaps(path: Path) -> Iterator[str]:
    for line in _read(path).splitlines()[1:]:
        yield _plain(line.split()[0])


def _plain(text: str) -> str:
    r"""Undo the kernel's way to write a blank as \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _number_of(path: str) -> str:
    """Return a device's number; empty where the path is of no device."""
    try:
        device = Path(path).stat().st_rdev if path.startswith("/") else 0
    except OSError:
        return ""
    return _number(device) if device else ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
