"""`vhostuser accel list|probe|bind|unbind` on a host of files."""

from __future__ import annotations

import argparse
import errno
import functools
import json

import pytest

from accel.cli import devices
from accel.vfio import Binding, KernelVfioDevice, opening
from vhostuser.errors import UsageError

FIRST, SECOND = "0000:01:00.0", "0000:01:00.1"


@pytest.fixture
def accel(sysfs, kernel, tmp_path, monkeypatch):
    """Runs one of the commands; returns its exit status."""
    monkeypatch.setattr(devices, "Sysfs", lambda: sysfs)
    monkeypatch.setattr(devices, "Kernel", lambda: kernel)
    binding = functools.partial(Binding, records=tmp_path / "records")
    monkeypatch.setattr(devices, "Binding", binding)
    held = functools.partial(KernelVfioDevice, kernel=kernel, sysfs=sysfs)
    monkeypatch.setattr(opening, "KernelVfioDevice", held)

    def run(name, *arguments):
        command = devices.DEVICE_COMMANDS[name]
        parser = argparse.ArgumentParser()
        command.configure(parser)
        return command.run(parser.parse_args(arguments))

    return run


def add_a_host(sysfs, monkeypatch):
    sysfs.add(FIRST, driver="vfio-pci", group="1")
    sysfs.add("0000:02:00.0", driver="virtio-pci", group="2")
    sysfs.add("0000:03:00.0", driver="virtio-pci", group="3", ids=(0x1AF4, 0x1041))
    sysfs.add("0000:04:00.0", driver="virtio-pci", group="4", ids=(0x1AF4, 0x1000))
    sysfs.add("0000:04:00.1", driver="nvme", group="4", ids=(0x8086, 1), class_code=0x010802)
    sysfs.add("0000:05:00.0", driver=None, group=None, ids=(0x1AF4, 0x1077))
    sysfs.add("0000:00:01.0", driver="pcieport", group="5", ids=(0x1B36, 12), class_code=0x060400)
    used = "0000:03:00.0"
    monkeypatch.setattr(
        sysfs, "uses", lambda each: ["network interface eth0 is up"] * (each.address == used)
    )


def test_list_says_of_each_virtio_device_what_to_do(sysfs, accel, capsys, monkeypatch):
    add_a_host(sysfs, monkeypatch)
    assert accel("list") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"ready {FIRST} 1af4:1042 virtio block, driver vfio-pci, group 1: --accel vfio:{FIRST}",
        (
            "free  0000:02:00.0 1af4:1042 virtio block, driver virtio-pci, group 2: "
            "vhostuser accel bind 0000:02:00.0"
        ),
        (
            "no    0000:03:00.0 1af4:1041 virtio net, driver virtio-pci, group 3: "
            "the host uses it: network interface eth0 is up"
        ),
        (
            "free  0000:04:00.0 1af4:1000 virtio, driver virtio-pci, group 4: its IOMMU group can "
            "only be taken whole: vhostuser accel bind 0000:04:00.0 0000:04:00.1"
        ),
        (
            "no    0000:05:00.0 1af4:1077 virtio 55, driver -, group -: no IOMMU; turn it on in "
            "the firmware and on the kernel's command line"
        ),
    ]


def test_list_shows_all_devices_as_objects(sysfs, accel, capsys, monkeypatch):
    add_a_host(sysfs, monkeypatch)
    assert accel("list", "--all", "--json") == 0
    entries = {entry["address"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert len(entries) == 7
    assert entries["0000:00:01.0"]["advice"] == "it is a bridge"
    assert entries["0000:04:00.1"]["kind"] == "class 010802"
    assert entries[FIRST] == {
        "status": "ready",
        "address": FIRST,
        "ids": "1af4:1042",
        "kind": "virtio block",
        "driver": "vfio-pci",
        "group": "1",
        "advice": f"--accel vfio:{FIRST}",
    }


@pytest.mark.parametrize(
    ("driver", "status"), [("nvme", "no"), (None, "no"), ("vfio-pci", "ready")]
)
def test_list_advises_to_bind_no_device_that_is_hardly_virtio(sysfs, accel, capsys, driver, status):
    sysfs.add(FIRST, driver=driver, group="1", ids=(0x8086, 1), class_code=0x010802)
    assert accel("list", "--all") == 0
    line = capsys.readouterr().out
    assert line.startswith(status)
    assert ("no virtio device by its numbers" in line) == (status == "no")


def test_list_says_that_there_is_nothing(accel, capsys):
    assert accel("list") == 0
    assert "no virtio device on its PCI bus; --all" in capsys.readouterr().out


def test_bind_takes_devices_and_says_how_to_undo_it(sysfs, accel, capsys):
    sysfs.add(FIRST, driver="virtio-pci", group="7")
    sysfs.add(SECOND, driver=None, group="7")
    assert accel("bind", FIRST, SECOND) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{FIRST}: virtio-pci -> vfio-pci",
        f"{SECOND}: no driver -> vfio-pci",
        f"undo: vhostuser accel unbind {FIRST} {SECOND}",
    ]
    assert accel("bind", FIRST) == 0
    assert capsys.readouterr().out == f"{FIRST}: vfio-pci has it already\n"
    assert accel("unbind", FIRST, SECOND) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{FIRST}: virtio-pci has it",
        f"{SECOND}: no driver has it",
    ]


