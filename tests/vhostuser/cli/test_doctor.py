"""`vhostuser doctor`: each check says what is, and what to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
from types import SimpleNamespace

import pytest

from vhostuser.cli import doctor
from vhostuser.cli.doctor_tap import tap_devices
from vhostuser.cli.doctor_vfio import accelerators
from vhostuser.cli.main import main
from vhostuser.devices import tap_check


@pytest.fixture
def proc(monkeypatch):
    """Stands for files of the kernel."""
    files = {}
    monkeypatch.setattr(doctor, "_read", lambda path: files.get(path, ""))
    return files


def only(findings):
    (finding,) = findings
    return finding


def test_it_prints_a_line_a_check_or_a_list_of_objects(tmp_path, capsys):
    status = main(["doctor", "--socket-folder", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert main(["doctor", "--json", "--socket-folder", str(tmp_path)]) == status
    entries = json.loads(capsys.readouterr().out)
    assert len(lines) == len(entries)
    assert status == any(entry["status"] == "warn" for entry in entries)
    for line, entry in zip(lines, entries, strict=True):
        assert line.startswith(f"{entry['status']:4} {entry['name']}: ")
        assert entry["status"] == "ok" or entry["advice"]
    assert {"kernel", "io_uring", "open files", "vhostuser.native._engine from"} <= {
        entry["name"] for entry in entries
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "files", "value"),
    [
        (0, {}, "available"),
        (errno.EPERM, {"/proc/sys/kernel/io_uring_disabled": "2"}, "sysctl kernel.io_uring_disabl"),
        (errno.EPERM, {"/proc/sys/kernel/io_uring_disabled": "0"}, "a seccomp filter or security"),
        (errno.ENOSYS, {"/proc/self/status": "Seccomp:\t2"}, "or a seccomp filter hides it"),
        (errno.ENOSYS, {}, "the kernel has none"),
        (errno.ENOMEM, {}, "Cannot allocate memory"),
    ],
)
def test_it_says_why_io_uring_is_refused(monkeypatch, proc, error, files, value):
    monkeypatch.setattr(doctor, "_try_io_uring", lambda: error)
    proc |= files
    monkeypatch.setattr(doctor, "_engine_knows_io_uring", lambda: True)
    found = only(doctor._io_uring())
    assert value in found.value
    assert found.status == ("warn" if error else "ok")


@pytest.mark.parametrize(("known", "status"), [(True, "ok"), (False, "warn")])
def test_it_warns_of_an_engine_without_io_uring(monkeypatch, known, status):
    monkeypatch.setattr(doctor, "_try_io_uring", lambda: 0)
    monkeypatch.setattr(doctor, "_engine_knows_io_uring", lambda: known)
    found = only(doctor._io_uring())
    assert (found.status, "liburing-dev" in found.advice) == (status, not known)


def test_it_asks_the_engine_itself(monkeypatch):
    answers = iter([0, -errno.EPERM, -errno.ENOSYS])
    engine = SimpleNamespace(vhu_io_uring_probe=answers.__next__)
    monkeypatch.setattr(doctor, "lib", engine)
    assert [doctor._engine_knows_io_uring() for _ in range(3)] == [True, True, False]


def test_it_tells_whether_there_are_huge_pages(proc):
    proc["/proc/meminfo"] = "HugePages_Total:       0\nHugePages_Free:        0\n"
    assert only(doctor._huge_pages()).status == "note"
    proc["/proc/meminfo"] = "HugePages_Total: 8\nHugePages_Free: 3\nHugepagesize: 2048 kB\n"
    assert only(doctor._huge_pages()).value == "8 of 2048 kB, 3 free"


@pytest.mark.parametrize(("most", "status"), [(1024, "warn"), (4096, "ok"), (-1, "ok")])
def test_it_warns_of_too_few_open_files(monkeypatch, most, status):
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (0, most))
    files, _ = doctor._limits()
    assert files.status == status


@pytest.mark.parametrize(
    ("text", "status", "value"),
    [
        (None, "note", "none"),
        ("", "note", "is empty"),
        ("[]", "warn", "makes no sense"),
        ("{", "warn", "makes no sense"),
        ('{"binary": "/no/such/binary"}', "warn", "names /no/such/binary, not there"),
        ('{"binary": "/bin/sh"}', "ok", "50-vhostuser-blk.json"),
    ],
)
def test_it_looks_at_the_discovery_file(tmp_path, monkeypatch, text, status, value):
    monkeypatch.setattr(doctor, "discovery_folders", lambda: (tmp_path / "none", tmp_path))
    if text is not None:
        (tmp_path / doctor.DISCOVERY_FILE).write_text(text)
    found = only(doctor._discovery())
    assert found.status == status
    assert value in found.value


def test_it_tries_a_socket_where_disks_shall_have_theirs(tmp_path):
    assert only(doctor._socket_folder(tmp_path)).status == "ok"
    found = only(doctor._socket_folder(tmp_path / "missing"))
    assert (found.status, "make the folder" in found.advice) == ("warn", True)


def test_it_tells_a_missing_kvm_from_a_forbidden_one(monkeypatch):
    answers = iter([True, False])
    monkeypatch.setattr(os, "access", lambda *_: next(answers))
    assert [only(doctor._kvm()).status for _ in range(2)] == ["ok", "note"]


def test_an_emulator_that_does_not_start_is_a_note(tmp_path, monkeypatch):
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("no program")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "does not start" in only(doctor._qemu()).value
    program.write_text("#!/bin/sh\necho an emulator\n")
    assert only(doctor._qemu()).value == f"{program}: an emulator"
    with contextlib.suppress(FileNotFoundError):
        program.unlink()


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with an IOMMU, vfio-pci and two groups, of which this user may have one."""
    for folder in ("kernel/iommu_groups/1", "kernel/iommu_groups/2", "bus/pci/drivers/vfio-pci"):
        (tmp_path / "sys" / folder).mkdir(parents=True)
    nodes = tmp_path / "vfio"
    nodes.mkdir()
    for name in ("vfio", "1", "2"):
        (nodes / name).touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: path.name != "2")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    limits = (65536, 65536)
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits)
    return tmp_path


