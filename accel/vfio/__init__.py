"""Devices in reach by the kernel's VFIO: container and group, type 1 IOMMU.

`open_accelerator` is the driver `vfio` of the command line. The device is a `PciDevice`;
`accel.virtio_pci` knows what kind of device it is. What stands between a PCI device and its use is
said by `Sysfs`, `iommu_group` and `strangers`, and changed by `Binding`.
"""

from accel.vfio.binding import Binding
from accel.vfio.device import KernelVfioDevice
from accel.vfio.group import iommu_group, strangers
from accel.vfio.kernel import Kernel
from accel.vfio.opening import DeviceAddress, open_accelerator, open_device
from accel.vfio.sysfs import PciFunction, Sysfs, full_address

__all__ = [
    "Binding",
    "DeviceAddress",
    "Kernel",
    "KernelVfioDevice",
    "PciFunction",
    "Sysfs",
    "full_address",
    "iommu_group",
    "open_accelerator",
    "open_device",
    "strangers",
]
