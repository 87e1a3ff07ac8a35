"""Giving a device to vfio-pci, and back to the driver that had it.

What was before is written down under /run, so that `unbind` can restore it in another process, and
after a failure everything is put back at once. The kernel finds the new driver by the device's
`driver_override`. Specification: Linux, Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import contextlib
import errno
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accel.vfio.container import DEV_VFIO
from accel.vfio.group import iommu_group
from accel.vfio.sysfs import VFIO_DRIVER, PciFunction, Sysfs, full_address
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accel.vfio.kernel import Kernel

__all__ = ["RECORDS", "Binding"]

RECORDS = Path("/run/vhostuser-drivers")
"""Where it is written down which driver a device had; root's alone, unlike a service's folder."""

_NO_OVERRIDE = "(null)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """What held for a device before it was bound.

    Attributes:
        driver: the driver that had it; empty: none.
        override: the driver that it was reserved for; empty: for none.
    """

    driver: str
    override: str


class Binding:
    """Changes the drivers of PCI devices.

    Args:
        kernel: tells whether a group is in use.
        sysfs: where the devices are.
        records: folder of what was before.
    """

    def __init__(self, kernel: Kernel, sysfs: Sysfs, records: Path = RECORDS) -> None:
        self._kernel = kernel
        self._sysfs = sysfs
        self._records = records

    def bind(self, address: str, *, force: bool = False) -> str | None:
        """Give a device to vfio-pci.

        Args:
            address: of the device, in short or in full.
            force: take it even from a host that uses it.

        Returns:
            The driver that it was taken from; empty: it had none; None: vfio-pci has it already.

        Raises:
            UsageError: it cannot be, and what to do; nothing has changed.
            OSError: the kernel refused; nothing has changed.
        """
        function = self._sysfs.function(full_address(address))
        if function.driver == VFIO_DRIVER:
            return None
        self._refuse(function, force=force)
        before = _Before(driver=function.driver or "", override=self._override(function))
        self._record(function, before)
        try:
            self._give(function)
        except BaseException as error:
            self._put_back(function, before, error)
            raise
        return before.driver

    def unbind(self, address: str) -> str:
        """Give a device back to the driver that it was taken from, or to the kernel's choice.

        Returns:
            The driver that has it now; empty: none.

        Raises:
            UsageError: somebody uses it.
            OSError: the kernel refused.
        """
        function = self._sysfs.function(full_address(address))
        before = self._recorded(function)
        if function.driver != VFIO_DRIVER and before is None:
            return function.driver or ""
        # The kernel would wait, for ever, until whoever has it open lets go.
        self._refuse_if_open(function)
        with _as_root(function):
            self._restore(function, before)
        return self._driver(function)

    def _refuse(self, function: PciFunction, *, force: bool) -> None:
        address = function.address
        if function.bridge:
            raise UsageError(f"{address} is a bridge: bind the device behind it")
        iommu_group(self._sysfs, function)
        if not (self._sysfs.bus / "drivers" / VFIO_DRIVER).is_dir():
            raise UsageError(f"the driver {VFIO_DRIVER} is not loaded: modprobe {VFIO_DRIVER}")
        uses = self._sysfs.uses(function)
        if uses and not force:
            raise UsageError(
                f"{address}: the host uses it ({', '.join(uses)}); stop that first, or say --force"
            )

    def _refuse_if_open(self, function: PciFunction) -> None:
        if function.driver != VFIO_DRIVER or function.group is None:
            return
        path = DEV_VFIO / function.group
        try:
            self._kernel.open(path).close()
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise UsageError(
                    f"{function.address}: another process has IOMMU group {function.group} open; "
                    f"end it first, or find it: fuser -v {path}"
                ) from error

    def _driver(self, function: PciFunction) -> str:
        return self._sysfs.function(function.address).driver or ""

    def _override(self, function: PciFunction) -> str:
        path = self._sysfs.path(function.address) / "driver_override"
        text = path.read_text(encoding="utf-8").strip()
        return "" if text == _NO_OVERRIDE else text

    def _give(self, function: PciFunction) -> None:
        path = self._sysfs.path(function.address)
        with _as_root(function):
            self._sysfs.write(path / "driver_override", f"{VFIO_DRIVER}\n")
            self._release(function)
            self._sysfs.write(self._sysfs.bus / "drivers_probe", function.address)
        if self._driver(function) != VFIO_DRIVER:
            raise UsageError(
                f"{function.address}: {VFIO_DRIVER} did not take it; `dmesg` may tell why"
            )

    def _release(self, function: PciFunction) -> None:
        if self._driver(function):
            path = self._sysfs.path(function.address) / "driver" / "unbind"
            self._sysfs.write(path, function.address)

    def _put_back(self, function: PciFunction, before: _Before, error: BaseException) -> None:
        try:
            self._restore(function, before)
        except OSError as failure:
            raise UsageError(
                f"{function.address}: {error}; and {before.driver or 'its former state'} could "
                f"not be restored ({failure.strerror}): see drivers and driver_override in "
                f"{self._sysfs.path(function.address)}"
            ) from error

    def _restore(self, function: PciFunction, before: _Before | None) -> None:
        """Put back what was before; None: whatever the kernel finds right."""
        path = self._sysfs.path(function.address)
        self._sysfs.write(path / "driver_override", f"{before.override if before else ''}\n")
        if before is None:
            self._release(function)
            self._sysfs.write(self._sysfs.bus / "drivers_probe", function.address)
        elif self._driver(function) != before.driver:
            self._release(function)
            if before.driver:
                driver = self._sysfs.bus / "drivers" / before.driver
                self._sysfs.write(driver / "bind", function.address)
        self._record_path(function).unlink(missing_ok=True)

    def _record_path(self, function: PciFunction) -> Path:
        return self._records / function.address

    def _record(self, function: PciFunction, before: _Before) -> None:
        with _as_root(function):
            self._records.mkdir(parents=True, exist_ok=True)
            self._record_path(function).write_text(json.dumps(asdict(before)), encoding="utf-8")

    def _recorded(self, function: PciFunction) -> _Before | None:
        try:
            fields = json.loads(self._record_path(function).read_text(encoding="utf-8"))
            before = _Before(driver=str(fields["driver"]), override=str(fields["override"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never bound by us, or nobody knows: the kernel's own choice then
        return before if "/" not in before.driver else None


@contextlib.contextmanager
def _as_root(function: PciFunction) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise UsageError(
            f"{function.address}: changing a device's driver needs root: {error.strerror}"
        ) from error
