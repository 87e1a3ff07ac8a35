from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from protocol.virtio import BlkFeature, BlkFeatures, VirtioFeature, VirtioFeatures

if TYPE_CHECKING:
    import enum


@pytest.mark.parametrize(
    ("numbers", "masks"), [(VirtioFeature, VirtioFeatures), (BlkFeature, BlkFeatures)]
)
def test_each_number_has_the_mask_of_its_name(
    numbers: type[VirtioFeature | BlkFeature], masks: type[enum.IntFlag]
) -> None:
    assert {number.name: number.mask for number in numbers} == dict(masks.__members__)
    assert {number.name: 1 << number.value for number in numbers} == {
        mask.name: mask.value for mask in masks
    }


def test_features_that_nobody_named_are_kept() -> None:
    every_bit = (1 << 64) - 1
    assert int(VirtioFeatures(every_bit)) == every_bit
    assert int(VirtioFeatures(every_bit) & ~VirtioFeatures.VERSION_1) == every_bit - (1 << 32)


def test_the_numbers_are_those_of_the_specification() -> None:
    assert {
        VirtioFeature.INDIRECT_DESC.value: 28,
        VirtioFeature.EVENT_IDX.value: 29,
        VirtioFeature.PROTOCOL_FEATURES.value: 30,
        VirtioFeature.VERSION_1.value: 32,
        VirtioFeature.RING_PACKED.value: 34,
        VirtioFeature.IN_ORDER.value: 35,
        BlkFeature.FLUSH.value: 9,
        BlkFeature.MQ.value: 12,
        BlkFeature.WRITE_ZEROES.value: 14,
    } == {number: number for number in (28, 29, 30, 32, 34, 35, 9, 12, 14)}
