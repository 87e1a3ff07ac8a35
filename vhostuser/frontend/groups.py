"""The VFIO groups that a back-end of an RFC dialect hands over: one a queue, counted per group.

A hypervisor would tell its interrupt controller of them; this front-end holds them and shows them.
What a group, a container and a device descriptor are: the kernel's Documentation/driver-api/vfio.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from vhostuser.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhostuser.fds import OwnedFd

__all__ = ["GroupIdentity", "VfioGroups", "identify_group"]


@dataclass(frozen=True, slots=True)
class GroupIdentity:
    """Which group a descriptor refers to, whatever its number is.

    Attributes:
        device: number of the character device (st_rdev).
        inode: number of its node (st_ino).
    """

    device: int
    inode: int


def identify_group(fd: OwnedFd) -> GroupIdentity:
    """Return which VFIO group a descriptor refers to. May block.

    The number of the device decides, not the name of its node: the kernel is asked what it is.

    Raises:
        RequestError: it is no group of the kernel's VFIO, such as /dev/vfio/12.
    """
    status = os.fstat(fd.fileno())
    if not stat.S_ISCHR(status.st_mode) or not _is_group(status.st_rdev):
        raise RequestError(
            errno.EINVAL,
            "a VFIO group comes along, such as /dev/vfio/12; a device cdev has none",
            field="fd",
            value=f"mode {status.st_mode:#o}, device {status.st_rdev:#x}",
        )
    return GroupIdentity(status.st_rdev, status.st_ino)


def _is_group(device: int) -> bool:
    place = Path(f"/sys/dev/char/{os.major(device)}:{os.minor(device)}").resolve()
    # The container (/dev/vfio/vfio) and groups without an IOMMU (noiommu-N) are no number.
    return place.parent.name == "vfio" and place.name.isdecimal()


class VfioGroups:
    """The groups by queue. Its methods are called one at a time.

    Args:
        identify: tells groups apart and refuses what is none; called in a thread.
    """

    def __init__(self, identify: Callable[[OwnedFd], GroupIdentity] = identify_group) -> None:
        self._identify = identify
        self._by_queue: dict[int, GroupIdentity] = {}
        self._held: dict[GroupIdentity, OwnedFd] = {}

    def of(self, index: int) -> GroupIdentity | None:
        """Return the group of a queue; None: it has none."""
        return self._by_queue.get(index)

    def references(self, group: GroupIdentity) -> int:
        """Return how many queues have this group; it is let go of with the last."""
        return sum(each == group for each in self._by_queue.values())

    def __len__(self) -> int:
        """Return how many different groups are held."""
        return len(self._held)

    async def put(self, index: int, fd: OwnedFd) -> None:
        """Give a queue a group in place of the one it has.

        Not cancellable.

        Args:
            index: queue.
            fd: the group; taken over.

        Raises:
            OSError: it is no group; the queue keeps the one it has.
        """
        with trio.CancelScope(shield=True):
            try:
                group = await trio.to_thread.run_sync(self._identify, fd)
            except OSError:
                await _close([fd])
                raise
            unused = [fd]
            if group not in self._held:
                self._held[group] = fd
                unused = []
            old = self._by_queue.get(index)
            self._by_queue[index] = group
            await _close(unused + self._forget(old))

    async def remove(self, index: int) -> None:
        """Take a queue's group from it; nothing happens if it has none. Not cancellable."""
        await _close(self._forget(self._by_queue.pop(index, None)))

    async def clear(self) -> None:
        """Take every queue's group from it. Not cancellable."""
        self._by_queue.clear()
        fds = [*self._held.values()]
        self._held.clear()
        await _close(fds)

    def _forget(self, group: GroupIdentity | None) -> list[OwnedFd]:
        """Return the descriptor of a group that no queue has any more, to be closed."""
        if group is None or self.references(group):
            return []
        return [self._held.pop(group)]


async def _close(fds: list[OwnedFd]) -> None:
    with trio.CancelScope(shield=True):
        for fd in fds:
            await trio.to_thread.run_sync(fd.close)
