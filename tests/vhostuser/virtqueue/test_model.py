from __future__ import annotations

import pytest

from protocol.virtio import RingArea, VirtioFeatures, ring_area_alignment, ring_area_size
from vhostuser.native import lib
from vhostuser.virtqueue import Fault, RingFaultError


def test_faults_have_the_numbers_of_the_engine() -> None:
    prefix = "VHU_FAULT_"
    engine = {
        name.removeprefix(prefix): getattr(lib, name)
        for name in dir(lib)
        if name.startswith(prefix)
    }
    assert engine.pop("NONE") == 0
    assert {fault.name: fault.value for fault in Fault} == engine


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_says_what_was_wrong_and_where_that_stands(fault: Fault) -> None:
    error = RingFaultError(fault, 0x1234)
    assert str(error) == f"{fault.name}: got 0x1234, but {fault.rule} ({fault.section})"
    assert (error.fault, error.value) == (fault, 0x1234)
    assert fault.rule
    assert fault.section


@pytest.mark.parametrize("num", [1, 256, 32768])
@pytest.mark.parametrize("area", RingArea)
@pytest.mark.parametrize("layout", [VirtioFeatures(0), VirtioFeatures.RING_PACKED])
def test_the_engine_has_the_ring_layout_of_the_specification(
    layout: VirtioFeatures, area: RingArea, num: int
) -> None:
    packed = VirtioFeatures.RING_PACKED in layout
    features = int(layout | VirtioFeatures.EVENT_IDX)
    assert lib.vhu_ring_area_size(features, num, area) == ring_area_size(area, num, packed=packed)
    assert lib.vhu_ring_area_alignment(features, area) == ring_area_alignment(area, packed=packed)
