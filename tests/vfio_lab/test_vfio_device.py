"""Real devices held by the kernel's VFIO: what Linux itself says, refuses and gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab_guest import LabDevice, LabRun, checks_of

if TYPE_CHECKING:
    from conftest import RunLabGuest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

BLK, NET = "0000:01:00.0", "0000:02:00.0"


@pytest.fixture(scope="module")
def run(lab_guest: RunLabGuest) -> LabRun:
    return lab_guest("vfio_device", devices=[LabDevice(kind="blk"), LabDevice(kind="net")])


@pytest.mark.parametrize("name", checks_of("vfio_device"))
def test_a_check_in_the_guest(name: str, run: LabRun) -> None:
    run.notes(name)


def test_devices_are_bound_and_given_back(run: LabRun) -> None:
    notes = run.notes("check_devices_are_bound_and_given_back")
    assert notes["before"] == {BLK: "virtio-pci", NET: "virtio-pci"}
    assert notes["listed"] == {BLK: "free", NET: "free"}
    assert notes["bound"].splitlines() == [
        f"{BLK}: virtio-pci -> vfio-pci",
        f"{NET}: virtio-pci -> vfio-pci",
        f"undo: vhostuser accel unbind {BLK} {NET}",
    ]
    assert notes["drivers"] == ["vfio-pci", "vfio-pci"]
    assert notes["ready"] == {BLK: f"--accel vfio:{BLK}", NET: f"--accel vfio:{NET}"}
    assert notes["given back"].splitlines() == [
        f"{BLK}: virtio-pci has it",
        f"{NET}: virtio-pci has it",
    ]


def test_an_unbound_device_is_refused_with_what_to_do(run: LabRun) -> None:
    refusal = run.notes("check_an_unbound_device_is_refused")
    assert refusal.startswith(f"{BLK}: not bound to vfio-pci (the kernel's driver virtio-pci has")
    assert refusal.endswith(f"vhostuser accel bind {BLK}")


def test_probe_says_what_there_is(run: LabRun) -> None:
    found = run.notes("check_probe")
    assert found["region"] == [
        "1: 4 KiB, rw, mapped: no",  # the interrupt table
        "4: 8 MiB, rw, mapped: 0x0+0x800000",
        "7: 4 KiB, rw, mapped: no",
    ]
    assert found["interrupt vectors"] == 3
    assert found["page sizes"] == "4 KiB, 2 MiB, 1 GiB"
    assert found["addresses"] == ["0x0 to 0xfedfffff", "0xfef00000 to 0xffffffffffff"]
    assert found["mappings left"] == 65535
    assert [line.partition(" (")[0] for line in found["queue"]] == [
        "0: up to 256 descriptors, notify page of its own at 0x40000003000",
        "1: up to 256 descriptors, notify page of its own at 0x40000004000",
    ]


def test_registers_hold_what_is_written_until_a_reset(run: LabRun) -> None:
    ids, status, after_reset, command, selected = run.notes("check_registers")
    assert (ids, status, after_reset) == ("0x10421af4", 3, 0)
    assert command == 6  # also after the reset
    assert selected == 1


def test_what_the_kernel_refuses_of_memory_is_said_in_words(run: LabRun) -> None:
    overlap, partly, twice = run.notes("check_memory_comes_and_goes")
    assert "overlaps with memory that the device already reaches" in overlap[0]
    assert "guest memory 0x100000000 to 0x1001fffff cannot be taken away" in partly[0]
    assert "the kernel took 0x0 away" in twice[0]
    hole, above = run.notes("check_where_memory_cannot_be")
    assert "(0xfee00000 to 0xfee02fff; interrupts go there" in hole[0]
    assert "lies above 0xffffffffffff, the last address" in above[0]
    text, number = run.notes("check_memory_beyond_the_limit_of_locked_memory")
    assert number == "ENOMEM"
    assert "needs all 4096 KiB of the guest's memory locked" in text
    assert "may lock 1024 KiB; raise the limit" in text
    text, number = run.notes("check_truncated_memory_is_refused")
    assert number == "EFAULT"
    assert "there is no memory behind all of it" in text


def test_vectors_come_and_go_one_by_one(run: LabRun) -> None:
    count, *bound = run.notes("check_vectors_are_added_later")
    assert count == 3
    assert bound == [
        [f"vfio-msix[{vector}]({BLK})" for vector in vectors]
        for vectors in ([1], [0], [0, 2], [])  # a reset changes nothing, closing all
    ]


def test_a_device_in_use_is_neither_shared_nor_given_back(run: LabRun) -> None:
    opened, given_back = run.notes("check_only_one_may_have_a_device")
    assert opened.startswith(f"{BLK}: another process has IOMMU group")
    assert given_back.startswith(f"{BLK}: another process has IOMMU group")
    assert "end it first" in given_back


def test_a_receiver_of_the_devices_file_keeps_the_device_but_no_memory(run: LabRun) -> None:
    locked, refusal = run.notes("check_who_has_the_devices_file_keeps_the_device_but_no_memory")
    assert locked == [4096, 0]
    assert "another process has IOMMU group" in refusal


def test_a_receiver_of_the_devices_file_cannot_end_our_process(run: LabRun) -> None:
    refusals = run.notes("check_who_has_the_devices_file_cannot_end_our_process")
    assert refusals == [["vfio:0000:01:00.0: Input/output error", "EIO"]] * 2


def test_a_host_that_takes_a_device_away_is_obeyed(run: LabRun) -> None:
    why, driver = run.notes("check_the_host_gets_a_device_back_that_is_in_use")
    assert why == "the host wants the device back (it is being unbound or unplugged)"
    assert driver == "virtio-pci"
    assert run.notes("check_a_process_that_dies_leaves_the_device_free") == "virtio-pci"
