"""The driver of modern virtio PCI devices: makes an accelerator of any of them.

How the device is reached (the kernel's VFIO, a socket) is its `accel.pci.PciDevice`'s business.
"""

from accel.virtio_pci.opening import open_virtio

__all__ = ["open_virtio"]
