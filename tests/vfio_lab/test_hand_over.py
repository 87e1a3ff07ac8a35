"""The hand-over on real devices: our back-end and our front-end in a guest with an IOMMU.

The front-end's guest rings the device's doorbell page, the device interrupts it, and every byte is
looked at in memory; the back-end's threads do not run meanwhile, counted by the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab_guest import SECTOR_COUNT, LabDevice, LabRun, checks_of, sector

if TYPE_CHECKING:
    from conftest import RunLabGuest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

BLK, SHARED_PAGE_BLK = "0000:01:00.0", "0000:03:00.0"
SCRIPTS = ("machine", "kernel_vfio", "hand_over")
SECTOR, MEBIBYTE = 512, 1 << 20
DISKS_ALONE = (
    "check_a_split_disk_alone",
    "check_a_packed_disk_alone",
    "check_a_disk_alone_in_the_dialect_of_2017",
    "check_a_disk_alone_in_the_dialect_of_2018",
)


@pytest.fixture(scope="module")
def run(lab_guest: RunLabGuest) -> LabRun:
    devices = [
        LabDevice(kind="blk"),
        LabDevice(kind="net"),
        LabDevice(kind="blk", page_per_vq=False),
    ]
    return lab_guest(*SCRIPTS, devices=devices)


@pytest.mark.parametrize("name", [name for script in SCRIPTS for name in checks_of(script)])
def test_a_check_in_the_guest(name: str, run: LabRun) -> None:
    run.notes(name)


def test_the_machine_has_what_user_space_needs(run: LabRun) -> None:
    assert run.notes("check_the_kernel_has_vfio_with_an_iommu") == {"api": 0, "type1v2": 1}
    found = run.notes("check_the_devices_are_alone_in_their_groups")
    assert found == {BLK: "0x1042", "0000:02:00.0": "0x1041", SHARED_PAGE_BLK: "0x1042"}


def test_each_request_kicks_by_the_page_and_interrupts_once(run: LabRun) -> None:
    notes = run.notes("check_every_request_interrupts_once")
    # Vector 0 is the configuration's; queue 1 has vector 2.
    interrupts = {f"vfio-msix[0]({BLK})": 0, f"vfio-msix[2]({BLK})": 40}
    assert notes == {"requests": 40, "by_page": 40, "by_fd": 0, "interrupts": interrupts}


@pytest.mark.parametrize("name", DISKS_ALONE)
def test_a_disk_is_used_without_the_back_end(name: str, run: LabRun) -> None:
    notes = run.notes(name)
    assert notes["used"] > 90
    assert notes["by_page"] > 0
    assert (notes["by_fd"], notes["backend_ran"]) == (0, False)
    assert notes["interrupted"] > 0
    # Only the dialects of the RFC name the group that both queues are in.
    assert notes["groups"] == ("dialect" in name)


@pytest.mark.parametrize("layout", ["split", "packed"])
def test_a_network_card_is_used_without_the_back_end(layout: str, run: LabRun) -> None:
    notes = run.notes(f"check_a_{layout}_network_alone")
    assert notes["used"] > 40
    assert notes["by_page"] > notes["used"]
    assert (notes["by_fd"], notes["backend_ran"]) == (0, False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "check_a_disk_is_relayed_unless_its_file_may_be_shared",
            f"say --accel vfio:{BLK},share-device-fd=on",
        ),
        ("check_a_disk_with_one_page_for_all_doorbells_is_relayed", "relayed: page-per-vq=off: "),
    ],
)
def test_kicks_are_relayed_where_there_is_no_page_to_hand_over(
    name: str, reason: str, run: LabRun
) -> None:
    notes = run.notes(name)
    assert notes["used"] > 90
    assert notes["areas"] == 0
    assert [page for page, _ in notes["kicks"]] == [0, 0]
    assert all(eventfd > 0 for _, eventfd in notes["kicks"])
    assert len(notes["said"]) == 2  # once a ring
    assert all(reason in line for line in notes["said"])


@pytest.mark.parametrize("number", [1, 3])
def test_the_host_finds_what_was_written_and_nothing_else(number: int, run: LabRun) -> None:
    image = run.image(number)
    written = range(64, 2112 + 2048 if number == 1 else 64 + 2048)
    for place in range(SECTOR_COUNT):
        found = image[place * SECTOR : (place + 1) * SECTOR]
        assert (found == sector(place)) == (place not in written), place
