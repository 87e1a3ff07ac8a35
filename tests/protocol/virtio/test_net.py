from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.virtio import (
    NET_CONFIG_SIZE,
    NET_HEADER_SIZE,
    NetConfig,
    NetFeature,
    NetFeatures,
    NetHeader,
    NetStatus,
    VirtioFeatures,
    net_header_size,
)

U8, U16, U32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))


@given(st.binary(min_size=NET_HEADER_SIZE, max_size=NET_HEADER_SIZE))
def test_any_12_bytes_are_a_header(data):
    assert bytes(NetHeader.parse(data)) == data


def test_a_header_has_its_fields_where_the_specification_puts_them():
    header = NetHeader(
        flags=1, gso_type=2, hdr_len=3, gso_size=4, csum_start=5, csum_offset=6, num_buffers=0x708
    )
    assert bytes(header) == bytes.fromhex("01 02 0300 0400 0500 0600 0807")


@pytest.mark.parametrize(
    ("features", "size"),
    [
        (VirtioFeatures(0), 10),
        (VirtioFeatures(NetFeatures.CSUM | NetFeatures.MQ), 10),
        (VirtioFeatures(NetFeatures.MRG_RXBUF), 12),
        (VirtioFeatures.VERSION_1, 12),
        (VirtioFeatures(~0), 12),
    ],
)
def test_the_header_of_a_legacy_device_has_no_count_of_buffers_unless_it_merges(features, size):
    assert net_header_size(features) == size


@pytest.mark.parametrize("size", [0, 10, 11, 13])
def test_a_header_has_12_bytes(size):
    with pytest.raises(ValueError, match=f"12 bytes, got {size}"):
        NetHeader.parse(bytes(size))


@given(
    st.builds(
        NetConfig,
        mac=st.binary(min_size=6, max_size=6),
        status=U16,
        max_virtqueue_pairs=U16,
        mtu=U16,
        speed=U32,
        duplex=U8,
    )
)
def test_a_configuration_survives_bytes(config):
    assert NetConfig.parse(bytes(config)) == config


def test_a_configuration_has_its_fields_where_the_specification_puts_them():
    config = NetConfig(mac=b"abcdef", status=NetStatus.LINK_UP, mtu=1500, speed=1000, duplex=1)
    assert bytes(config) == b"abcdef" + bytes.fromhex("0100 0100 dc05 e8030000 01")


@pytest.mark.parametrize("size", [0, 12, 16, 18])
def test_a_configuration_has_17_bytes(size):
    with pytest.raises(ValueError, match=f"{NET_CONFIG_SIZE} bytes, got {size}"):
        NetConfig.parse(bytes(size))


def test_a_set_of_features_holds_each_number_in_its_place():
    for feature in NetFeature:
        assert feature.mask is NetFeatures[feature.name]
        assert int(feature.mask) == 1 << feature.value
    assert int(~NetFeatures.MAC) == (1 << 64) - 1 - (1 << 5)
