"""What `vhostuser doctor` says of PCI devices as accelerators: may programs have any here?

It matters to few hosts, so that nothing here is more than a note. Which device is ready is for
`vhostuser accel list` to say. Specification: Linux, Documentation/driver-api/vfio.rst.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from vhostuser.cli.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["accelerators"]


def accelerators(sys: Path = Path("/sys"), dev: Path = Path("/dev/vfio")) -> Iterator[Finding]:
    """Look at what stands between this user and a PCI device.

    Args:
        sys: where the kernel shows its devices.
        dev: where it shows the groups of those that vfio-pci has.
    """
    groups = len(_names(sys / "kernel/iommu_groups"))
    if not groups:
        advice = (
            "PCI devices cannot be accelerators: turn it on in the firmware (VT-d, AMD-Vi, SMMU) "
            "and on the kernel's command line (intel_iommu=on)"
        )
        yield Finding("IOMMU", "note", "none", advice)
        return
    yield Finding("IOMMU", "ok", "1 group" if groups == 1 else f"{groups} groups")
    if not (sys / "bus/pci/drivers/vfio-pci").is_dir():
        advice = "to have PCI devices as accelerators: modprobe vfio-pci"
        yield Finding("VFIO", "note", "vfio-pci is not loaded", advice)
        return
    bound = sorted(name for name in _names(dev) if name.isdecimal())
    if not bound:
        advice = "vhostuser accel list says which devices can be bound, and how"
        yield Finding("VFIO", "note", "vfio-pci has no device", advice)
        return
    closed = [name for name in bound if not os.access(dev / name, os.R_OK | os.W_OK)]
    for name in closed:
        advice = f"give the node to the user who runs the back-end: chown USER {dev / name}"
        yield Finding("VFIO", "note", f"group {name} is not for this user", advice)
    if len(closed) < len(bound):
        usable = " ".join(name for name in bound if name not in closed)
        yield Finding("VFIO", "ok", f"usable groups: {usable}")
        yield from _pinned_memory()


def _pinned_memory() -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if most != resource.RLIM_INFINITY and os.geteuid() != 0:
        advice = (
            "an accelerator pins all of a guest's memory: ulimit -l unlimited, or "
            "LimitMEMLOCK=infinity under systemd"
        )
        yield Finding("memory for DMA", "note", f"{most} bytes", advice)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []
