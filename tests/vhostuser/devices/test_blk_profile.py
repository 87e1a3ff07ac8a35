"""What a disk says of itself: blocks, geometry, limits and features."""

from __future__ import annotations

import contextlib

import pytest

from protocol.virtio import BlkConfig, BlkFeatures
from vhostuser.devices import (
    BLOCK_SIZES,
    BlkDevice,
    BlkOptions,
    BlockSizes,
    memory_store,
    null_store,
    open_store,
)
from vhostuser.devices.blk_profile import blk_config, disk_blocks, disk_sectors
from vhostuser.errors import StoreError
from vhostuser.testing import held


def config(sectors: int = 1 << 21, **sizes: int) -> BlkConfig:
    return blk_config(sectors, BlockSizes(**sizes), queues=1, writeback=True)


@pytest.mark.parametrize(
    ("sectors", "logical", "geometry"),
    [
        (1, 512, (2, 16, 63)),
        (16 * 63 * 3 - 1, 512, (2, 16, 63)),
        (16 * 63 * 3, 512, (3, 16, 63)),
        (1 << 21, 512, (2080, 16, 63)),
        (16 * 63 * 16384, 512, (16383, 16, 63)),
        (1 << 54, 512, (16383, 16, 63)),
        (1 << 21, 4096, (2080, 16, 56)),
    ],
)
def test_the_geometry_is_the_one_that_qemu_guesses(sectors, logical, geometry):
    it = config(sectors, logical=logical, physical=logical)
    assert (it.cylinders, it.heads, it.sectors) == geometry


@pytest.mark.parametrize(
    ("sizes", "announced"),
    [
        ({}, (512, 0, 0, 0, 0)),
        ({"physical": 4096}, (512, 3, 0, 0, 0)),
        ({"logical": 4096, "physical": 4096}, (4096, 0, 0, 0, 0)),
        ({"physical": 4096, "offset": 3584}, (512, 3, 7, 0, 0)),
        ({"offset": 512 * 255}, (512, 0, 255, 0, 0)),
        ({"offset": 512 * 256}, (512, 0, 0, 0, 0)),
        ({"minimum": 65536, "optimal": 1 << 20}, (512, 0, 0, 128, 2048)),
        ({"minimum": 1 << 31, "optimal": 1 << 50}, (512, 0, 0, 65535, (1 << 32) - 1)),
        ({"logical": 4096, "physical": 8192, "minimum": 512}, (4096, 1, 0, 0, 0)),
    ],
)
def test_the_topology_counts_in_logical_blocks_and_never_overflows(sizes, announced):
    it = config(**sizes)
    assert announced == (
        it.blk_size,
        it.physical_block_exp,
        it.alignment_offset,
        it.min_io_size,
        it.opt_io_size,
    )
    assert BlkConfig.parse(bytes(it)) == it


@pytest.mark.parametrize(
    ("logical", "discard", "sectors"),
    [(512, 0, 1), (512, 4096, 8), (4096, 512, 8), (512, 1 << 20, 2048)],
)
def test_discards_are_aligned_to_what_the_store_can_give_back(logical, discard, sectors):
    it = config(logical=logical, physical=logical, discard=discard)
    assert it.discard_sector_alignment == sectors


@pytest.mark.parametrize("size", BLOCK_SIZES)
def test_a_disk_has_the_block_size_it_was_given_and_whole_blocks(size):
    store = null_store(4096 * 3 + 512)
    blocks = disk_blocks(store, BlkOptions(block_size=size))
    assert blocks == BlockSizes(logical=size, physical=size)
    assert disk_sectors(store.size, blocks) == {512: 25, 4096: 24}[size]


def test_a_larger_physical_block_outlives_the_block_size_that_was_given(image):
    with contextlib.closing(open_store(image)) as store:
        blocks = disk_blocks(store, BlkOptions(block_size=512))
        assert (blocks.logical, blocks.physical) == (512, store.blocks.physical)


async def test_a_store_of_less_than_a_block_is_refused_and_closed():
    before = held()
    with pytest.raises(StoreError, match="has 2048 bytes: not one block of 4096"):
        async with BlkDevice.open(memory_store(2048), BlkOptions(block_size=4096)):
            pass
    assert held().more_than(before) == ""


async def test_a_field_is_filled_where_its_feature_is_offered():
    async with BlkDevice.open(memory_store(1 << 20), BlkOptions(queues=2)) as device:
        features = BlkFeatures(int(device.profile.features))
        it = BlkConfig.parse(await device.read_config(0, 60))
    fields = {
        BlkFeatures.SIZE_MAX: it.size_max,
        BlkFeatures.SEG_MAX: it.seg_max,
        BlkFeatures.GEOMETRY: it.cylinders * it.heads * it.sectors,
        BlkFeatures.BLK_SIZE: it.blk_size,
        BlkFeatures.TOPOLOGY: it.physical_block_exp,
        BlkFeatures.CONFIG_WCE: it.writeback,
        BlkFeatures.MQ: it.num_queues,
        BlkFeatures.DISCARD: it.max_discard_sectors * it.max_discard_seg,
        BlkFeatures.WRITE_ZEROES: it.max_write_zeroes_sectors * it.max_write_zeroes_seg,
    }
    for feature, value in fields.items():
        assert feature in features
        assert value > 0
