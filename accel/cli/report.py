"""What `vhostuser accel probe` says of an open device: plain data, for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.virtio_pci import open_virtio
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from accel.pci import Region
    from accel.vfio import KernelVfioDevice
    from protocol.kernel.vfio import IommuInfo
    from vhostuser.datapath import Accelerator

__all__ = ["report"]

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


async def report(device: KernelVfioDevice, page_size: int) -> dict[str, object]:
    """Return what a device and its IOMMU can do, by what it is about.

    Args:
        device: an open device that may share its file.
        page_size: the host's, bytes.

    Raises:
        OSError: the device is gone, or breaks the rules of virtio.
    """
    found: dict[str, object] = {"device": device.name}
    found["region"] = [_region(number, region) for number, region in sorted(device.regions.items())]
    found["interrupt vectors"] = device.vectors
    found |= _iommu(device.iommu)
    try:
        async with open_virtio(device) as accelerator:
            found |= await _virtio(accelerator, page_size)
    except UsageError as error:
        found["virtio"] = f"no: {error}"
    return found


def _region(number: int, region: Region) -> str:
    access = "r" * region.readable + "w" * region.writable
    mapped = ", ".join(f"{area.offset:#x}+{area.size:#x}" for area in region.areas)
    return f"{number}: {_bytes(region.size)}, {access or 'no access'}, mapped: {mapped or 'no'}"


def _iommu(info: IommuInfo) -> dict[str, object]:
    sizes = [1 << bit for bit in range(64) if info.page_sizes >> bit & 1]
    ranges = info.iova_ranges or ()
    return {
        "page sizes": ", ".join(_bytes(size) for size in sizes) or "unknown",
        "addresses": [f"{each.first:#x} to {each.last:#x}" for each in ranges] or "unknown",
        "mappings left": "unknown" if info.dma_avail is None else info.dma_avail,
    }


async def _virtio(accelerator: Accelerator, page_size: int) -> dict[str, object]:
    return {
        "virtio": f"device type {accelerator.identity.device_id}",
        "features": f"{int(accelerator.features):#x}",
        "queue": [
            f"{index}: up to {size} descriptors, {await _notify(accelerator, index, page_size)}"
            for index, size in enumerate(accelerator.queue_sizes)
        ],
    }


async def _notify(accelerator: Accelerator, index: int, page_size: int) -> str:
    try:
        area = await accelerator.notify_area(index, page_size)
    except OSError as error:
        return f"kicks are relayed ({error.strerror})"
    area.fd.close()
    return f"notify page of its own at {area.offset:#x} (handed over with share-device-fd=on)"


def _bytes(size: int) -> str:
    for unit, name in _UNITS:
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"
