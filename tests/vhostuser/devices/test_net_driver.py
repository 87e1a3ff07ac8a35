"""What passes between a network device and its driver beside frames: link, address, commands."""

from __future__ import annotations

import pytest
from net_rig import (
    BROADCAST,
    CONTROL,
    LAYOUTS,
    MERGE,
    PAIRS,
    SPLIT,
    datagram,
    exchange,
    frame,
    served,
    station,
)

from protocol.vhost_user import NetSetMtu, SendRarp, SetVringEnable
from protocol.virtio import (
    NetCommand,
    NetFeatures,
    NetStatus,
    VirtioFeatures,
    net_address_table,
    net_offloads,
    net_on_off,
    net_pairs,
    net_vlan,
)
from vhostuser.devices import NetOptions, NetSwitch
from vhostuser.frontend import (
    LIBBLKIO,
    QEMU,
    VIRTIO_USER,
    CommandError,
    NetControl,
    RequestRefusedError,
)
from vhostuser.testing import held

RECEIVES, SENDS = 0, 1
MAC = b"\x52\x54\0\0\0\1"
OTHER_MAC = b"\x52\x54\0\0\0\2"
ORDERS = [QEMU, VIRTIO_USER, LIBBLKIO]
DRIVER = SPLIT | CONTROL


@pytest.fixture(autouse=True)
def nothing_leaks():
    before = held()
    yield
    assert held().more_than(before) == ""


@pytest.fixture
async def switch():
    async with NetSwitch.open() as switch:
        yield switch


def rarp(mac: bytes) -> bytes:
    """The request of a station for its own address."""
    start = BROADCAST + mac + bytes.fromhex("8035 0001 0800 06 04 0003")
    return start + mac + bytes(4) + mac + bytes(4)


async def test_a_link_goes_down_and_up_and_the_driver_is_told(switch):
    async with station(switch, DRIVER) as one, station(switch) as other:
        await exchange(one, other)
        one.device.set_link(up=False)
        await one.news.receive()
        assert (await one.config()).status == 0
        await one.send(other.mac)
        await other.send(one.mac)
        assert one.counters(SENDS).drops["link"] == 1
        assert other.counters(SENDS).drops["no_receiver"] == 1
        one.device.set_link(up=True)
        await one.news.receive()
        assert (await one.config()).status == NetStatus.LINK_UP
        await exchange(one, other)


async def test_a_driver_sets_its_address_and_the_next_one_begins_with_the_device_s(switch):
    options = NetOptions(mac=MAC)
    async with station(switch, DRIVER, options=options) as one, station(switch) as other:
        await one.command(NetCommand.PROMISCUOUS, net_on_off(on=False))
        await one.command(NetCommand.MAC_ADDRESS, OTHER_MAC)
        await one.news.receive()
        assert one.mac == (await one.config()).mac == OTHER_MAC
        await other.send(MAC)
        sent = await other.send(OTHER_MAC)
        assert await one.received() == sent
        assert one.counters(RECEIVES).drops["filtered"] == 1
        await one.client.stop()
        assert one.mac == OTHER_MAC
        one.device.use_features(one.client.features)
        assert one.mac == MAC
        await one.client.start()
        assert one.mac == MAC
        assert one.device.port.state().promiscuous


async def test_a_driver_announces_itself_when_asked(switch):
    async with station(switch, DRIVER, options=NetOptions(mac=MAC)) as one, station(switch):
        one.device.announce()
        await one.news.receive()
        assert (await one.config()).status == NetStatus.LINK_UP | NetStatus.ANNOUNCE
        await one.command(NetCommand.ANNOUNCED)
        await one.news.receive()
        assert (await one.config()).status == NetStatus.LINK_UP
        assert one.device.port.state().announced == 1


async def test_an_announcement_that_a_driver_owes_is_forgotten_with_it(switch):
    async with served(switch) as (device, client):
        await client.negotiate(features=DRIVER, queues=2)
        client.setup_queue(0)
        await client.start()
        device.announce()
        assert device.status == NetStatus.LINK_UP | NetStatus.ANNOUNCE
        await client.stop()
        device.use_features(client.features)
        assert device.status == NetStatus.LINK_UP


async def test_the_switch_announces_a_driver_that_cannot(switch):
    async with (
        station(switch, options=NetOptions(mac=MAC)) as one,
        station(switch) as other,
        station(switch) as third,
    ):
        one.device.announce()
        assert (await other.received())[:42] == rarp(MAC)
        assert (await third.received())[:42] == rarp(MAC)
        sent = await other.send(MAC)  # known by now: to nobody else
        assert await one.received() == sent
        assert third.counters(RECEIVES).frames == 1


async def test_a_front_end_has_an_address_announced(switch):
    async with station(switch, DRIVER) as one, station(switch) as other:
        await one.client.request(SendRarp(mac=OTHER_MAC))
        assert (await other.received())[:42] == rarp(OTHER_MAC)


@pytest.mark.parametrize("mac", [BROADCAST, bytes(6), b"\x01\0\x5e\0\0\1"])
async def test_only_stations_are_announced(switch, mac, caplog):
    async with station(switch) as one, station(switch) as other:
        with pytest.raises(RequestRefusedError):
            await one.client.request(SendRarp(mac=mac))
        assert "is not the address of one station" in caplog.text
        await exchange(one, other)


