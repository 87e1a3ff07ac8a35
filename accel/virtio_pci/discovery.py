"""What a virtio PCI device says of itself, checked before anything is made of it.

A device may be wrong or hostile. Whatever could lead an access astray later (a structure outside
its BAR, a doorbell outside its structure, a queue of impossible size) is refused here, in words.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accel.pci import CONFIG_REGION
from protocol.virtio import MAX_RING_SIZE, VirtioFeatures, is_ring_size
from protocol.virtio.pci import (
    COMMON_SIZE,
    COMMON_SIZE_WITH_RESET,
    CONFIG_SPACE_SIZE,
    FEATURE_WORDS,
    QUEUE_STATE_SIZE,
    CommonRegister,
    StructureCapability,
    VirtioFunction,
    notify_offset,
    parse_function,
)
from vhostuser.errors import AcceleratorError, UsageError

if TYPE_CHECKING:
    from accel.pci import PciDevice
    from accel.virtio_pci.structure import CommonConfig, Place

__all__ = ["MAX_QUEUES", "Layout", "Offer", "read_layout", "read_offer"]

MAX_QUEUES = 1024
"""More than any device of today has; each costs several accesses to look at."""
_BARS = range(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a device has its structures: all lie inside their BARs.

    Attributes:
        function: all that its configuration space says.
        common: the common configuration structure.
        notify: the notification structure.
    """

    function: VirtioFunction
    common: StructureCapability
    notify: StructureCapability

    @property
    def can_reset_queues(self) -> bool:
        """Whether the common configuration is long enough for RING_RESET's field."""
        return self.common.size >= COMMON_SIZE_WITH_RESET

    def others(self) -> list[tuple[str, int, int, int]]:
        """Name, BAR, offset and size of what is not the notification structure."""
        function = self.function
        places: list[tuple[str, Place | None]] = [
            ("common configuration", function.common),
            ("ISR status", function.isr),
            ("device configuration", function.device),
            ("queue state", function.queue_state),
        ]
        found = [
            (name, place.bar, place.offset, place.size)
            for name, place in places
            if place is not None
        ]
        if function.msix is not None:
            msix = function.msix
            found += [
                ("MSI-X table", msix.table_bar, msix.table_offset, msix.table_size),
                ("MSI-X pending bits", msix.pending_bar, msix.pending_offset, msix.pending_size),
            ]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a device offers a driver.

    Attributes:
        features: virtio features, as they are.
        queue_sizes: the largest size of each queue; 0: that queue is not there.
        doorbells: where in the notification structure each queue's doorbell is, bytes.
    """

    features: VirtioFeatures
    queue_sizes: tuple[int, ...]
    doorbells: tuple[int, ...]


async def read_layout(device: PciDevice, name: str) -> Layout:
    """Read and check a device's configuration space.

    Raises:
        UsageError: it is no virtio device that could be driven.
        OSError: it is gone.
    """
    config = await device.read_block(CONFIG_REGION, 0, CONFIG_SPACE_SIZE)
    if config[:4] == b"\xff" * 4:
        raise AcceleratorError(f"{name} does not answer: it is gone", number=errno.ENODEV)
    sizes = {
        number: region.size
        for number, region in device.regions.items()
        if number in _BARS and region.readable and region.writable
    }
    try:
        function = parse_function(config, sizes)
    except ValueError as error:
        raise UsageError(f"{name} cannot be driven: {error}") from error
    if function.common is None or function.notify is None:
        raise UsageError(
            f"{name} has no modern virtio interface (common configuration and notification "
            "structures inside its BARs): legacy devices cannot be driven "
            "(QEMU: disable-modern=off)"
        )
    if device.vectors == 0:
        raise UsageError(f"{name} has no MSI-X vectors to interrupt with (QEMU: vectors=N)")
    layout = Layout(function=function, common=function.common, notify=function.notify)
    _check_structures(layout, name)
    return layout


def _check_structures(layout: Layout, name: str) -> None:
    function, multiplier = layout.function, layout.notify.multiplier
    if multiplier == 1 or multiplier & (multiplier - 1):
        raise UsageError(
            f"{name}: notify_off_multiplier is 0, or a power of two above 1, not {multiplier}"
        )
    for what, place, least, alignment in (
        ("common configuration", function.common, COMMON_SIZE, 4),
        ("notification", function.notify, 2, 2),
        ("device configuration", function.device, 0, 4),
        ("queue state", function.queue_state, QUEUE_STATE_SIZE, 4),
    ):
        if place is not None and (place.size < least or place.offset % alignment):
            raise UsageError(
                f"{name}: its {what} structure has at least {least} bytes at a multiple of "
                f"{alignment}, not {place.size} at {place.offset:#x}"
            )


async def read_offer(common: CommonConfig, layout: Layout, name: str) -> Offer:
    """Read and check what a device that was reset offers.

    Raises:
        UsageError: it is a legacy device.
        OSError: it is gone, or breaks the rules of virtio.
    """
    features = VirtioFeatures(
        await common.read_mask(
            CommonRegister.DEVICE_FEATURE_SELECT, CommonRegister.DEVICE_FEATURE, FEATURE_WORDS
        )
    )
    if not features & VirtioFeatures.VERSION_1:
        raise UsageError(f"{name} does not offer VERSION_1: legacy devices cannot be driven")
    count = await common.read(CommonRegister.NUM_QUEUES)
    if not 0 < count <= MAX_QUEUES:
        raise AcceleratorError(f"{name} has 1 to {MAX_QUEUES} queues, not {count}")
    sizes: list[int] = []
    doorbells: list[int] = []
    for index in range(count):
        await common.write(CommonRegister.QUEUE_SELECT, index)
        size = await common.read(CommonRegister.QUEUE_SIZE)
        offset = await common.read(CommonRegister.QUEUE_NOTIFY_OFF)
        sizes.append(_checked_size(size, features, f"{name}, queue {index}"))
        doorbells.append(_checked_doorbell(offset, layout, f"{name}, queue {index}"))
    while sizes and sizes[-1] == 0:
        sizes.pop()
    if not sizes:
        raise AcceleratorError(f"{name} has no queue that can be used")
    return Offer(
        features=features, queue_sizes=tuple(sizes), doorbells=tuple(doorbells[: len(sizes)])
    )


def _checked_size(size: int, features: VirtioFeatures, what: str) -> int:
    packed = bool(features & VirtioFeatures.RING_PACKED)
    if size and not is_ring_size(size, packed=packed):
        raise AcceleratorError(
            f"{what}: a ring has up to {MAX_RING_SIZE} descriptors, a split one a power of two, "
            f"not {size}"
        )
    return size


def _checked_doorbell(offset: int, layout: Layout, what: str) -> int:
    notify = layout.notify
    try:
        return notify_offset(offset, notify.multiplier, notify.size)
    except ValueError as error:
        raise AcceleratorError(f"{what}: {error}") from error
