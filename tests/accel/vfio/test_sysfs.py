"""What sysfs tells of PCI devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accel.vfio import Sysfs, full_address
from vhostuser.errors import UsageError

ADDRESS = "0000:01:00.0"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:01:00.0", ADDRESS),
        ("01:00.0", ADDRESS),
        ("0000:AF:1f.7", "0000:af:1f.7"),
        ("10000:01:00.0", "10000:01:00.0"),
    ],
)
def test_an_address_is_completed(text, address):
    assert full_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "1:0.0", "01:00.8", "01:20.0", "../01:00.0", "0000:01:00.0/", "01:00.0\n", "net0"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="is no PCI address, such as 0000:01"):
        full_address(text)


@pytest.mark.parametrize(
    ("ids", "virtio", "kind"),
    [
        ((0x1AF4, 0x1042), True, 2),
        ((0x1AF4, 0x1001), True, None),  # transitional: the number does not tell
        ((0x1AF4, 0x1100), False, None),  # QEMU's own devices
        ((0x8086, 0x1042), False, None),
    ],
)
def test_a_virtio_device_is_known_by_its_numbers(sysfs, ids, virtio, kind):
    sysfs.add(ids=ids, driver="virtio-pci", group="7")
    function = sysfs.function(ADDRESS)
    assert (function.virtio, function.virtio_type) == (virtio, kind)
    assert (function.driver, function.group) == ("virtio-pci", "7")


def test_a_device_that_goes_while_it_is_looked_at_is_left_out(sysfs):
    sysfs.add(driver="virtio-pci", group="7")
    (sysfs.add("0000:02:00.0", driver=None, group=None) / "vendor").unlink()
    assert [each.address for each in sysfs.functions()] == [ADDRESS]


def test_a_machine_without_pci_has_no_devices(tmp_path):
    assert Sysfs(tmp_path).functions() == []
    assert Sysfs(tmp_path).members("7") == []


@pytest.mark.parametrize(
    ("driver", "given_up"),
    [
        (None, True),
        ("vfio-pci", True),
        ("mlx5_vfio_pci", True),
        ("pci-stub", True),
        ("pcieport", True),
        ("virtio-pci", False),
    ],
)
def test_a_device_is_given_up_when_no_driver_uses_it(sysfs, driver, given_up):
    sysfs.add(driver=driver, group="7")
    assert sysfs.function(ADDRESS).given_up == given_up


def test_what_the_host_does_with_a_device_is_found(sysfs):
    path = sysfs.add(driver="virtio-pci", group="7")
    other = sysfs.add("0000:02:00.0", driver="virtio-pci", group="8")
    function = sysfs.function(ADDRESS)

    def child(of, kind, name, **files):
        folder = of / "virtio0" / kind / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text + "\n")
        entries = sysfs.root / "class" / kind
        entries.mkdir(parents=True, exist_ok=True)
        (entries / name).symlink_to(folder)
        return folder

    child(path, "net", "eth0", operstate="down")
    child(path, "block", "vda", dev="254:0")
    child(other, "net", "eth1", operstate="up")
    child(other, "block", "vdb", dev="254:16")
    mounts = sysfs.proc / "self" / "mountinfo"
    mounts.write_text("29 1 254:16 / / rw - ext4 /dev/vdb rw\n")
    assert sysfs.uses(function) == []
    mounts.write_text("29 1 254:1 / / rw - ext4 /dev/vda1 rw\n")
    child(path, "net", "eth2", operstate="up")
    child(path, "block", "vda1", dev="254:1")
    raid = child(path, "block", "vdc", dev="254:32")
    (raid / "holders" / "md0").mkdir(parents=True)
    assert sysfs.uses(function) == [
        "network interface eth2 is up",
        "disk vda1 is mounted",
        "disk vdc is part of another",
    ]


def test_a_disk_that_is_swapped_to_is_used(sysfs):
    path = sysfs.add(driver="nvme", group="7")
    disk = path / "nvme0n1"
    disk.mkdir()
    (sysfs.root / "class" / "block").mkdir(parents=True)
    (sysfs.root / "class" / "block" / "nvme0n1").symlink_to(disk)
    number = Path("/dev/null").stat().st_rdev  # any node will do
    (disk / "dev").write_text(f"{os.major(number)}:{os.minor(number)}\n")
    (sysfs.proc / "swaps").write_text("Filename Type\n/nowhere file\n/dev/null partition\n")
    assert sysfs.uses(sysfs.function(ADDRESS)) == ["disk nvme0n1 is mounted"]


def test_a_file_is_written_as_it_is(tmp_path):
    path = tmp_path / "bind"
    path.touch()
    Sysfs(tmp_path).write(path, ADDRESS)
    assert path.read_text() == ADDRESS
    with pytest.raises(OSError, match="Is a directory"):
        Sysfs(tmp_path).write(tmp_path, ADDRESS)