async def test_a_locked_port_announces_its_own_address_alone(switch, caplog):
    options = NetOptions(mac=MAC, locked=True)
    async with station(switch, options=options) as one, station(switch) as other:
        with pytest.raises(RequestRefusedError):
            await one.client.request(SendRarp(mac=OTHER_MAC))
        assert "the port is locked to 52:54:00:00:00:01" in caplog.text
        await one.client.request(SendRarp(mac=MAC))
        assert (await other.received())[:42] == rarp(MAC)


async def test_a_front_end_asks_whether_an_mtu_is_carried(switch):
    async with station(switch, options=NetOptions(mtu=9000)) as one:
        await one.client.request(NetSetMtu(mtu=9000))
        with pytest.raises(RequestRefusedError):
            await one.client.request(NetSetMtu(mtu=9001))
        assert (await one.config()).mtu == 9000


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
@pytest.mark.parametrize("ring", LAYOUTS)
async def test_without_more_pairs_the_control_queue_is_behind_the_first(switch, ring, order):
    options = NetOptions(queue_pairs=3)
    features = CONTROL | LAYOUTS[ring]
    async with (
        station(switch, features, options=options, order=order) as one,
        station(switch, options=options) as other,
    ):
        assert one.control is not None
        assert one.control.queue.index == 2
        await one.command(NetCommand.PROMISCUOUS, net_on_off(on=False))
        assert not one.device.port.state().promiscuous
        await exchange(one, other)
        assert [ring.requests for ring in one.device.datapath.statistics()] == [1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
async def test_one_driver_after_the_other_numbers_the_rings_in_its_way(switch, order):
    options = NetOptions(queue_pairs=2, mac=MAC)
    async with served(switch, options, order) as (device, client):
        for features, control in ((CONTROL, 2), (CONTROL | PAIRS, 4), (CONTROL, 2)):
            await client.negotiate(features=SPLIT | features, queues=4)
            for index in range(control + 1):
                client.setup_queue(index)
            await client.start()
            await NetControl(client.queues[control]).command(
                NetCommand.PROMISCUOUS, net_on_off(on=False)
            )
            assert not device.port.state().promiscuous
            await client.stop()
            for index in tuple(client.queues):
                client.queues.pop(index).close()


async def test_a_driver_uses_as_many_pairs_as_it_asks_for(switch):
    options = NetOptions(queue_pairs=2)
    async with (
        station(switch, DRIVER | PAIRS | MERGE, options=options) as one,
        station(switch, DRIVER | PAIRS, options=options) as other,
    ):
        assert one.device.port.state().pairs == 1
        await one.command(NetCommand.PAIRS, net_pairs(2))
        assert one.device.port.state().pairs == 2
        for pair in (0, 1, 0, 1):
            data = frame(other.mac, one.mac, pair)
            await one.driver.send(data, pair=pair)
            assert await other.received() == data
        for pairs in (0, 3):
            with pytest.raises(CommandError, match="PAIRS was refused"):
                await one.command(NetCommand.PAIRS, net_pairs(pairs))
        await exchange(other, one)


async def test_a_flow_comes_back_by_the_pair_that_sends_it_as_long_as_that_is_enabled(switch):
    # As with QEMU, which keeps the control queue: pairs in use are those whose rings are enabled.
    features = SPLIT | PAIRS
    async with (
        station(switch, features, options=NetOptions(queue_pairs=3)) as one,
        station(switch) as other,
    ):
        await exchange(one, other)
        for flow in range(6):
            await one.driver.send(datagram(other.mac, one.mac, flow), pair=flow % 3)
            await other.received()
            answer = datagram(one.mac, other.mac, flow, back=True)
            await other.driver.send(answer)
            assert (await one.driver.receive(pair=flow % 3)).data == answer
        for index in (4, 5):
            await one.client.request(SetVringEnable(index=index, enable=0))
        received = one.counters(0).frames + one.counters(2).frames
        for flow in range(6):
            await other.driver.send(datagram(one.mac, other.mac, flow, back=True))
        assert one.counters(4).frames == 2
        assert one.counters(0).frames + one.counters(2).frames == received + 6


async def test_the_state_of_a_port_says_what_its_driver_has_set(switch):
    offloads = NetFeatures.GUEST_CSUM | NetFeatures.GUEST_TSO4 | NetFeatures.CTRL_GUEST_OFFLOADS
    async with station(switch, DRIVER | VirtioFeatures(offloads)) as one:
        table = net_address_table([MAC, OTHER_MAC]) + net_address_table([b"\x33\x33\0\0\0\1"])
        await one.command(NetCommand.MAC_TABLE, table)
        await one.command(NetCommand.VLAN_ADD, net_vlan(7))
        await one.command(NetCommand.NO_BROADCAST, net_on_off(on=True))
        await one.command(NetCommand.OFFLOADS, net_offloads(NetFeatures.GUEST_CSUM))
        state = one.device.port.state()
        assert (state.unicast, state.multicast, state.vlans) == (2, 1, 1)
        assert (state.no_broadcast, state.all_multicast, state.promiscuous) == (True, False, True)
        assert state.offloads == NetFeatures.GUEST_CSUM
        many = net_address_table([MAC] * 65) + net_address_table([])
        await one.command(NetCommand.MAC_TABLE, many)
        assert one.device.port.state().unicast is None


async def test_what_is_no_command_is_refused(switch):
    async with station(switch, DRIVER) as one:
        assert one.control is not None
        for data in (b"", b"\0", b"\x09\0", b"\0\0", b"\1\1abcde", b"\4\0\1\0"):
            answer = await one.control.execute(data) if data else 1
            assert answer == 1, data
        await one.command(NetCommand.ALL_MULTICAST, net_on_off(on=True))
        assert await one.control.execute(b"\0\0\1", [1, 1]) == 0
