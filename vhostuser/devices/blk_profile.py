"""What a disk says of itself: options, limits, features and the configuration space.

Plain data, derived from a store and the options with which it is served; the device that serves it
is `vhostuser.devices.blk`. Specification: VIRTIO 1.2, 5.2.3 "Feature bits" and 5.2.4 "Device
configuration layout".
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import BLK_SECTOR_SIZE, BlkConfig, BlkFeatures, VirtioFeatures
from vhostuser.devices.base import DeviceProfile
from vhostuser.errors import StoreError

if TYPE_CHECKING:
    from vhostuser.devices.block_device import BlockSizes
    from vhostuser.devices.store import Store

__all__ = [
    "BLOCK_SIZES",
    "LIMITS",
    "SERIAL_BYTES",
    "BlkLimits",
    "BlkOptions",
    "blk_config",
    "blk_profile",
    "disk_blocks",
    "disk_sectors",
]

SERIAL_BYTES = 20
"""Longest serial number."""
BLOCK_SIZES = (512, 4096)
"""Logical block sizes that a disk can be given."""

_HEADS = 16
_SECTORS_PER_TRACK = 63
_CYLINDERS = range(2, 16384)
_LONGEST_IO = (1 << 16) - 1
_LONGEST_OPTIMAL_IO = (1 << 32) - 1
_LONGEST_OFFSET = (1 << 8) - 1

_FEATURES = (
    VirtioFeatures.VERSION_1
    | VirtioFeatures.RING_PACKED
    | VirtioFeatures.INDIRECT_DESC
    | VirtioFeatures.EVENT_IDX
    | VirtioFeatures.IN_ORDER
    | VirtioFeatures.PROTOCOL_FEATURES
)
_BLK_FEATURES = (
    BlkFeatures.SIZE_MAX
    | BlkFeatures.SEG_MAX
    | BlkFeatures.GEOMETRY
    | BlkFeatures.BLK_SIZE
    | BlkFeatures.FLUSH
    | BlkFeatures.TOPOLOGY
    | BlkFeatures.CONFIG_WCE
    | BlkFeatures.MQ
    | BlkFeatures.DISCARD
    | BlkFeatures.WRITE_ZEROES
)
_PROTOCOL_FEATURES = (
    ProtocolFeatures.MQ
    | ProtocolFeatures.REPLY_ACK
    | ProtocolFeatures.BACKEND_REQ
    | ProtocolFeatures.CONFIG
    | ProtocolFeatures.RESET_DEVICE
    | ProtocolFeatures.CONFIGURE_MEM_SLOTS
    | ProtocolFeatures.STATUS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkOptions:
    """How a disk is served.

    Attributes:
        queues: number of request queues.
        queue_size: largest ring size accepted, in descriptors.
        serial: what GET_ID returns, at most 20 bytes of ASCII.
        block_size: logical block size in bytes, one of `BLOCK_SIZES`; None: the store's own.
        workers: engine threads.
        poll_us: longest time to poll an idle ring before sleeping, in microseconds.
        busy_poll: never sleep; each worker keeps a processor busy.
        io: how requests wait for the store, one of `vhostuser.datapath.IO_ENGINES`.
    """

    queues: int = 1
    queue_size: int = 1024
    serial: str = ""
    block_size: int | None = None
    workers: int = 1
    poll_us: int = 50
    busy_poll: bool = False
    io: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkLimits:
    """How much one request may ask for. The engine enforces what is announced here.

    Attributes:
        size_max: bytes of a data buffer.
        seg_max: data buffers of a request: what fits a ring of 128 with header and status.
        discard_sectors: sectors of a discard segment.
        discard_segments: segments of a discard.
        write_zeroes_sectors: sectors of a write-zeroes segment. It bounds how long one request
            takes, also where zeroes must be written one by one.
        write_zeroes_segments: segments of a write-zeroes request.
    """

    size_max: int = 1 << 20
    seg_max: int = 126
    discard_sectors: int = 1 << 22
    discard_segments: int = 16
    write_zeroes_sectors: int = 1 << 18
    write_zeroes_segments: int = 1


LIMITS = BlkLimits()


def blk_profile(store: Store, options: BlkOptions) -> DeviceProfile:
    """Return what a disk offers to a front-end."""
    features = int(_FEATURES) | int(_BLK_FEATURES)
    if store.read_only:
        features |= int(BlkFeatures.RO)
        features &= ~int(BlkFeatures.DISCARD | BlkFeatures.WRITE_ZEROES)
    return DeviceProfile(
        kind="block",
        queues=options.queues,
        queue_size=options.queue_size,
        features=VirtioFeatures(features),
        protocol_features=_PROTOCOL_FEATURES,
    )


def disk_blocks(store: Store, options: BlkOptions) -> BlockSizes:
    """Return the block sizes that a disk announces: the store's, or those it was given.

    Raises:
        StoreError: the store is too small for one block of this size.
    """
    blocks = store.blocks
    if options.block_size is not None:
        physical = max(blocks.physical, options.block_size)
        blocks = replace(blocks, logical=options.block_size, physical=physical)
    if store.size < blocks.logical:
        raise StoreError(
            errno.EINVAL,
            f"{store.path} has {store.size} bytes: not one block of {blocks.logical}",
        )
    return blocks


def disk_sectors(size: int, blocks: BlockSizes) -> int:
    """Return the capacity in sectors of 512 bytes: whole blocks only."""
    return size // blocks.logical * (blocks.logical // BLK_SECTOR_SIZE)


def blk_config(sectors: int, blocks: BlockSizes, *, queues: int, writeback: bool) -> BlkConfig:
    """Return the configuration space of a disk.

    Args:
        sectors: capacity in sectors of 512 bytes.
        blocks: what to announce of its blocks.
        queues: number of request queues.
        writeback: whether a write may complete before it is on the medium.
    """
    logical = blocks.logical
    cylinders, heads, per_track = _geometry(sectors, logical)
    offset = blocks.offset // logical
    return BlkConfig(
        capacity=sectors,
        size_max=LIMITS.size_max,
        seg_max=LIMITS.seg_max,
        cylinders=cylinders,
        heads=heads,
        sectors=per_track,
        blk_size=logical,
        physical_block_exp=(blocks.physical // logical).bit_length() - 1,
        alignment_offset=offset if offset <= _LONGEST_OFFSET else 0,
        min_io_size=min(blocks.minimum // logical, _LONGEST_IO),
        opt_io_size=min(blocks.optimal // logical, _LONGEST_OPTIMAL_IO),
        writeback=int(writeback),
        num_queues=queues,
        max_discard_sectors=LIMITS.discard_sectors,
        max_discard_seg=LIMITS.discard_segments,
        discard_sector_alignment=max(blocks.discard, logical) // BLK_SECTOR_SIZE,
        max_write_zeroes_sectors=LIMITS.write_zeroes_sectors,
        max_write_zeroes_seg=LIMITS.write_zeroes_segments,
        write_zeroes_may_unmap=1,
    )


def _geometry(sectors: int, logical: int) -> tuple[int, int, int]:
    """Guess cylinders, heads and sectors per track, as QEMU does of a disk it knows nothing of.

    A track holds whole blocks. Whoever still believes in this takes the capacity from elsewhere.
    """
    per_block = logical // BLK_SECTOR_SIZE
    per_track = _SECTORS_PER_TRACK - _SECTORS_PER_TRACK % per_block
    cylinders = sectors // (_HEADS * _SECTORS_PER_TRACK)
    return min(max(cylinders, _CYLINDERS[0]), _CYLINDERS[-1]), _HEADS, per_track
