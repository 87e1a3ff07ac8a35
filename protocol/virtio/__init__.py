"""Virtio's formats: features, rings, and the devices' requests and configuration spaces."""

from protocol.virtio.blk import (
    BLK_CONFIG_SIZE,
    BLK_HEADER_SIZE,
    BLK_ID_SIZE,
    BLK_SECTOR_SIZE,
    BLK_SEGMENT_SIZE,
    BlkConfig,
    BlkFeature,
    BlkFeatures,
    BlkHeader,
    BlkRequest,
    BlkSegment,
    BlkStatus,
)
from protocol.virtio.features import VirtioFeature, VirtioFeatures

__all__ = [
    "BLK_CONFIG_SIZE",
    "BLK_HEADER_SIZE",
    "BLK_ID_SIZE",
    "BLK_SECTOR_SIZE",
    "BLK_SEGMENT_SIZE",
    "BlkConfig",
    "BlkFeature",
    "BlkFeatures",
    "BlkHeader",
    "BlkRequest",
    "BlkSegment",
    "BlkStatus",
    "VirtioFeature",
    "VirtioFeatures",
]