def seen(host):
    return list(accelerators(host / "sys", host / "vfio"))


def test_it_says_which_groups_of_devices_this_user_can_have(host):
    iommu, closed, usable, pinned = seen(host)
    assert (iommu.status, iommu.value) == ("ok", "2 groups")
    assert closed.value == "group 2 is not for this user"
    assert closed.advice.endswith(f"chown USER {host / 'vfio' / '2'}")
    assert (usable.status, usable.value) == ("ok", "usable groups: 1")
    assert (pinned.status, pinned.value) == ("note", "65536 bytes")
    assert "LimitMEMLOCK=infinity" in pinned.advice


@pytest.mark.parametrize(("user", "most"), [(0, 65536), (1000, resource.RLIM_INFINITY)])
def test_it_has_nothing_to_say_of_memory_that_may_be_pinned(host, monkeypatch, user, most):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (most, most))
    assert [finding.name for finding in seen(host)] == ["IOMMU", "VFIO", "VFIO"]


@pytest.mark.parametrize(
    ("missing", "value", "advice"),
    [
        ("sys/kernel/iommu_groups", "none", "intel_iommu=on"),
        ("sys/bus/pci/drivers/vfio-pci", "vfio-pci is not loaded", "modprobe vfio-pci"),
        ("vfio", "vfio-pci has no device", "vhostuser accel list"),
    ],
)
def test_it_says_what_a_host_lacks_for_accelerators(host, missing, value, advice):
    (host / missing).rename(host / "gone")
    found = seen(host)[-1]
    assert (found.status, found.value) == ("note", value)
    assert advice in found.advice


@pytest.fixture
def tap_host(tmp_path, monkeypatch):
    """Stands for a host whose TAP devices this user may make."""
    node, status = tmp_path / "tun", tmp_path / "status"
    node.touch()
    status.write_text("CapEff:\t0000000000001000\n")
    monkeypatch.setattr(tap_check, "TUN_NODE", node)
    monkeypatch.setattr(tap_check, "_STATUS", status)
    return tmp_path


def test_it_says_that_tap_devices_can_be_made(tap_host):
    found = only(tap_devices())
    assert (found.status, found.value) == ("ok", "can be made")


def test_it_says_who_may_make_no_tap_device_and_how_to_have_one(tap_host):
    (tap_host / "status").write_text("CapEff:\t0000000000000000\n")
    found = only(tap_devices())
    assert (found.status, found.value) == ("note", "no right to make a TAP device")
    assert "have root make the device: ip tuntap add dev tap0" in found.advice


def test_it_says_that_tap_devices_have_no_driver(tap_host):
    (tap_host / "tun").unlink()
    found = only(tap_devices())
    assert (found.status, found.value) == ("note", "/dev/net/tun is not there")
    assert "modprobe tun" in found.advice
