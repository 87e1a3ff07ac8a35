"""A device, a client of it and the PCI device that this makes, for every test.

Every test ends with a look at what this process holds: nothing of either end may be left over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vfio_user_rig import RecordingDevice, client_of

from accel.vfio_user import open_over
from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from accel.vfio_user import VfioUserClient, VfioUserDevice


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = held()
    yield
    assert not held().more_than(before)


@pytest.fixture
def device() -> Iterator[RecordingDevice]:
    device = RecordingDevice()
    yield device
    device.close()


@pytest.fixture
async def client(device: RecordingDevice) -> AsyncIterator[VfioUserClient]:
    async with client_of(device) as client:
        yield client


@pytest.fixture
async def pci(client: VfioUserClient) -> AsyncIterator[VfioUserDevice]:
    async with open_over(client) as pci:
        yield pci
