"""The lab guest has what the other tests here rely on: an IOMMU, VFIO, devices, this project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab_guest import LabDevice, LabRun, checks_of

if TYPE_CHECKING:
    from conftest import RunLabGuest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def run(lab_guest: RunLabGuest) -> LabRun:
    return lab_guest("machine", devices=[LabDevice(kind="blk"), LabDevice(kind="net")])


@pytest.mark.parametrize("name", checks_of("machine"))
def test_a_check_in_the_guest(name: str, run: LabRun) -> None:
    run.notes(name)


def test_user_space_can_have_the_devices(run: LabRun) -> None:
    assert run.notes("check_the_kernel_has_vfio_with_an_iommu") == {"api": 0, "type1v2": 1}
    found = run.notes("check_the_devices_are_alone_in_their_groups")
    assert found == {"0000:01:00.0": "0x1042", "0000:02:00.0": "0x1041"}
