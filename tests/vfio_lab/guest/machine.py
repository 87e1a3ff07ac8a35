"""Checks of the lab guest itself: the project is in it, and the kernel's VFIO."""

from __future__ import annotations

import fcntl
import importlib
import os
import pkgutil
from pathlib import Path

import trio

import accel
import protocol
import vhostuser
from vhostuser.devices import BlkDevice, BlkOptions, open_store
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    TRANSPORT_FEATURES,
    BlockDriver,
    FrontendClient,
    GuestMemory,
)
from vhostuser.testing import serving

PCI = Path("/sys/bus/pci/devices")
_VFIO_GET_API_VERSION = 0x3B64
_VFIO_CHECK_EXTENSION = 0x3B65
_VFIO_TYPE1V2_IOMMU = 3


def check_every_module_of_the_project_is_there():
    names = []
    for package in (protocol, vhostuser, accel):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
                names.append(module.name)
    return {"modules": sorted(names)}


def check_the_kernel_has_vfio_with_an_iommu():
    container = os.open("/dev/vfio/vfio", os.O_RDWR | os.O_CLOEXEC)
    try:
        version = fcntl.ioctl(container, _VFIO_GET_API_VERSION)
        type1v2 = fcntl.ioctl(container, _VFIO_CHECK_EXTENSION, _VFIO_TYPE1V2_IOMMU)
    finally:
        os.close(container)
    return {"api": version, "type1v2": type1v2}


def check_the_devices_are_alone_in_their_groups():
    found = {}
    for path in sorted(PCI.iterdir()):
        if (path / "vendor").read_text().strip() == "0x1af4":
            group = (path / "iommu_group").resolve()
            assert [each.name for each in (group / "devices").iterdir()] == [path.name]
            found[path.name] = (path / "device").read_text().strip()
    return found


async def check_a_disk_is_served_by_the_engine():
    image, socket = trio.Path("image"), Path("socket")
    await image.write_bytes(bytes(1 << 20))
    async with (
        BlkDevice.open(open_store(Path(image)), BlkOptions()) as device,
        serving(socket, device),
    ):
        with GuestMemory() as memory:
            async with FrontendClient.connect(socket, memory) as client:
                await client.negotiate(features=TRANSPORT_FEATURES | BLK_DRIVER_FEATURES)
                queue = client.setup_queue(0)
                await client.start()
                disk = BlockDriver([queue])
                await disk.write(8, b"a lab" * 512)
                assert await disk.read(8, 5 * 512) == b"a lab" * 512
                await client.stop()
    assert (await image.read_bytes())[8 * 512 :][: 5 * 512] == b"a lab" * 512
