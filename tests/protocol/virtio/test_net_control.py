from __future__ import annotations

import pytest

from protocol.virtio import (
    NET_CONTROL_HEADER_SIZE,
    NetCommand,
    NetControlClass,
    NetFeatures,
    net_address_table,
    net_offloads,
    net_on_off,
    net_pairs,
    net_vlan,
)


@pytest.mark.parametrize("command", NetCommand)
def test_a_command_begins_with_its_class_and_its_number(command):
    data = bytes(command)
    assert len(data) == NET_CONTROL_HEADER_SIZE
    assert (NetControlClass(data[0]), data[1]) == command.value


def test_commands_have_the_numbers_of_the_specification():
    assert {command.name: bytes(command).hex() for command in NetCommand} == {
        "PROMISCUOUS": "0000",
        "ALL_MULTICAST": "0001",
        "ALL_UNICAST": "0002",
        "NO_MULTICAST": "0003",
        "NO_UNICAST": "0004",
        "NO_BROADCAST": "0005",
        "MAC_TABLE": "0100",
        "MAC_ADDRESS": "0101",
        "VLAN_ADD": "0200",
        "VLAN_REMOVE": "0201",
        "ANNOUNCED": "0300",
        "PAIRS": "0400",
        "OFFLOADS": "0500",
    }


def test_what_comes_with_a_command_is_little_endian():
    assert net_on_off(on=True) + net_on_off(on=False) == b"\x01\x00"
    assert net_vlan(0x123) == b"\x23\x01"
    assert net_pairs(128) == b"\x80\x00"
    assert net_offloads(NetFeatures.GUEST_CSUM | NetFeatures.GUEST_USO4) == bytes.fromhex(
        "0200000000004000"
    )


def test_a_table_of_addresses_says_how_many_there_are():
    assert net_address_table([]) == bytes(4)
    assert net_address_table([b"abcdef", b"ghijkl"]) == b"\x02\0\0\0abcdefghijkl"
    with pytest.raises(ValueError, match="6 bytes, got 5"):
        net_address_table([b"abcde"])
