"""A VFIO group: the devices that the IOMMU cannot tell apart, given to a user together or not.

What keeps a group from being used is said in words: who else is in it, and what to do about them.
Specification: Linux, Documentation/driver-api/vfio.rst, "Groups, Devices, and IOMMUs".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NoReturn

from accel.vfio.container import DEV_VFIO
from accel.vfio.kernel import ask
from accel.vfio.sysfs import VFIO_DRIVER
from protocol.kernel import vfio
from vhostuser.errors import UsageError
from vhostuser.fds import Closing, OwnedFd

if TYPE_CHECKING:
    from accel.vfio.container import Container
    from accel.vfio.kernel import Kernel
    from accel.vfio.sysfs import PciFunction, Sysfs

__all__ = ["Group", "iommu_group", "refuse_unusable", "strangers"]


def iommu_group(sysfs: Sysfs, function: PciFunction) -> str:
    """Return the IOMMU group of a device.

    Raises:
        UsageError: no IOMMU stands between it and the host's memory.
    """
    if function.group is None or not sysfs.isolated(function.group):
        raise UsageError(
            f"{function.address}: no IOMMU stands between this device and the host's memory, of "
            "which it could write any part: turn one on in the firmware (VT-d, AMD-Vi, SMMU) and "
            "on the kernel's command line (intel_iommu=on); in a QEMU guest: -device "
            "intel-iommu,intremap=on"
        )
    return function.group


def refuse_unusable(sysfs: Sysfs, function: PciFunction) -> None:
    """Go on only with a device behind an IOMMU that a VFIO driver has.

    Raises:
        UsageError: it is not, and what to do about it.
    """
    iommu_group(sysfs, function)
    if function.driver is None or "vfio" not in function.driver:
        has = f"the kernel's driver {function.driver} has it" if function.driver else "none has it"
        raise UsageError(
            f"{function.address}: not bound to {VFIO_DRIVER} ({has}); "
            f"bind it: vhostuser accel bind {function.address}"
        )


def strangers(sysfs: Sysfs, function: PciFunction) -> list[PciFunction]:
    """Return the other devices of a device's group that drivers of the kernel still have."""
    if function.group is None:
        return []
    return [
        member
        for member in sysfs.members(function.group)
        if member.address != function.address and not member.given_up and not member.bridge
    ]


class Group(Closing):
    """An open group, attached to a container.

    Args:
        kernel: whom to ask.
        sysfs: tells of the group's other devices.
        container: where it is put.
        function: the device that is wanted.

    Raises:
        UsageError: the device or its group cannot be used, and what to do about it.
        OSError: the host refused.

    Attributes:
        fd: the group.
    """

    def __init__(
        self, kernel: Kernel, sysfs: Sysfs, container: Container, function: PciFunction
    ) -> None:
        self._kernel = kernel
        self._sysfs = sysfs
        self._function = function
        self._number = iommu_group(sysfs, function)
        self.fd = self._open()
        try:
            self._attach(container)
        except BaseException:
            self.close()
            raise

    def _open(self) -> OwnedFd:
        path = DEV_VFIO / self._number
        address = self._function.address
        try:
            return self._kernel.open(path)
        except FileNotFoundError as error:
            raise UsageError(
                f"{address}: there is no {path}; bind the device again: vhostuser accel unbind "
                f"{address}, then vhostuser accel bind {address}"
            ) from error
        except PermissionError as error:
            raise UsageError(
                f"{path}: permission denied; give it to the user who runs this: chown USER {path}"
            ) from error
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise UsageError(
                    f"{address}: another process has IOMMU group {self._number} open; end it, or "
                    f"find it: fuser -v {path}"
                ) from error
            raise

    def _attach(self, container: Container) -> None:
        status = ask(self._kernel, self.fd, vfio.Request.GROUP_GET_STATUS, vfio.GroupStatus)
        if vfio.GroupFlags.VIABLE not in status.flags:
            self._not_viable(None)
        try:
            container.attach(self.fd)
        except OSError as error:
            # Newer kernels find out only now that a driver has another device of the group.
            if error.errno in {errno.EPERM, errno.EBUSY, errno.EINVAL}:
                self._not_viable(error)
            raise

    def _not_viable(self, error: OSError | None) -> NoReturn:
        others = strangers(self._sysfs, self._function)
        address, number = self._function.address, self._number
        if not others:
            why = f" ({error.strerror})" if error else ""
            raise UsageError(
                f"{address}: the kernel does not give IOMMU group {number} away{why}; "
                f"`dmesg` may tell why"
            ) from error
        names = ", ".join(f"{other.address} (driver {other.driver})" for other in others)
        commands = "; ".join(f"vhostuser accel bind {other.address}" for other in others)
        raise UsageError(
            f"{address}: IOMMU group {number} also holds {names}, and the devices of a group can "
            f"only be given up together: {commands}; or put the device into another slot"
        ) from error

    def device(self) -> OwnedFd:
        """Open the device. Raises OSError: the host refused."""
        name = bytearray(self._function.address.encode() + b"\0")
        return OwnedFd(self._kernel.ioctl(self.fd, vfio.Request.GROUP_GET_DEVICE_FD, name))

    def close(self) -> None:
        """Close it, after its device."""
        self.fd.close()
