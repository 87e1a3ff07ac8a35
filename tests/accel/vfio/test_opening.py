"""The address of a vfio accelerator on the command line, and what it opens."""

from __future__ import annotations

import pytest
import trio

from accel.vfio import DeviceAddress, KernelVfioDevice, open_accelerator, open_device, opening
from vhostuser.datapath import AcceleratorIdentity
from vhostuser.errors import UsageError

ADDRESS = "0000:01:00.0"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (ADDRESS, False),
        ("01:00.0", False),
        (f"{ADDRESS},share-device-fd=on", True),
        (f"{ADDRESS},share-device-fd=off", False),
        (f"{ADDRESS},share-device-fd=off,share-device-fd=on", True),
    ],
)
def test_an_address_and_its_option(text, share):
    assert DeviceAddress.parse(text) == DeviceAddress(address=ADDRESS, share_fd=share)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no PCI address"),
        ("nowhere", "is no PCI address"),
        (f"{ADDRESS},", "'' is no option"),
        (f"{ADDRESS},share-device-fd", "there is share-device-fd=on|off"),
        (f"{ADDRESS},share-device-fd=yes", "'share-device-fd=yes' is no option"),
        (f"{ADDRESS},fast=on", "'fast=on' is no option"),
    ],
)
def test_any_other_is_refused(text, words):
    with pytest.raises(UsageError, match=words):
        DeviceAddress.parse(text)


@pytest.fixture
def host(kernel, sysfs, monkeypatch):
    """Has devices of this process opened on the host that is made of memory."""
    sysfs.add(driver="vfio-pci", group="7")

    def opened(address, *, share_fd):
        return KernelVfioDevice(address, share_fd=share_fd, kernel=kernel, sysfs=sysfs)

    monkeypatch.setattr(opening, "KernelVfioDevice", opened)
    return kernel


async def test_a_device_is_held_for_the_length_of_the_block(host):
    async with open_device(DeviceAddress(address=ADDRESS)) as device:
        assert device.name == f"vfio:{ADDRESS}"
    async with open_device(DeviceAddress(address=ADDRESS)):
        pass


async def test_cancelling_the_block_closes_the_device(host):
    with trio.move_on_after(0):
        async with open_device(DeviceAddress(address=ADDRESS)):
            await trio.sleep_forever()


async def test_an_accelerator_is_the_virtio_device_behind_the_address(host):
    async with open_accelerator(f"{ADDRESS},share-device-fd=on") as accelerator:
        assert accelerator.identity == AcceleratorIdentity(device_id=2, name=f"vfio:{ADDRESS}")
        assert accelerator.queue_sizes == (256,)
        with (await accelerator.notify_area(0, 4096)).fd:
            pass
    assert {fd for (kind, _), fd in host.vectors.items() if kind == 2} == set()
