"""Without an IOMMU a device could write all of the host's memory: it is refused, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab_guest import LabDevice, LabRun

if TYPE_CHECKING:
    from conftest import RunLabGuest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

BLK = "0000:01:00.0"


@pytest.fixture(scope="module")
def run(lab_guest: RunLabGuest) -> LabRun:
    return lab_guest("no_iommu", devices=[LabDevice(kind="blk")], iommu=False)


@pytest.mark.parametrize("command", ["serving", "binding"])
def test_a_device_without_an_iommu_is_refused(command: str, run: LabRun) -> None:
    status, printed, complaint = run.notes(f"check_{command}_is_refused")
    assert (status, printed) == (1, "")
    assert complaint.startswith(
        f"vhostuser: {BLK}: no IOMMU stands between this device and the host's memory, of which it "
        "could write any part: turn one on "
    )
    assert "intel_iommu=on" in complaint


def test_the_list_says_what_is_missing(run: LabRun) -> None:
    status, printed, complaint = run.notes("check_the_list_says_what_is_missing")
    assert (status, complaint) == (0, "")
    (line,) = printed.splitlines()
    assert line.startswith(f"no    {BLK} 1af4:1042 virtio block, driver virtio-pci, group -: ")
    assert "no IOMMU; turn it on" in line
