"""From reset to running: a device's status and the features that it and the guest's driver share.

Specification: VIRTIO 1.2, 3.1.1 "Driver Requirements: Device Initialization", 2.4 "Device Reset".
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from accel.virtio_pci.structure import eventually
from protocol.virtio import OF_THE_BUS, VirtioFeatures
from protocol.virtio.pci import FEATURE_WORDS, CommonRegister, DeviceStatus
from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from accel.pci import PciDevice
    from accel.virtio_pci.discovery import Layout
    from accel.virtio_pci.structure import CommonConfig

__all__ = ["Negotiation"]

_log = logging.getLogger(__name__)

_NOT_FOR_GUESTS = OF_THE_BUS | VirtioFeatures.LOG_ALL | VirtioFeatures.PROTOCOL_FEATURES
_DRIVER = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER


class Negotiation:
    """A device's status, and the features it was given.

    Args:
        device: whose it is.
        common: its common configuration.
        name: of the device, for messages to people.
        patience: how long it may take to reset, in seconds.

    Attributes:
        name: of the device, for messages to people.
        patience: how long it may take to reset, in seconds.
        negotiated: the features it was given; None: it was reset.
        running: whether it may work on its queues.
    """

    def __init__(
        self, device: PciDevice, common: CommonConfig, *, name: str, patience: float
    ) -> None:
        self._device = device
        self._common = common
        self.name = name
        self.patience = patience
        self._offered = VirtioFeatures(0)
        self._own = VirtioFeatures(0)
        self.negotiated: VirtioFeatures | None = None
        self.running = False

    def offer(self, features: VirtioFeatures, layout: Layout) -> VirtioFeatures:
        """Note what the device offers; return what of it a guest may be offered."""
        self._offered = features
        # The addresses are the guest's, not the host's; and `reset_queue` wants its field.
        self._own = features & VirtioFeatures.ACCESS_PLATFORM
        if layout.can_reset_queues:
            self._own |= features & VirtioFeatures.RING_RESET
        return features & ~_NOT_FOR_GUESTS

    @property
    def packed(self) -> bool:
        """Whether rings are packed."""
        return self.has(VirtioFeatures.RING_PACKED)

    def has(self, feature: VirtioFeatures) -> bool:
        """Whether a feature was negotiated."""
        return self.negotiated is not None and bool(self.negotiated & feature)

    async def reset(self) -> None:
        """Reset the device, by its status or as a function.

        Raises:
            OSError: it cannot be reset, or is gone.
        """
        self.negotiated = None
        self.running = False
        await self._common.set_status(DeviceStatus(0))
        if await eventually(self._is_reset, self.patience):
            return
        _log.warning("%s ignores a reset of its status; resetting the function", self.name)
        await self._device.reset()
        if not await eventually(self._is_reset, self.patience):
            raise AcceleratorError(f"{self.name} cannot be reset", number=errno.ETIMEDOUT)

    async def _is_reset(self) -> bool:
        return await self._common.status() == 0

    async def acknowledge(self) -> None:
        """Tell a device that was reset that it has a driver."""
        await self._common.set_status(DeviceStatus.ACKNOWLEDGE)
        await self._common.set_status(_DRIVER)

    async def set_features(self, features: VirtioFeatures) -> None:
        """Negotiate with a device that was reset. PROTOCOL_FEATURES is no feature of a device.

        Raises:
            OSError: it does not take them.
        """
        wanted = features & ~VirtioFeatures.PROTOCOL_FEATURES
        self._check(wanted)
        wanted |= self._own
        common = self._common
        await self.acknowledge()
        await common.write_mask(
            CommonRegister.DRIVER_FEATURE_SELECT,
            CommonRegister.DRIVER_FEATURE,
            int(wanted),
            FEATURE_WORDS,
        )
        await common.set_status(_DRIVER | DeviceStatus.FEATURES_OK)
        if not await common.status() & DeviceStatus.FEATURES_OK:
            await common.set_status(_DRIVER | DeviceStatus.FAILED)
            raise AcceleratorError(
                f"{self.name} does not take the features {int(wanted):#x}", number=errno.ENOTSUP
            )
        self.negotiated = wanted

    def _check(self, features: VirtioFeatures) -> None:
        if self.negotiated is not None:
            raise AcceleratorError(f"{self.name} has its features; reset it first")
        surplus = features & (~self._offered | _NOT_FOR_GUESTS)
        if surplus:
            raise AcceleratorError(
                f"{self.name} does not offer the features {int(surplus):#x}", number=errno.EINVAL
            )
        if not features & VirtioFeatures.VERSION_1:
            raise AcceleratorError(
                f"{self.name} is a modern device: a driver without VERSION_1 cannot use it",
                number=errno.ENOTSUP,
            )

    async def require_ready(self) -> None:
        """Check that queues can be programmed.

        Raises:
            OSError: the device has no features yet, needs a reset, or is gone.
        """
        status = await self._common.status()
        if self.negotiated is None or not status & DeviceStatus.FEATURES_OK:
            raise AcceleratorError(f"{self.name} has no features yet")
        if status & DeviceStatus.NEEDS_RESET:
            raise AcceleratorError(f"{self.name} needs a reset")

    async def start(self) -> None:
        """Let the device work on its queues.

        Raises:
            OSError: it fails, or is gone.
        """
        await self.require_ready()
        await self._common.set_status(_DRIVER | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK)
        await self.require_ready()
        self.running = True
