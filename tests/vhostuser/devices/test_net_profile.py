"""What a network device says of itself."""

from __future__ import annotations

import pytest

from protocol.vhost_user import ProtocolFeatures
from protocol.virtio import NetConfig, NetFeature, NetFeatures, NetStatus, VirtioFeatures
from vhostuser.devices import NetDevice, NetOptions, NetSwitch
from vhostuser.devices.net_profile import net_config, net_profile
from vhostuser.errors import RequestError

MAC = b"\x52\x54\0\x12\x34\x56"

# VIRTIO 1.2, 5.1.3.1: what may be offered only beside something else.
NEEDS = {
    "GUEST_TSO4": "GUEST_CSUM",
    "GUEST_TSO6": "GUEST_CSUM",
    "GUEST_UFO": "GUEST_CSUM",
    "GUEST_USO4": "GUEST_CSUM",
    "GUEST_USO6": "GUEST_CSUM",
    "HOST_TSO4": "CSUM",
    "HOST_TSO6": "CSUM",
    "HOST_USO": "CSUM",
    "CTRL_RX": "CTRL_VQ",
    "CTRL_RX_EXTRA": "CTRL_VQ",
    "CTRL_VLAN": "CTRL_VQ",
    "CTRL_MAC_ADDR": "CTRL_VQ",
    "CTRL_GUEST_OFFLOADS": "CTRL_VQ",
    "GUEST_ANNOUNCE": "CTRL_VQ",
    "MQ": "CTRL_VQ",
}


@pytest.mark.parametrize("pairs", [1, 2, 128])
def test_no_feature_is_offered_without_what_it_needs(pairs):
    features = NetFeatures(int(net_profile(NetOptions(queue_pairs=pairs)).features))
    for feature in NetFeature:
        if feature.mask in features and feature.name in NEEDS:
            assert NetFeature[NEEDS[feature.name]].mask in features, feature
    assert (NetFeatures.MQ in features) == (pairs > 1)
    assert NetFeatures.GUEST_UFO | NetFeatures.HOST_UFO not in features


@pytest.mark.parametrize("pairs", [1, 2, 128])
def test_there_is_a_control_queue_behind_the_pairs_which_alone_are_counted(pairs):
    profile = net_profile(NetOptions(queue_pairs=pairs, mtu=9000))
    assert (profile.queues, profile.queue_num) == (2 * pairs + 1, pairs)
    assert (profile.kind, profile.mtu) == ("net", 9000)
    unlocked = ProtocolFeatures.RARP | ProtocolFeatures.MTU | ProtocolFeatures.MQ
    assert unlocked in profile.protocol_features
    assert VirtioFeatures.ANY_LAYOUT in profile.features


def test_the_configuration_says_what_there_is():
    options = NetOptions(mtu=9000, queue_pairs=4, speed=25_000)
    assert net_config(options, MAC, NetStatus.LINK_UP) == NetConfig(
        mac=MAC, status=1, max_virtqueue_pairs=4, mtu=9000, speed=25_000, duplex=1
    )
    unknown = net_config(NetOptions(), MAC, NetStatus(0))
    assert (unknown.speed, unknown.duplex, unknown.status) == (0xFFFF_FFFF, 0xFF, 0)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"mtu": 67}, "mtu: a number from 68 to 65535, not 67"),
        ({"mtu": 65536}, "mtu: a number from 68 to 65535"),
        ({"queue_pairs": 0}, "queue_pairs: a number from 1 to 128, not 0"),
        ({"queue_pairs": 129}, "queue_pairs: a number from 1 to 128"),
        ({"speed": 1 << 31}, "speed: a number from 0 to 2147483647"),
        ({"mac": bytes(6)}, "00:00:00:00:00:00 is not the address of one station"),
        ({"mac": b"\xff" * 6}, "ff:ff:ff:ff:ff:ff is not the address of one station"),
        ({"mac": b"\x02"}, "02 is not the address of one station"),
        ({"mac": b""}, "nothing is not the address of one station"),
    ],
)
def test_options_are_in_their_range(wrong, text):
    with pytest.raises(ValueError, match=text):
        NetOptions(**wrong)


async def test_nothing_of_the_configuration_is_written():
    async with NetSwitch.open() as switch, NetDevice.open(switch, NetOptions(mac=MAC)) as device:
        assert await device.read_config(16, 8) == b"\xff" + bytes(7)
        with pytest.raises(RequestError, match="the control queue sets the address"):
            await device.write_config(0, MAC, migration=False)
        await device.write_config(0, MAC, migration=True)
        with pytest.raises(RequestError):
            await device.write_config(0, b"\x53", migration=True)


async def test_devices_have_addresses_of_their_own_and_leave_them_to_others():
    async with NetSwitch.open() as switch, NetDevice.open(switch) as one:
        async with NetDevice.open(switch) as other:
            assert (one.mac, other.mac) == (bytes.fromhex("020000000000"), b"\2\0\0\0\0\1")
        async with NetDevice.open(switch) as next_one:
            assert next_one.mac == other.mac
