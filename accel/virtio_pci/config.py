"""The device configuration structure: read whole, written, and known when it has changed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

from protocol.virtio.pci import CommonRegister
from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from accel.pci import PciDevice
    from accel.virtio_pci.structure import CommonConfig
    from protocol.virtio.pci import StructureCapability

__all__ = ["DeviceConfig"]

_TRIES = 16
"""How often a configuration that changes while it is read is read again."""


class DeviceConfig:
    """A device's own configuration space.

    Args:
        device: whose it is.
        common: its common configuration, which counts the changes.
        structure: where it is; None: the device has none.
    """

    def __init__(
        self, device: PciDevice, common: CommonConfig, structure: StructureCapability | None
    ) -> None:
        self._device = device
        self._common = common
        self._structure = structure
        self._generation: int | None = None

    async def read(self, offset: int, size: int) -> bytes:
        """Read a part as it was at one moment; zeros beyond the end.

        Raises:
            OSError: the device is gone, or changes it faster than it can be read.
        """
        structure = self._structure
        inside = 0 if structure is None else max(0, min(size, structure.size - offset))
        if structure is None or not inside:
            await trio.lowlevel.checkpoint()
            return bytes(size)
        for _ in range(_TRIES):
            before = await self._common.read(CommonRegister.CONFIG_GENERATION)
            data = await self._device.read_block(structure.bar, structure.offset + offset, inside)
            self._generation = await self._common.read(CommonRegister.CONFIG_GENERATION)
            if self._generation == before:
                return data.ljust(size, b"\0")
        raise AcceleratorError(
            f"{self._device.name} changes its configuration faster than it can be read",
            number=errno.EAGAIN,
        )

    async def write(self, offset: int, data: bytes) -> None:
        """Write a part.

        Raises:
            OSError: it does not lie inside, or the device is gone.
        """
        structure = self._structure
        if structure is None or not 0 <= offset <= structure.size - len(data):
            raise AcceleratorError(
                f"{self._device.name} has no configuration at {offset:#x} that could be written",
                number=errno.EINVAL,
            )
        await self._device.write_block(structure.bar, structure.offset + offset, data)

    async def changed(self) -> bool:
        """Whether it has changed since it was read last. Raises OSError: the device is gone."""
        return await self._common.read(CommonRegister.CONFIG_GENERATION) != self._generation
