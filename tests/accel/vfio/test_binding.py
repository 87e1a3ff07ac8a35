"""Giving devices to vfio-pci and back: all of it, or nothing."""

from __future__ import annotations

import errno

import pytest

from accel.vfio import Binding
from vhostuser.errors import UsageError

ADDRESS = "0000:01:00.0"


@pytest.fixture
def records(tmp_path):
    return tmp_path / "records"


@pytest.fixture
def binding(kernel, sysfs, records):
    return Binding(kernel, sysfs, records)


def driver(sysfs):
    return sysfs.function(ADDRESS).driver


def override(sysfs):
    return (sysfs.path(ADDRESS) / "driver_override").read_text().strip()


@pytest.mark.parametrize("before", ["virtio-pci", None])
def test_a_device_is_taken_and_given_back(sysfs, kernel, binding, records, before):
    sysfs.add(driver=before, group="7")
    assert binding.bind("01:00.0") == (before or "")
    assert (driver(sysfs), override(sysfs)) == ("vfio-pci", "vfio-pci")
    assert [path.name for path in records.iterdir()] == [ADDRESS]
    another_process = Binding(kernel, sysfs, records)
    assert another_process.unbind(ADDRESS) == (before or "")
    assert (driver(sysfs), override(sysfs)) == (before, "(null)")
    assert list(records.iterdir()) == []


def test_what_it_was_reserved_for_is_restored(sysfs, binding):
    path = sysfs.add(driver="uio_pci_generic", group="7")
    (path / "driver_override").write_text("uio_pci_generic\n")
    binding.bind(ADDRESS)
    binding.unbind(ADDRESS)
    assert (driver(sysfs), override(sysfs)) == ("uio_pci_generic", "uio_pci_generic")


def test_binding_twice_changes_nothing(sysfs, binding):
    sysfs.add(driver="virtio-pci", group="7")
    binding.bind(ADDRESS)
    sysfs.written.clear()
    assert binding.bind(ADDRESS) is None
    assert sysfs.written == []
    assert binding.unbind(ADDRESS) == "virtio-pci"


def test_a_device_that_was_never_bound_is_left_alone(sysfs, binding):
    sysfs.add(driver="virtio-pci", group="7")
    assert binding.unbind(ADDRESS) == "virtio-pci"
    assert sysfs.written == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"driver": "../x", "override": ""}', "\0"])
def test_without_a_record_the_kernel_chooses(sysfs, binding, records, text):
    sysfs.add(driver="virtio-pci", group="7")
    binding.bind(ADDRESS)
    (records / ADDRESS).write_text(text)
    assert binding.unbind(ADDRESS) == "virtio-pci"
    assert override(sysfs) == "(null)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": None}, "no IOMMU stands between"),
        ({"group": "7", "class_code": 0x060400}, "is a bridge: bind the device behind it"),
    ],
)
def test_what_cannot_be_used_is_not_taken(sysfs, binding, records, options, words):
    sysfs.add(driver="pcieport", **options)
    with pytest.raises(UsageError, match=words):
        binding.bind(ADDRESS)
    assert sysfs.written == []
    assert not records.exists()


def test_without_the_driver_nothing_is_changed(sysfs, binding):
    sysfs.add(driver="virtio-pci", group="7")
    (sysfs.bus / "drivers" / "vfio-pci").rmdir()
    with pytest.raises(UsageError, match="is not loaded: modprobe vfio-pci"):
        binding.bind(ADDRESS)
    assert sysfs.written == []


def test_what_the_host_uses_is_taken_only_by_force(sysfs, binding, monkeypatch):
    sysfs.add(driver="virtio-pci", group="7")
    monkeypatch.setattr(sysfs, "uses", lambda _: ["disk vda is mounted"])
    with pytest.raises(UsageError, match=r"uses it \(disk vda is mounted\).*--force"):
        binding.bind(ADDRESS)
    assert driver(sysfs) == "virtio-pci"
    assert binding.bind(ADDRESS, force=True) == "virtio-pci"


@pytest.fixture
def fail_once(sysfs, monkeypatch):
    """Has the first write to a path with this end fail."""

    def fail(end):
        write = sysfs.write
        failed = []

        def write_or_fail(path, text):
            if str(path).endswith(end) and not failed:
                failed.append(path)
                raise OSError(errno.EBUSY, "injected")
            write(path, text)

        monkeypatch.setattr(sysfs, "write", write_or_fail)

    return fail


@pytest.mark.parametrize("failing", ["driver_override", "driver/unbind", "drivers_probe"])
def test_a_failure_changes_nothing(sysfs, binding, records, failing, fail_once):
    sysfs.add(driver="virtio-pci", group="7")
    fail_once(failing)
    with pytest.raises(OSError, match="injected"):
        binding.bind(ADDRESS)
    assert (driver(sysfs), override(sysfs)) == ("virtio-pci", "(null)")
    assert list(records.iterdir()) == []


def test_a_device_that_vfio_does_not_take_goes_back(sysfs, binding):
    sysfs.add(driver="virtio-pci", group="7")
    sysfs.unwilling.add("vfio-pci")
    with pytest.raises(UsageError, match="vfio-pci did not take it; `dmesg` may tell why"):
        binding.bind(ADDRESS)
    assert (driver(sysfs), override(sysfs)) == ("virtio-pci", "(null)")


def test_a_device_that_cannot_go_back_either_is_told_with_both_reasons(sysfs, binding):
    sysfs.add(driver="virtio-pci", group="7")
    sysfs.unwilling.add("vfio-pci")
    sysfs.errors["virtio-pci/bind"] = errno.ENODEV
    with pytest.raises(
        UsageError, match=r"did not take it.*; and virtio-pci could not be restored \(No such dev"
    ):
        binding.bind(ADDRESS)


def test_without_root_nothing_is_changed_and_said(sysfs, binding):
    sysfs.add(driver="virtio-pci", group="7")
    sysfs.errors["driver_override"] = errno.EACCES
    with pytest.raises(UsageError, match=r"needs root: Permission denied"):
        binding.bind(ADDRESS)
    assert driver(sysfs) == "virtio-pci"


def test_a_device_in_use_is_not_given_back(sysfs, kernel, binding):
    sysfs.add(driver="virtio-pci", group="7")
    binding.bind(ADDRESS)
    kernel.refuse["/dev/vfio/7"] = errno.EBUSY
    sysfs.written.clear()
    with pytest.raises(UsageError, match="another process has IOMMU group 7 open; end it first"):
        binding.unbind(ADDRESS)
    assert sysfs.written == []
    kernel.refuse["/dev/vfio/7"] = errno.EACCES  # then the kernel knows better
    assert binding.unbind(ADDRESS) == "virtio-pci"


def test_only_a_device_that_is_there_is_bound(sysfs, binding):
    with pytest.raises(UsageError, match="there is no such PCI device"):
        binding.bind(ADDRESS)
    with pytest.raises(UsageError, match="is no PCI address"):
        binding.bind("../../0000:01:00.0")
