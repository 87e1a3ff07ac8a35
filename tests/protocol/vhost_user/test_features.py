"""Feature numbers and sets: same names, different types, nothing dropped."""

from __future__ import annotations

import pytest

from protocol import vhost_user as v
from protocol.virtio.features import VirtioFeature, VirtioFeatures


def test_numbers_and_masks_have_the_same_names() -> None:
    for feature in v.ProtocolFeature:
        assert feature.mask == 1 << feature.value
        assert v.ProtocolFeatures[feature.name] is feature.mask
    assert len(v.ProtocolFeatures) == len(v.ProtocolFeature) == 24
    assert [feature.value for feature in v.ProtocolFeature] == list(range(24))


def test_a_number_is_no_mask() -> None:
    with pytest.raises(TypeError):
        v.ProtocolFeature.MQ | 1  # type: ignore[operator]
    assert v.ProtocolFeature.RARP != 2  # type: ignore[comparison-overlap]


def test_unknown_bits_are_kept() -> None:
    assert int(v.ProtocolFeatures(1 << 40 | 1)) == 1 << 40 | 1


def test_names_of_sets() -> None:
    bits = int(v.ProtocolFeatures.MQ | v.ProtocolFeatures.CONFIG) | 1 << 40
    assert v.name_protocol_features(bits) == "MQ|CONFIG|bit40"
    assert v.name_virtio_features(1 << 32 | 1 << 6) == "bit6|VERSION_1"
    assert v.name_protocol_features(0) == "none"


def test_negotiated_tells_virtio_and_protocol_features_apart() -> None:
    negotiated = v.Negotiated(VirtioFeatures.VERSION_1, v.ProtocolFeatures.REPLY_ACK)
    assert negotiated.has(VirtioFeature.VERSION_1)
    assert not negotiated.has(VirtioFeature.RING_PACKED)
    assert negotiated.has(v.ProtocolFeature.REPLY_ACK)
    assert not negotiated.has(v.ProtocolFeature.MQ)
    assert repr(negotiated) == "Negotiated(features=0x100000000, protocol_features=0x8)"
