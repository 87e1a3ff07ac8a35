"""Drivers of the time before VIRTIO 1: they leave VERSION_1 away, and much else with it."""

from __future__ import annotations

import pytest
import trio

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import BlkFeatures, VirtioFeatures
from vhostuser.devices import BlkDevice, BlkOptions, default_sector, default_store
from vhostuser.frontend import BlockDriver, FrontendClient, GuestMemory
from vhostuser.testing import serving


@pytest.mark.parametrize(
    "features",
    [
        VirtioFeatures(0),
        VirtioFeatures.PROTOCOL_FEATURES,
        VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures.EVENT_IDX,
        VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures.INDIRECT_DESC,
        VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures(int(BlkFeatures.FLUSH)),
    ],
    ids=["nothing", "bare", "event-idx", "indirect", "flush"],
)
async def test_a_legacy_driver_reads_and_writes(tmp_path, features):
    path = tmp_path / "socket"
    with trio.fail_after(60), GuestMemory() as memory:
        async with (
            BlkDevice.open(default_store(), BlkOptions(serial="old")) as device,
            serving(path, device),
            FrontendClient.connect(path, memory) as client,
        ):
            has_protocol = VirtioFeatures.PROTOCOL_FEATURES in features
            protocol = ProtocolFeatures.CONFIG if has_protocol else ProtocolFeatures(0)
            await client.negotiate(features=features, protocol_features=protocol)
            assert client.features == features
            queue = client.setup_queue(0)
            await client.start()
            disk = BlockDriver([queue])
            assert await disk.read(9, 512) == default_sector(9)
            await disk.write(9, b"nine".ljust(512))
            assert await disk.read(9, 512) == b"nine".ljust(512)
            assert await disk.get_id() == "old"
            await client.stop()
