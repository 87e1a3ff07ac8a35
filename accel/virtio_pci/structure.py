"""Registers of a structure in a BAR: each read and written at its own width.

Nothing here remembers a value: what a device says is read once by whoever uses it, and checked
there.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

import trio

from protocol.virtio.pci import GONE, CommonRegister, DeviceStatus
from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from accel.pci import PciDevice
    from protocol.virtio.pci import Register

__all__ = ["CommonConfig", "Place", "Structure", "eventually"]

_WORD = 4
_WORD_MASK = (1 << 32) - 1
_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.05


class Place(Protocol):
    """Where a structure is; the capabilities of `protocol.virtio.pci` are such."""

    @property
    def bar(self) -> int:
        """Which BAR."""

    @property
    def offset(self) -> int:
        """Bytes from its beginning."""

    @property
    def size(self) -> int:
        """Bytes of the structure."""


class _Row(Protocol):
    @property
    def value(self) -> Register: ...


class Structure:
    """A structure of registers, described by a table of `protocol.virtio.pci`.

    Args:
        device: whose it is.
        place: where it is.
    """

    def __init__(self, device: PciDevice, place: Place) -> None:
        self._device = device
        self._place = place

    async def read(self, row: _Row) -> int:
        """Read a register of at most 32 bits. Raises OSError: the device is gone."""
        register = row.value
        offset = self._place.offset + register.offset
        return await self._device.read(self._place.bar, offset, register.width)

    async def write(self, row: _Row, value: int) -> None:
        """Write a register; one of 64 bits as two halves. Raises OSError: the device is gone."""
        register = row.value
        offset = self._place.offset + register.offset
        if register.width <= _WORD:
            await self._device.write(self._place.bar, offset, register.width, value)
            return
        await self._device.write(self._place.bar, offset, _WORD, value & _WORD_MASK)
        await self._device.write(self._place.bar, offset + _WORD, _WORD, value >> 32)


class CommonConfig(Structure):
    """The common configuration structure."""

    async def status(self) -> DeviceStatus:
        """Read the device status.

        Raises:
            OSError: the device is gone.
        """
        value = await self.read(CommonRegister.DEVICE_STATUS)
        if value == GONE:
            raise AcceleratorError(
                f"{self._device.name} does not answer any more", number=errno.ENODEV
            )
        return DeviceStatus(value)

    async def set_status(self, status: DeviceStatus) -> None:
        """Write the device status. Raises OSError: the device is gone."""
        await self.write(CommonRegister.DEVICE_STATUS, int(status))

    async def write_checked(self, row: CommonRegister, value: int) -> bool:
        """Write a register and return whether the device took the value."""
        await self.write(row, value)
        return await self.read(row) == value

    async def read_mask(self, select: CommonRegister, word: CommonRegister, words: int) -> int:
        """Read a mask of which a register shows 32 bits a time."""
        mask = 0
        for number in range(words):
            await self.write(select, number)
            mask |= await self.read(word) << (32 * number)
        return mask

    async def write_mask(
        self, select: CommonRegister, word: CommonRegister, mask: int, words: int
    ) -> None:
        """Write a mask of which a register takes 32 bits a time."""
        for number in range(words):
            await self.write(select, number)
            await self.write(word, (mask >> (32 * number)) & _WORD_MASK)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Ask a device again and again until something holds; return whether it did in time."""
    deadline = trio.current_time() + seconds
    pause = _FIRST_PAUSE
    while not await condition():
        if trio.current_time() >= deadline:
            return False
        await trio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True
