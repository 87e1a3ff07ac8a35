"""What the kernel tells of PCI devices: their drivers, their IOMMU groups, who uses them.

Everything is read anew when it is asked for: devices come and go. The only place that knows where
in /sys something stands; changing a driver is `accel.vfio.binding`'s business.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vhostuser.errors import UsageError

__all__ = ["VFIO_DRIVER", "PciFunction", "Sysfs", "full_address"]

VFIO_DRIVER = "vfio-pci"

_ADDRESS = re.compile(r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_BRIDGE_CLASS = 0x06
_VIRTIO_VENDOR = 0x1AF4
_VIRTIO_MODERN = range(0x1040, 0x1080)
_VIRTIO_DEVICES = range(0x1000, 0x1080)
_NO_IOMMU_NAME = "vfio-noiommu"
_HARMLESS_DRIVERS = ("pci-stub", "pcieport")
"""They never touch the device's memory, so that the kernel lets a group with them be used."""


def full_address(text: str) -> str:
    """Return a PCI address as the kernel writes it: domain:bus:device.function.

    Raises:
        UsageError: it is none.
    """
    address = text.lower()
    if not _ADDRESS.fullmatch(address):
        raise UsageError(
            f"{text!r} is no PCI address, such as 0000:01:00.0; `vhostuser accel list` shows them"
        )
    return address if address.count(":") > 1 else f"0000:{address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """A PCI device, as far as the kernel tells everybody.

    Attributes:
        address: domain:bus:device.function.
        vendor: who made it.
        device: what it is to the vendor.
        class_code: what it is to the host: base class, subclass, interface.
        driver: the kernel's driver that has it; None: none has.
        group: number of its IOMMU group; None: it is in none.
    """

    address: str
    vendor: int
    device: int
    class_code: int
    driver: str | None
    group: str | None

    @property
    def bridge(self) -> bool:
        """Whether it only leads to other devices."""
        return self.class_code >> 16 == _BRIDGE_CLASS

    @property
    def virtio(self) -> bool:
        """Whether its numbers are those of a virtio device."""
        return self.vendor == _VIRTIO_VENDOR and self.device in _VIRTIO_DEVICES

    @property
    def virtio_type(self) -> int | None:
        """The virtio device type, where the device's number tells."""
        if self.virtio and self.device in _VIRTIO_MODERN:
            return self.device - _VIRTIO_MODERN.start
        return None

    @property
    def given_up(self) -> bool:
        """Whether no driver of the kernel does anything with it."""
        return (
            self.driver is None
            or "vfio" in self.driver  # vfio-pci and its variants for single devices
            or self.driver in _HARMLESS_DRIVERS
        )


class Sysfs:
    """The kernel's view of its PCI devices.

    Args:
        root: where sysfs is.
        proc: where procfs is.
    """

    def __init__(self, root: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self._root = root
        self._proc = proc
        self.bus = root / "bus" / "pci"

    def functions(self) -> list[PciFunction]:
        """Return every PCI device of the host; one that goes meanwhile is left out."""
        return self._in_folder(self.bus / "devices")

    def function(self, address: str) -> PciFunction:
        """Return one PCI device.

        Raises:
            UsageError: there is none at this address.
        """
        path = self.path(address)
        try:
            numbers = [int(_read(path / name), 16) for name in ("vendor", "device", "class")]
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{address}: there is no such PCI device; `vhostuser accel list --all` shows "
                "what there is"
            ) from error
        vendor, device, class_code = numbers
        return PciFunction(
            address=address,
            vendor=vendor,
            device=device,
            class_code=class_code,
            driver=_link_name(path / "driver"),
            group=_link_name(path / "iommu_group"),
        )

    def path(self, address: str) -> Path:
        """Return the folder of a device."""
        return self.bus / "devices" / address

    def members(self, group: str) -> list[PciFunction]:
        """Return the PCI devices of an IOMMU group."""
        return self._in_folder(self._root / "kernel" / "iommu_groups" / group / "devices")

    def _in_folder(self, folder: Path) -> list[PciFunction]:
        found = []
        for path in _entries(folder):
            with contextlib.suppress(UsageError):
                found.append(self.function(path.name))
        return found

    def isolated(self, group: str) -> bool:
        """Whether a group stands for an IOMMU, and not for the decision to do without."""
        name = self._root / "kernel" / "iommu_groups" / group / "name"
        try:
            return _read(name) != _NO_IOMMU_NAME
        except OSError:  # most groups have no name
            return True

    def uses(self, function: PciFunction) -> list[str]:
        """Return what the host itself does with a device right now, in words; [] when nothing."""
        mounts = self._mounted_numbers()
        below = self.path(function.address).resolve()
        found = [
            f"network interface {path.name} is up"
            for path in self._of_class("net", below)
            if _read_or_empty(path / "operstate") == "up"
        ]
        for path in self._of_class("block", below):
            if _read_or_empty(path / "dev") in mounts:
                found.append(f"disk {path.name} is mounted")
            elif _entries(path / "holders"):
                found.append(f"disk {path.name} is part of another")
        return found

    def _of_class(self, name: str, below: Path) -> list[Path]:
        paths = [path.resolve() for path in _entries(self._root / "class" / name)]
        return [path for path in paths if path.is_relative_to(below)]

    def _mounted_numbers(self) -> set[str]:
        """Return major:minor of what is mounted or swapped to."""
        numbers = set()
        for line in _read_or_empty(self._proc / "self" / "mountinfo").splitlines():
            fields = line.split()
            numbers.update(fields[2:3])
        for line in _read_or_empty(self._proc / "swaps").splitlines()[1:]:
            with contextlib.suppress(OSError):
                number = Path(line.split()[0]).stat().st_rdev
                numbers.add(f"{os.major(number)}:{os.minor(number)}")
        return numbers

    def write(self, path: Path, text: str) -> None:
        """Write to a file of sysfs, which makes the kernel do something. Raises OSError."""
        # Unbuffered: an error must come from this very write, not from closing the file.
        with path.open("wb", buffering=0) as file:
            file.write(text.encode())


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _read_or_empty(path: Path) -> str:
    try:
        return _read(path)
    except OSError:
        return ""


def _link_name(path: Path) -> str | None:
    try:
        return path.readlink().name
    except OSError:
        return None
