"""A device's interrupts: MSI-X vectors that signal eventfds, and the host's words of farewell."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import trio

from accel.vfio.kernel import ask
from protocol.kernel import vfio
from vhostuser.errors import AcceleratorError
from vhostuser.fds import Closing, OwnedFd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accel.vfio.kernel import Kernel

__all__ = ["Departure", "Vectors"]

_FAREWELLS = {
    vfio.IrqIndex.REQ: "the host wants the device back (it is being unbound or unplugged)",
    vfio.IrqIndex.ERR: "the device met an error that only a reset cures; `dmesg` may tell which",
}


class Vectors:
    """The MSI-X vectors of an open device. Setting them may be slow: call it in a thread.

    Args:
        kernel: whom to ask.
        fd: the device; stays the caller's.
        count: how many the device has.
    """

    def __init__(self, kernel: Kernel, fd: OwnedFd, count: int) -> None:
        self._kernel = kernel
        self._fd = fd
        self._count = count
        self._enabled = 0

    def set(self, fds: Mapping[int, OwnedFd | None]) -> None:
        """Have vectors signal eventfds, or nothing; others stay as they are.

        Raises:
            OSError: there is no such vector, or the host has not enough of them.
        """
        numbers = {vector: _number(fd) for vector, fd in fds.items()}
        for vector in numbers:
            if not 0 <= vector < self._count:
                raise AcceleratorError(
                    f"there is no interrupt vector {vector}, only {self._count}", errno.EINVAL
                )
        if not self._enabled:
            self._enable(numbers)
            return
        for vector, number in numbers.items():
            self._set(vector, [number])

    def _enable(self, numbers: Mapping[int, int]) -> None:
        """Turn MSI-X on, with every vector at once: most kernels let none be added later."""
        needed = max((vector + 1 for vector, fd in numbers.items() if fd != vfio.NO_FD), default=0)
        if not needed:
            return
        possible = self._count
        wanted = [numbers.get(vector, vfio.NO_FD) for vector in range(possible)]
        left = self._set(0, wanted)
        if left:
            # So many are free on this host; the device may do with them.
            possible = min(left, possible)
            left = self._set(0, wanted[:possible]) if needed <= possible else left
        if left:
            raise AcceleratorError(
                f"the host has {left} interrupt vectors left, and {needed} are needed: use fewer "
                "queues, or other devices less",
                errno.ENOSPC,
            )
        self._enabled = possible

    def _set(self, start: int, numbers: list[int]) -> int:
        """Set a run of vectors; return 0, or how many the host could have set instead."""
        if self._enabled and start >= self._enabled:
            raise AcceleratorError(
                f"the host had only {self._enabled} interrupt vectors left for the device",
                errno.ENOSPC,
            )
        argument = vfio.irq_eventfds(vfio.IrqIndex.MSIX, start, numbers)
        return self._kernel.ioctl(self._fd, vfio.Request.DEVICE_SET_IRQS, argument)

    def off(self) -> None:
        """Turn MSI-X off. Raises OSError."""
        if self._enabled:
            self._enabled = 0
            argument = vfio.irqs_off(vfio.IrqIndex.MSIX)
            self._kernel.ioctl(self._fd, vfio.Request.DEVICE_SET_IRQS, argument)


def _number(fd: OwnedFd | None) -> int:
    return vfio.NO_FD if fd is None else fd.fileno()


class Departure(Closing):
    """Whether and why a device is gone, or about to go.

    Args:
        kernel: whom to ask.
        fd: the device; stays the caller's.
        kinds: how many kinds of interrupts it has.

    Raises:
        OSError: the host refused.
    """

    def __init__(self, kernel: Kernel, fd: OwnedFd, kinds: int) -> None:
        self._kernel = kernel
        self._fd = fd
        self._eventfds: dict[vfio.IrqIndex, OwnedFd] = {}
        self._why: str | None = None
        self._noted = trio.Event()
        self._watching = trio.Lock()
        try:
            for index in _FAREWELLS:
                if index < kinds:
                    self._listen(index)
        except BaseException:
            self.close()
            raise

    def _listen(self, index: vfio.IrqIndex) -> None:
        try:
            info = ask(
                self._kernel, self._fd, vfio.Request.DEVICE_GET_IRQ_INFO, vfio.IrqInfo, index
            )
        except OSError as error:
            if error.errno == errno.EINVAL:  # no PCI Express device has no errors to report
                return
            raise
        if info.count and vfio.IrqFlags.EVENTFD in info.flags:
            fd = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            self._eventfds[index] = fd
            argument = vfio.irq_eventfds(index, 0, [fd.fileno()])
            self._kernel.ioctl(self._fd, vfio.Request.DEVICE_SET_IRQS, argument)

    def note(self, why: str) -> None:
        """Take it for gone, for a reason; the first one counts."""
        if self._why is None:
            self._why = why
            self._noted.set()

    async def wait(self) -> str:
        """Wait until the device is gone; return why. Cancellable; any number may wait."""
        async with self._watching:  # of those who wait, one looks
            if self._why is None:
                async with trio.open_nursery() as nursery:
                    for index, fd in self._eventfds.items():
                        nursery.start_soon(self._watch, index, fd)
                    await self._noted.wait()
                    nursery.cancel_scope.cancel()
        assert self._why is not None, "noted without a reason"
        return self._why

    async def _watch(self, index: vfio.IrqIndex, fd: OwnedFd) -> None:
        await trio.lowlevel.wait_readable(fd.fileno())
        self.note(_FAREWELLS[index])

    def close(self) -> None:
        """Listen no more; nobody may be waiting."""
        for fd in self._eventfds.values():
            fd.close()
