"""Numbers and flags of VFIO; the names are those of <linux/vfio.h> without their prefix."""

from __future__ import annotations

import enum

__all__ = [
    "API_VERSION",
    "NO_FD",
    "DeviceFlags",
    "Extension",
    "GroupFlags",
    "IommuFlags",
    "IrqFlags",
    "IrqIndex",
    "RegionFlags",
    "RegionIndex",
    "Request",
]

API_VERSION = 0
NO_FD = -1
"""Stands for "no eventfd": the interrupt goes nowhere."""


class Request(enum.IntEnum):
    """The number of an ioctl; as `_IO` makes it everywhere but on Alpha, MIPS, PowerPC, SPARC."""

    # On /dev/vfio/vfio.
    GET_API_VERSION = 0x3B64
    CHECK_EXTENSION = 0x3B65
    SET_IOMMU = 0x3B66
    # On a group.
    GROUP_GET_STATUS = 0x3B67
    GROUP_SET_CONTAINER = 0x3B68
    GROUP_UNSET_CONTAINER = 0x3B69
    GROUP_GET_DEVICE_FD = 0x3B6A
    # On a device.
    DEVICE_GET_INFO = 0x3B6B
    DEVICE_GET_REGION_INFO = 0x3B6C
    DEVICE_GET_IRQ_INFO = 0x3B6D
    DEVICE_SET_IRQS = 0x3B6E
    DEVICE_RESET = 0x3B6F
    DEVICE_IOEVENTFD = 0x3B74
    # On a container with a type 1 IOMMU.
    IOMMU_GET_INFO = 0x3B70
    IOMMU_MAP_DMA = 0x3B71
    IOMMU_UNMAP_DMA = 0x3B72


class Extension(enum.IntEnum):
    """What a container can be asked for, and the kind of IOMMU that it is given."""

    TYPE1_IOMMU = 1
    TYPE1V2_IOMMU = 3
    """A range is unmapped as it was mapped, or not at all."""
    NOIOMMU_IOMMU = 8


class RegionIndex(enum.IntEnum):
    """The number of a PCI device's region; 0 to 5 are its BARs."""

    BAR0 = 0
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class IrqIndex(enum.IntEnum):
    """A kind of interrupt of a PCI device."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    """The device met an error that only a reset can cure."""
    REQ = 4
    """The host wants the device back."""


class GroupFlags(enum.IntFlag, boundary=enum.KEEP):
    """What holds for a group."""

    VIABLE = 1 << 0
    CONTAINER_SET = 1 << 1


class DeviceFlags(enum.IntFlag, boundary=enum.KEEP):
    """What holds for a device."""

    RESET = 1 << 0
    PCI = 1 << 1
    CAPS = 1 << 7


class RegionFlags(enum.IntFlag, boundary=enum.KEEP):
    """What can be done with a region."""

    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    CAPS = 1 << 3


class IrqFlags(enum.IntFlag, boundary=enum.KEEP):
    """What can be done with a kind of interrupt."""

    EVENTFD = 1 << 0
    MASKABLE = 1 << 1
    AUTOMASKED = 1 << 2
    NORESIZE = 1 << 3
    """The number of vectors is settled the first time they are set."""


class IommuFlags(enum.IntFlag, boundary=enum.KEEP):
    """What a container says of its IOMMU."""

    PGSIZES = 1 << 0
    CAPS = 1 << 1
