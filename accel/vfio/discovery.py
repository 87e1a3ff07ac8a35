"""What a device says of itself: its regions, where they can be mapped, its interrupt vectors."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from accel.pci import CONFIG_REGION, Area
from accel.vfio.access import describe
from accel.vfio.kernel import ask
from protocol.kernel import vfio
from protocol.virtio.pci import (
    CONFIG_SPACE_SIZE,
    PCI_STATUS_CAPABILITIES,
    MsixCapability,
    PciHeader,
    walk_capabilities,
)
from vhostuser.errors import AcceleratorError, UsageError

if TYPE_CHECKING:
    from accel.pci import Region
    from accel.vfio.kernel import Kernel
    from vhostuser.fds import OwnedFd

__all__ = ["ask_device", "ask_regions", "ask_vectors"]


def ask_device(kernel: Kernel, fd: OwnedFd, name: str) -> vfio.DeviceInfo:
    """Return what kind of device it is.

    Raises:
        UsageError: VFIO does not know it as a PCI device.
        OSError: the kernel refused.
    """
    info = ask(kernel, fd, vfio.Request.DEVICE_GET_INFO, vfio.DeviceInfo)
    if vfio.DeviceFlags.PCI not in info.flags or info.regions <= CONFIG_REGION:
        raise UsageError(f"{name}: VFIO does not hold it as a PCI device")
    return info


def ask_regions(kernel: Kernel, fd: OwnedFd, name: str) -> dict[int, Region]:
    """Return the regions that it has, by number.

    Raises:
        OSError: the kernel refused, or the device's configuration space makes no sense.
    """
    request = vfio.Request.DEVICE_GET_REGION_INFO
    infos = {}
    for number in range(CONFIG_REGION + 1):
        try:
            info = ask(kernel, fd, request, vfio.RegionInfo, number)
        except OSError as error:
            if error.errno == errno.EINVAL:  # some devices have no region of some number
                continue
            raise
        if info.size:
            infos[number] = info
    if CONFIG_REGION not in infos:
        raise AcceleratorError(f"{name}: VFIO gives no way to its configuration space")
    config = kernel.pread(fd, CONFIG_SPACE_SIZE, infos[CONFIG_REGION].offset)
    try:
        tables = _msix_tables(config.ljust(CONFIG_SPACE_SIZE, b"\0"))
    except ValueError as error:
        raise AcceleratorError(f"{name}: {error}") from error
    return {number: describe(info, tables.get(number)) for number, info in infos.items()}


def _msix_tables(config: bytes) -> dict[int, Area]:
    """Return where the MSI-X table is, by region; there is one at most.

    Raises:
        ValueError: the list of capabilities makes no sense.
    """
    status = int.from_bytes(config[PciHeader.STATUS :][:2], "little")
    start = config[PciHeader.CAPABILITIES] if status & PCI_STATUS_CAPABILITIES else 0
    for capability in walk_capabilities(config, start):
        if isinstance(capability, MsixCapability):
            return {capability.table_bar: Area(capability.table_offset, capability.table_size)}
    return {}


def ask_vectors(kernel: Kernel, fd: OwnedFd, info: vfio.DeviceInfo) -> int:
    """Return how many MSI-X vectors it has. Raises OSError: the kernel refused."""
    if info.irqs <= vfio.IrqIndex.MSIX:
        return 0
    found = ask(kernel, fd, vfio.Request.DEVICE_GET_IRQ_INFO, vfio.IrqInfo, vfio.IrqIndex.MSIX)
    return found.count if vfio.IrqFlags.EVENTFD in found.flags else 0
