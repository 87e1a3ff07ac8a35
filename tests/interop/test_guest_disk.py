"""What a real guest makes of a disk's configuration: blocks, cache, and a cache switched off."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import trio

from vhostuser.devices import BlkDevice, BlkOptions, open_store
from vhostuser.testing import serving
from vhostuser.testing.guest import Guest

if TYPE_CHECKING:
    from pathlib import Path

    from vhostuser.testing.guest import GuestFiles

pytestmark = pytest.mark.interop

_SIZE = 32 << 20
_SCRIPT = r"""
disk=/sys/block/vda
look() {
    blocks="$(cat $disk/queue/logical_block_size) $(cat $disk/queue/physical_block_size)"
    echo "CHECK $1 $blocks $(cat $disk/queue/minimum_io_size) $(cat $disk/size)" \
        "$(cat $disk/cache_type)"
}
write() { dd if=/dev/zero of=/dev/vda bs=4k count=4 oflag=direct 2>/dev/null || echo CHECK bad; }
look first
write
echo "write through" >$disk/cache_type
look switched
write
device=$(basename "$(readlink $disk/device)")
echo "$device" >/sys/bus/virtio/drivers/virtio_blk/unbind
echo "$device" >/sys/bus/virtio/drivers/virtio_blk/bind
look rebound
write
"""


@pytest.mark.parametrize("block_size", [512, 4096])
async def test_a_guest_believes_the_configuration_and_switches_the_cache_for_good(
    qemu: str, block_size: int, guest_files: GuestFiles, tmp_path: Path
) -> None:
    image, path = tmp_path / "image", tmp_path / "blk"
    with image.open("wb") as file:
        file.truncate(_SIZE)
    guest = Guest(socket=path, files=guest_files, script=_SCRIPT, qemu=qemu, cpus=1)
    async with (
        BlkDevice.open(open_store(image), BlkOptions(block_size=block_size)) as device,
        serving(path, device),
    ):
        assert device.writeback
        run = await trio.to_thread.run_sync(functools.partial(guest.run, seconds=60))
        assert not device.writeback
    blocks = f"{block_size} {max(block_size, 4096)} {max(block_size, 4096)} {_SIZE // 512}"
    assert [line for line in run.console.splitlines() if line.startswith("CHECK")] == [
        f"CHECK first {blocks} write back",
        f"CHECK switched {blocks} write through",
        f"CHECK rebound {blocks} write through",
    ], run.console
    assert (run.exit_status, run.complaints) == (0, "")
