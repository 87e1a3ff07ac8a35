"""What stands between a device and its use, in words that tell what to do."""

from __future__ import annotations

import errno

import pytest

from accel.vfio import iommu_group, strangers
from protocol.kernel.vfio import Request
from vhostuser.errors import UsageError

ADDRESS, NEIGHBOUR = "0000:01:00.0", "0000:01:00.1"


def test_a_device_without_iommu_is_refused(kernel, sysfs, open_device):
    sysfs.add(driver="virtio-pci", group=None)
    with pytest.raises(UsageError, match=r"no IOMMU stands between .*intel_iommu=on"):
        open_device()
    assert kernel.log == []  # this comes first, also where VFIO is not even loaded


def test_a_group_that_only_pretends_is_refused(sysfs, open_device):
    sysfs.add(driver="vfio-pci", group="0")
    (sysfs.root / "kernel/iommu_groups/0/name").write_text("vfio-noiommu\n")
    with pytest.raises(UsageError, match="no IOMMU stands between"):
        open_device()
    (sysfs.root / "kernel/iommu_groups/0/name").write_text("something else\n")
    assert iommu_group(sysfs, sysfs.function(ADDRESS)) == "0"


@pytest.mark.parametrize(
    ("driver", "words"),
    [("virtio-pci", "the kernel's driver virtio-pci has it"), (None, "none has it")],
)
def test_a_device_that_vfio_has_not_is_refused(sysfs, open_device, driver, words):
    sysfs.add(driver=driver, group="7")
    with pytest.raises(UsageError, match=rf"{words}.*vhostuser accel bind {ADDRESS}"):
        open_device()


def test_a_device_that_is_not_there_is_refused(sysfs, open_device):
    sysfs.add("0000:02:00.0", driver="vfio-pci", group="7")
    with pytest.raises(UsageError, match=f"{ADDRESS}: there is no such PCI device"):
        open_device()


@pytest.mark.parametrize(
    ("path", "number", "words"),
    [
        ("/dev/vfio/vfio", errno.ENOENT, "no /dev/vfio/vfio: .*modprobe vfio-pci"),
        ("/dev/vfio/vfio", errno.ENODEV, "nothing is behind it; .*modprobe vfio-pci"),
        ("/dev/vfio/vfio", errno.EACCES, "/dev/vfio/vfio: permission denied"),
        ("/dev/vfio/7", errno.ENOENT, "no /dev/vfio/7; bind the device again"),
        ("/dev/vfio/7", errno.EACCES, "permission denied; .*chown USER /dev/vfio/7"),
        ("/dev/vfio/7", errno.EBUSY, "another process has IOMMU group 7 open.*fuser -v /dev/vfi"),
        (Request.SET_IOMMU, errno.EPERM, "no interrupt remapping.*allow_unsafe_interrupts=1"),
        (Request.GROUP_SET_CONTAINER, errno.EBUSY, "does not give IOMMU group 7 away"),
    ],
)
def test_what_the_kernel_refuses_is_said_with_what_to_do(kernel, open_device, path, number, words):
    kernel.refuse[path] = number
    with pytest.raises(UsageError, match=words):
        open_device()


@pytest.mark.parametrize("path", ["/dev/vfio/vfio", "/dev/vfio/7", Request.SET_IOMMU])
def test_any_other_refusal_keeps_its_number(kernel, open_device, path):
    kernel.refuse[path] = errno.EMFILE
    with pytest.raises(OSError, match="Too many open files"):
        open_device()


def test_another_version_of_vfio_is_refused(kernel, open_device):
    kernel.version = 1
    with pytest.raises(UsageError, match="has version 1; this driver speaks 0"):
        open_device()


def test_another_kind_of_iommu_is_refused(kernel, open_device):
    kernel.type1v2 = 0
    with pytest.raises(UsageError, match="modprobe vfio_iommu_type1"):
        open_device()


@pytest.mark.parametrize("newer", [False, True])
def test_who_else_is_in_the_group_is_told(kernel, sysfs, open_device, newer):
    sysfs.add(driver="vfio-pci", group="7")
    sysfs.add(NEIGHBOUR, driver="snd_hda_intel", group="7", class_code=0x040300)
    sysfs.add("0000:01:00.2", driver=None, group="7")
    sysfs.add("0000:01:00.3", driver="pci-stub", group="7")
    sysfs.add("0000:00:01.0", driver="pcieport", group="7", class_code=0x060400)
    sysfs.add("0000:01:01.0", driver="nvme", group="8")
    if newer:  # such a kernel finds it out when the group is put to use
        kernel.refuse[Request.GROUP_SET_CONTAINER] = errno.EPERM
    else:
        kernel.viable = False
    assert [each.address for each in strangers(sysfs, sysfs.function(ADDRESS))] == [NEIGHBOUR]
    with pytest.raises(
        UsageError,
        match=rf"group 7 also holds {NEIGHBOUR} \(driver snd_hda_intel\), .*"
        rf"vhostuser accel bind {NEIGHBOUR}; or put",
    ):
        open_device()


def test_a_device_in_no_group_has_no_strangers(sysfs):
    sysfs.add(driver=None, group=None)
    assert strangers(sysfs, sysfs.function(ADDRESS)) == []
