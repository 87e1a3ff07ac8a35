"""`vhostuser accel list|probe|bind|unbind`: PCI devices as accelerators, and who has them.

`list` and `probe` change nothing. `bind` and `unbind` change which driver has a device, and need
root.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import trio

from accel.cli.report import report
from accel.vfio import (
    Binding,
    DeviceAddress,
    Kernel,
    PciFunction,
    Sysfs,
    iommu_group,
    open_device,
    strangers,
)
from vhostuser.cli.command import Command
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["DEVICE_COMMANDS", "Entry", "look"]

_TYPES = {
    1: "net",
    2: "block",
    3: "console",
    4: "entropy",
    5: "balloon",
    8: "SCSI",
    16: "GPU",
    18: "input",
    19: "socket",
    20: "crypto",
    26: "file system",
}
"""What virtio calls its device types; any other is shown by its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A PCI device, and whether it can be an accelerator.

    Attributes:
        status: "ready"; "free": it can be bound; "no": something stands in the way.
        address: where on the PCI bus.
        ids: vendor and device.
        kind: what it is.
        driver: the kernel's driver that has it; empty: none.
        group: its IOMMU group; empty: none.
        advice: what to do, or what stands in the way.
    """

    status: str
    address: str
    ids: str
    kind: str
    driver: str
    group: str
    advice: str


def look(sysfs: Sysfs, function: PciFunction) -> Entry:
    """Tell whether a device can be an accelerator, and what stands in the way."""
    status, advice = _judge(sysfs, function)
    return Entry(
        status=status,
        address=function.address,
        ids=f"{function.vendor:04x}:{function.device:04x}",
        kind=_kind(function),
        driver=function.driver or "",
        group=function.group or "",
        advice=advice,
    )


def _judge(sysfs: Sysfs, function: PciFunction) -> tuple[str, str]:
    obstacle = _obstacle(sysfs, function)
    if obstacle:
        return "no", obstacle
    together = " ".join(other.address for other in strangers(sysfs, function))
    if together:
        return "free", (
            "its IOMMU group can only be taken whole: "
            f"vhostuser accel bind {function.address} {together}"
        )
    if not _taken(function):
        return "free", f"vhostuser accel bind {function.address}"
    return "ready", f"--accel vfio:{function.address}"


def _obstacle(sysfs: Sysfs, function: PciFunction) -> str:
    """Say what stands in the way of a device; empty: nothing does."""
    if function.bridge:
        return "it is a bridge"
    try:
        iommu_group(sysfs, function)
    except UsageError:
        return "no IOMMU; turn it on in the firmware and on the kernel's command line"
    uses = sysfs.uses(function)
    if uses:
        return f"the host uses it: {', '.join(uses)}"
    if not function.virtio and not _taken(function):
        # Who makes virtio devices under numbers of their own knows that they do.
        return f"no virtio device by its numbers; if it is one: accel bind {function.address}"
    return ""


def _taken(function: PciFunction) -> bool:
    return function.driver is not None and "vfio" in function.driver


def _kind(function: PciFunction) -> str:
    if function.virtio_type is not None:
        return f"virtio {_TYPES.get(function.virtio_type, function.virtio_type)}"
    return "virtio" if function.virtio else f"class {function.class_code:06x}"


def _configure_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="show other than virtio devices, too")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead")


def _list(options: argparse.Namespace) -> int:
    sysfs = Sysfs()
    entries = [
        look(sysfs, function)
        for function in sysfs.functions()
        if options.all or (function.virtio and not function.bridge)
    ]
    if options.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
    elif not entries:
        print("This host has no virtio device on its PCI bus; --all shows the others.")
    else:
        for entry in entries:
            print(
                f"{entry.status:5} {entry.address} {entry.ids} {entry.kind}, "
                f"driver {entry.driver or '-'}, group {entry.group or '-'}: {entry.advice}"
            )
    return 0


def _configure_probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="such as 0000:01:00.0")
    parser.add_argument("--json", action="store_true", help="print an object instead")


def _probe(options: argparse.Namespace) -> int:
    async def probe() -> dict[str, object]:
        # Nothing is handed to anybody: this only asks whether the pages could be.
        where = DeviceAddress(address=DeviceAddress.parse(options.address).address, share_fd=True)
        async with open_device(where) as device:
            return await report(device, mmap.PAGESIZE)

    found = trio.run(probe)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            for line in value if isinstance(value, list) else [value]:
                print(f"{name}: {line}")
    return 0


def _configure_bind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", nargs="+", help="such as 0000:01:00.0")
    parser.add_argument(
        "--force", action="store_true", help="take a device even from a host that uses it"
    )


def _bind(options: argparse.Namespace) -> int:
    binding = Binding(Kernel(), Sysfs())
    done: list[str] = []
    try:
        for address in options.address:
            before = binding.bind(address, force=options.force)
            if before is None:
                print(f"{address}: vfio-pci has it already")
                continue
            done.append(address)
            print(f"{address}: {before or 'no driver'} -> vfio-pci")
    except BaseException:
        for address in reversed(done):  # all of a group, or none
            print(f"{address}: vfio-pci -> {binding.unbind(address) or 'no driver'}")
        raise
    if done:
        print(f"undo: vhostuser accel unbind {' '.join(done)}")
    return 0


def _configure_unbind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", nargs="+", help="such as 0000:01:00.0")


def _unbind(options: argparse.Namespace) -> int:
    binding = Binding(Kernel(), Sysfs())
    for address in options.address:
        print(f"{address}: {binding.unbind(address) or 'no driver'} has it")
    return 0


DEVICE_COMMANDS = {
    "list": Command(
        summary="say which PCI devices can be accelerators, and what stands in the way of others",
        configure=_configure_list,
        run=_list,
    ),
    "probe": Command(
        summary="open a PCI device and say what it and its IOMMU can do",
        configure=_configure_probe,
        run=_probe,
    ),
    "bind": Command(
        summary="give PCI devices to vfio-pci, which lets programs have them",
        configure=_configure_bind,
        run=_bind,
    ),
    "unbind": Command(
        summary="give PCI devices back to the drivers that had them before",
        configure=_configure_unbind,
        run=_unbind,
    ),
}
"""By the word that follows `vhostuser accel`."""
