"""A VFIO container: one IOMMU domain, into which guest memory is mapped for devices.

A container here holds one group with one device of ours, and one guest's memory, so that a device
reaches nothing of another guest. The kind of IOMMU is type 1, version 2: what was mapped as one is
unmapped as one.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from accel.vfio.kernel import ask
from protocol.kernel import vfio
from vhostuser.errors import AcceleratorError, UsageError
from vhostuser.fds import Closing

if TYPE_CHECKING:
    from accel.vfio.kernel import Kernel
    from vhostuser.fds import OwnedFd

__all__ = ["DEV_VFIO", "Container"]

DEV_VFIO = Path("/dev/vfio")
_NO_VFIO = "load the modules (modprobe vfio-pci), or take a kernel that has them"


class Container(Closing):
    """An open container.

    Args:
        kernel: whom to ask.

    Raises:
        UsageError: the host's kernel has no VFIO, or this user may not use it.
        OSError: the host refused.

    Attributes:
        fd: the container.
        info: what its IOMMU can do, once a group is attached.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.info = vfio.IommuInfo(page_sizes=0)
        self.fd = _open(kernel)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        version = self._kernel.ioctl(self.fd, vfio.Request.GET_API_VERSION)
        if version != vfio.API_VERSION:
            raise UsageError(
                f"this kernel's VFIO has version {version}; this driver speaks {vfio.API_VERSION}"
            )
        if not self._kernel.ioctl(
            self.fd, vfio.Request.CHECK_EXTENSION, vfio.Extension.TYPE1V2_IOMMU
        ):
            raise UsageError(
                "this kernel's VFIO does not speak to a type 1 IOMMU (Intel, AMD, Arm, virtio): "
                "load the module (modprobe vfio_iommu_type1)"
            )

    def attach(self, group: OwnedFd) -> None:
        """Put a group into it, and turn its IOMMU on.

        Raises:
            UsageError: the host does not isolate the device's interrupts.
            OSError: the host refused.
        """
        self._kernel.ioctl(
            group, vfio.Request.GROUP_SET_CONTAINER, vfio.container_argument(self.fd.fileno())
        )
        try:
            self._kernel.ioctl(self.fd, vfio.Request.SET_IOMMU, vfio.Extension.TYPE1V2_IOMMU)
        except PermissionError as error:
            raise UsageError(
                "the kernel does not trust this host to keep a device's interrupts apart "
                "(no interrupt remapping): turn it on in the firmware, with the IOMMU, or accept "
                "the risk: modprobe vfio_iommu_type1 allow_unsafe_interrupts=1"
            ) from error
        self.info = ask(self._kernel, self.fd, vfio.Request.IOMMU_GET_INFO, vfio.IommuInfo)

    def map(self, *, iova: int, address: int, size: int) -> None:
        """Let the group's devices read and write memory of this process. Raises OSError."""
        argument = vfio.dma_map(iova=iova, address=address, size=size)
        self._kernel.ioctl(self.fd, vfio.Request.IOMMU_MAP_DMA, argument)

    def unmap(self, *, iova: int, size: int) -> None:
        """Take away what was mapped with these bounds.

        Raises:
            OSError: the kernel refused, or nothing was mapped so.
        """
        argument = vfio.dma_unmap(iova=iova, size=size)
        self._kernel.ioctl(self.fd, vfio.Request.IOMMU_UNMAP_DMA, argument)
        done = vfio.dma_unmapped(argument)
        if done != size:
            raise AcceleratorError(
                f"of {size:#x} bytes of guest memory at {iova:#x} the kernel took {done:#x} away",
                errno.EINVAL,
            )

    def close(self) -> None:
        """Close it; its mappings go when its group's devices are closed, too."""
        self.fd.close()


def _open(kernel: Kernel) -> OwnedFd:
    path = DEV_VFIO / "vfio"
    try:
        return kernel.open(path)
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no {path}: this kernel runs without VFIO; {_NO_VFIO}"
        ) from error
    except PermissionError as error:
        raise UsageError(
            f"{path}: permission denied; run as a user who may open it (it is made for everybody: "
            "chmod 0666)"
        ) from error
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.ENXIO}:
            raise UsageError(f"{path}: nothing is behind it; {_NO_VFIO}") from error
        raise
