"""A virtio PCI function as its configuration space describes it.

Specification: VIRTIO 1.2, 4.1.2 "PCI Device Discovery", 4.1.4 "Virtio Structure PCI Capabilities".
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.virtio.pci.capabilities import (
    CONFIG_SPACE_SIZE,
    CapabilityType,
    MsixCapability,
    QueueStateCapability,
    StructureCapability,
    walk_capabilities,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MODERN_DEVICE_ID",
    "PCI_STATUS_CAPABILITIES",
    "VIRTIO_VENDOR",
    "PciCommand",
    "PciHeader",
    "VirtioFunction",
    "parse_function",
]

VIRTIO_VENDOR = 0x1AF4
MODERN_DEVICE_ID = 0x1040
"""Device id of a modern function, less its virtio device type."""
_TRANSITIONAL_DEVICE_ID = 0x1000
_LAST_DEVICE_ID = 0x107F
_LAST_BAR = 5


class PciHeader(enum.IntEnum):
    """Where in configuration space the header has what matters here."""

    VENDOR = 0x00
    DEVICE = 0x02
    COMMAND = 0x04
    STATUS = 0x06
    REVISION = 0x08
    CLASS = 0x09
    BARS = 0x10
    SUBSYSTEM_VENDOR = 0x2C
    SUBSYSTEM = 0x2E
    CAPABILITIES = 0x34


class PciCommand(enum.IntFlag):
    """Bits of the header's command field."""

    MEMORY = 2
    BUS_MASTER = 4
    INTX_OFF = 0x400


PCI_STATUS_CAPABILITIES = 0x10
"""Bit of the header's status field: there is a list of capabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioFunction:
    """What a function says of itself.

    Attributes:
        device_type: virtio device type: 1 net, 2 block, 4 entropy, ...
        transitional: whether it can also be driven as a legacy device.
        common: the common configuration structure, if it has one.
        notify: the notification structure, if it has one.
        isr: the ISR structure, if it has one.
        device: the device configuration structure, if it has one.
        msix: its MSI-X table, if it has one.
        queue_state: the queue state structure, if it has one.
    """

    device_type: int
    transitional: bool
    common: StructureCapability | None
    notify: StructureCapability | None
    isr: StructureCapability | None
    device: StructureCapability | None
    msix: MsixCapability | None
    queue_state: QueueStateCapability | None

    @property
    def modern(self) -> bool:
        """Whether it has what a driver of modern devices cannot do without."""
        return self.common is not None and self.notify is not None


def parse_function(config: bytes, bar_sizes: Mapping[int, int]) -> VirtioFunction:
    """Understand a virtio function's configuration space.

    Of several structures of one type the first that lies inside its BAR counts.

    Args:
        config: the first 256 bytes of it.
        bar_sizes: bytes of each BAR that can be reached.

    Raises:
        ValueError: it is not a virtio function, or contradicts itself.
    """
    if len(config) != CONFIG_SPACE_SIZE:
        raise ValueError(f"{CONFIG_SPACE_SIZE} bytes of configuration space, got {len(config)}")
    device_type, transitional = _identify(config)
    found: dict[int, StructureCapability] = {}
    msix: MsixCapability | None = None
    queue_state: QueueStateCapability | None = None
    (status,) = struct.unpack_from("<H", config, PciHeader.STATUS)
    start = config[PciHeader.CAPABILITIES] if status & PCI_STATUS_CAPABILITIES else 0
    for capability in walk_capabilities(config, start):
        if isinstance(capability, MsixCapability):
            msix = msix or capability
        elif not _inside(capability, bar_sizes):
            continue
        elif isinstance(capability, QueueStateCapability):
            queue_state = queue_state or capability
        else:
            found.setdefault(capability.type, capability)
    return VirtioFunction(
        device_type=device_type,
        transitional=transitional,
        common=found.get(CapabilityType.COMMON),
        notify=found.get(CapabilityType.NOTIFY),
        isr=found.get(CapabilityType.ISR),
        device=found.get(CapabilityType.DEVICE),
        msix=msix,
        queue_state=queue_state,
    )


def _identify(config: bytes) -> tuple[int, bool]:
    """Return the virtio device type, and whether the function is a transitional one."""
    vendor, device = struct.unpack_from("<HH", config, PciHeader.VENDOR)
    if vendor != VIRTIO_VENDOR or not _TRANSITIONAL_DEVICE_ID <= device <= _LAST_DEVICE_ID:
        raise ValueError(
            f"a virtio device has vendor {VIRTIO_VENDOR:#x} and device "
            f"{_TRANSITIONAL_DEVICE_ID:#x} to {_LAST_DEVICE_ID:#x}, this one is "
            f"{vendor:04x}:{device:04x}"
        )
    if device >= MODERN_DEVICE_ID:
        return device - MODERN_DEVICE_ID, False
    (subsystem,) = struct.unpack_from("<H", config, PciHeader.SUBSYSTEM)
    return subsystem, True


def _inside(
    structure: StructureCapability | QueueStateCapability, bar_sizes: Mapping[int, int]
) -> bool:
    return structure.bar <= _LAST_BAR and structure.end <= bar_sizes.get(structure.bar, 0)
