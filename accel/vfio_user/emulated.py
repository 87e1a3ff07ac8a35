"""What a device must be able to do to be served over vfio-user; `accel.vfio_user.server` serves it.

Everything that reaches a device was checked before: a region access lies inside a region that
allows it, a memory range overlaps no other, a vector exists. What a device raises as OSError is the
client's answer; anything else is a bug and ends the connection. Specification: vfio-user, "Device".
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accel.pci import Area
    from vhostuser.fds import OwnedFd

__all__ = [
    "MSIX_IRQ",
    "ClientMemory",
    "DmaRange",
    "EmulatedDevice",
    "EmulatedRegion",
    "IoFd",
]

MSIX_IRQ = 2
"""Interrupt indices are VFIO's: 0 INTx, 1 MSI, 2 MSI-X, 3 error, 4 request."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmulatedRegion:
    """One region of a device, by VFIO's numbers: 0 to 5 BARs, 7 configuration space.

    Attributes:
        size: bytes.
        readable: whether it can be read.
        writable: whether it can be written.
        areas: the parts of it that a client may map; without any, and with an fd: all of it.
        fd: what a client maps, the device's own, open until the device is served no more. Seal a
            memfd against shrinking before.
        file_offset: where the region begins in the file of `fd`.
    """

    size: int
    readable: bool = True
    writable: bool = True
    areas: tuple[Area, ...] = ()
    fd: OwnedFd | None = None
    file_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DmaRange:
    """Memory that the client lets the device reach.

    Attributes:
        address: of its first byte for the device (IOVA).
        size: bytes.
        readable: whether the device may read it.
        writable: whether the device may write it.
        fd: the file that holds it; None: only messages reach it. Open until `unmap` has returned,
            the server's; duplicate it to keep it longer.
        offset: where the range begins in that file.
    """

    address: int
    size: int
    readable: bool
    writable: bool
    fd: OwnedFd | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IoFd:
    """An eventfd that does the same as a write to a region.

    Attributes:
        offset: where that write would go, bytes from the region's beginning.
        size: of that write, bytes.
        fd: the eventfd; the device's, open until the device is served no more.
        datamatch: the value that would be written; None: any.
    """

    offset: int
    size: int
    fd: OwnedFd
    datamatch: int | None = None


class ClientMemory(Protocol):
    """The client's memory as a device reaches it, from when it connects to `disconnected`.

    Both methods use the file of a range where there is one, and messages otherwise. They may be
    called while a command of the client is being served.
    """

    async def read(self, address: int, size: int) -> bytes:
        """Read bytes. Cancellable.

        Raises:
            OSError: the client has not mapped all of it for reading, refused, or is gone.
        """

    async def write(self, address: int, data: bytes) -> None:
        """Write bytes. Cancellable, but not all or nothing.

        Raises:
            OSError: the client has not mapped all of it for writing, refused, or is gone.
        """


class EmulatedDevice(abc.ABC):
    """A device that is served to one client at a time, and keeps its state between clients.

    Its methods are called one after the other, in the order of the client's commands, each before
    the reply to its command is sent.

    Attributes:
        name: for messages to people.
        regions: those that the device has, by number; others have size 0.
        irqs: number of vectors of each interrupt index that the device has.
    """

    name: str
    regions: Mapping[int, EmulatedRegion]
    irqs: Mapping[int, int]

    async def connected(self, memory: ClientMemory) -> None:
        """Note a new client, of which nothing is mapped yet.

        Args:
            memory: to reach what it will map.
        """
        del self, memory
        await trio.lowlevel.checkpoint()

    @abc.abstractmethod
    async def read(self, region: int, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes of a readable region. Raises OSError: refused."""

    @abc.abstractmethod
    async def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a writable region. Raises OSError: refused (a posted write: in vain)."""

    async def map(self, dma: DmaRange) -> None:
        """Note memory that can be reached from now on. Not cancellable.

        Raises:
            OSError: it is not mapped.
        """
        del self, dma
        await trio.lowlevel.checkpoint()

    async def unmap(self, dma: DmaRange) -> None:
        """Stop using a range; when this returns, nothing of the device touches it any more.

        Args:
            dma: the same object that `map` was given.

        Not cancellable.
        """
        del self, dma
        await trio.lowlevel.checkpoint()

    async def set_irqs(self, index: int, start: int, fds: Sequence[OwnedFd | None]) -> None:
        """Have vectors signal eventfds, or nothing; others stay as they are.

        Args:
            index: interrupt index.
            start: the first vector.
            fds: for `start` and those that follow. They are the server's, and open until another
                call changed that vector, or `disconnected` has returned.

        Not cancellable.

        Raises:
            OSError: refused; nothing has changed.
        """
        del self, index, start, fds
        await trio.lowlevel.checkpoint()

    def io_fds(self, region: int) -> Sequence[IoFd]:
        """Return eventfds that a client may signal instead of writing to a region."""
        del self, region
        return ()

    async def reset(self) -> None:
        """Reset the device; mappings and eventfds stay. Raises OSError: it cannot be reset."""
        await trio.lowlevel.checkpoint()

    async def disconnected(self) -> None:
        """Stop using the client's memory and eventfds; when this returns, nothing touches them.

        Each range that was mapped goes through `unmap` right after, then the eventfds are closed.
        Not cancellable.
        """
        await trio.lowlevel.checkpoint()
