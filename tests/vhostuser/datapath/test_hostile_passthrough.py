"""Front-ends and accelerators that do the wrong thing, or the right thing at the wrong moment."""

from __future__ import annotations

from accelerators import entropy
from passed_rig import random_bytes, served, started, until_left

from protocol.vhost_user import SetMemTable


async def share_again(client):
    """Send the memory table again, as front-ends do when one region came."""
    regions = tuple(region.description for region in client.shared)
    files = [region.fd for region in client.shared]
    await client.request(SetMemTable(regions=regions), files, need_reply=True)


async def test_memory_that_is_sent_again_stays_the_devices_and_is_taken_away_in_the_end(tmp_path):
    with entropy() as accelerator:
        async with served(tmp_path, accelerator) as server:
            async with started(tmp_path) as client:
                before = server.connection.carrier.memory.snapshot.mapped
                await share_again(client)
                assert server.connection.carrier.memory.snapshot.mapped == before
                await random_bytes(client)
            await until_left(server)
    assert accelerator.diary.count("map 0x0") == accelerator.diary.count("unmap 0x0") == 1