def test_bind_takes_all_or_none(sysfs, accel, capsys):
    sysfs.add(FIRST, driver="virtio-pci", group="7")
    sysfs.add(SECOND, driver="nvme", group=None)
    with pytest.raises(UsageError, match=f"{SECOND}: no IOMMU"):
        accel("bind", FIRST, SECOND)
    assert capsys.readouterr().out.splitlines()[-1] == f"{FIRST}: vfio-pci -> virtio-pci"
    assert [each.driver for each in sysfs.functions()] == ["virtio-pci", "nvme"]


def test_bind_uses_force_only_when_told(sysfs, accel, monkeypatch):
    sysfs.add(FIRST, driver="virtio-pci", group="7")
    monkeypatch.setattr(sysfs, "uses", lambda _: ["disk vda is mounted"])
    with pytest.raises(UsageError, match="--force"):
        accel("bind", FIRST)
    assert accel("bind", "--force", FIRST) == 0


def test_probe_says_what_a_device_can_do(sysfs, accel, capsys):
    sysfs.add(FIRST, driver="vfio-pci", group="7")
    assert accel("probe", "01:00.0") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"device: vfio:{FIRST}",
        "region: 1: 4 KiB, rw, mapped: no",
        "region: 4: 20 KiB, rw, mapped: 0x0+0x5000",
        "region: 7: 4 KiB, rw, mapped: no",
        "interrupt vectors: 3",
        "page sizes: 4 KiB, 2 MiB, 1 GiB",
        "addresses: 0x0 to 0xfedfffff",
        "addresses: 0xfef00000 to 0xffffffffffff",
        "mappings left: 65535",
        "virtio: device type 2",
        "features: 0x100000003",
        (
            "queue: 0: up to 256 descriptors, notify page of its own at 0x40000003000 "
            "(handed over with share-device-fd=on)"
        ),
    ]


def test_probe_says_the_same_as_an_object(sysfs, accel, capsys):
    sysfs.add(FIRST, driver="vfio-pci", group="7")
    assert accel("probe", "--json", FIRST) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["addresses"] == ["0x0 to 0xfedfffff", "0xfef00000 to 0xffffffffffff"]
    assert found["interrupt vectors"] == 3


def test_probe_shows_a_device_that_is_no_virtio_device_too(sysfs, accel, kernel, capsys):
    sysfs.add(FIRST, driver="vfio-pci", group="7")
    kernel.regions[4] = (3, 1000, None)
    kernel.ranges = []
    assert accel("probe", FIRST) == 0
    out = capsys.readouterr().out
    assert "region: 4: 1000 bytes, rw, mapped: no" in out
    assert "addresses: unknown" in out
    assert "virtio: no: " in out


def test_probe_says_why_kicks_would_be_relayed(sysfs, accel, kernel, capsys):
    sysfs.add(FIRST, driver="vfio-pci", group="7")
    kernel.regions[4] = (3, 5 * 4096, None)
    assert accel("probe", FIRST) == 0
    assert "kicks are relayed (" in capsys.readouterr().out


def test_probe_of_a_device_that_is_gone_is_an_error(sysfs, accel, kernel):
    sysfs.add(FIRST, driver="vfio-pci", group="7")
    kernel.refuse["/dev/vfio/7"] = errno.ENODEV
    with pytest.raises(OSError, match="No such device"):
        accel("probe", FIRST)
