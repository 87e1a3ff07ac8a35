"""Network devices: frames between drivers in this process, through the server and the engine."""

from __future__ import annotations

import errno

import pytest
from net_rig import (
    BROADCAST,
    CONTROL,
    LAYOUTS,
    LEGACY,
    MERGE,
    PACKED,
    PAIRS,
    SPLIT,
    exchange,
    frame,
    station,
)

from protocol.virtio import NetHeader, NetHeaderFlags, VirtioFeatures
from vhostuser.datapath import RingActual, WorkerOptions
from vhostuser.devices import (
    NET_DROPS,
    NetDevice,
    NetOptions,
    NetSwitch,
    SwitchOptions,
)
from vhostuser.frontend import RingError
from vhostuser.testing import held

RECEIVES, SENDS = 0, 1
ALONE = SwitchOptions(mode="echo")


@pytest.fixture(autouse=True)
def nothing_leaks():
    before = held()
    yield
    assert held().more_than(before) == ""


@pytest.fixture
async def switch():
    async with NetSwitch.open() as switch:
        yield switch


@pytest.mark.parametrize("merge", [SPLIT, SPLIT | MERGE], ids=["one-buffer", "merged"])
@pytest.mark.parametrize("ring", LAYOUTS)
async def test_stations_receive_what_the_other_sends(switch, ring, merge):
    features = LAYOUTS[ring] | merge
    async with station(switch, features) as one, station(switch, features) as other:
        await exchange(one, other, [14, 60, 333, 1514] * 20)
        assert one.counters(SENDS).frames == other.counters(RECEIVES).frames == 80
        assert one.counters(SENDS).bytes == 20 * (14 + 60 + 333 + 1514)


@pytest.mark.parametrize("one", [LEGACY, LEGACY | MERGE])
@pytest.mark.parametrize("other", [LEGACY, LEGACY | MERGE, SPLIT, PACKED])
async def test_legacy_drivers_and_modern_ones_understand_each_other(switch, one, other):
    async with station(switch, one) as first, station(switch, other) as second:
        await exchange(first, second, [60, 1514])


async def test_a_frame_for_somebody_is_for_nobody_else(switch):
    async with (
        station(switch) as one,
        station(switch) as other,
        station(switch) as third,
    ):
        to_all = await other.send(BROADCAST)
        assert await one.received() == await third.received() == to_all
        to_one = await one.send(other.mac, 1)
        assert await other.received() == to_one
        to_all = await one.send(BROADCAST, 2)
        assert await third.received() == to_all  # and not what was sent before
        known = {address.mac: address.port for address in switch.addresses()}
        assert known == {
            one.mac: one.device.port.number,
            other.mac: other.device.port.number,
        }


async def test_a_frame_may_come_in_many_pieces_and_go_into_many_buffers(switch):
    async with (
        station(switch) as one,
        station(switch, SPLIT | MERGE, buffers=0) as other,
    ):
        assert other.driver.offer(16, 100, 60) == 16
        data = frame(other.mac, one.mac, size=1000)
        await one.driver.send(data, sizes=[1] * 20 + [13, 500])
        received = await other.driver.receive()
        assert received.data == data
        assert received.header == NetHeader(num_buffers=7)
        assert received.buffers == 7  # (1000 + 12) / 160


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_pairs_are_on_the_workers_in_turn(workers):
    features = CONTROL | PAIRS | SPLIT
    async with NetSwitch.open(workers=WorkerOptions(count=workers)) as switch:
        options = NetOptions(queue_pairs=4)
        async with (
            station(switch, features, options=options) as one,
            station(switch, features, options=options) as other,
        ):
            assert [other.device.port.place(ring) for ring in range(9)] == [
                *(1, 1, 2, 2, 3, 3, 4, 4),
                1,
            ]
            assert len(one.driver.pairs) == 4
            await exchange(one, other, [60] * 20)
            # Who has not asked for more pairs receives by the first one, but may send by all.
            for pair in range(4):
                data = frame(other.mac, one.mac, pair)
                await one.driver.send(data, pair=pair)
                assert await other.received() == data
            assert [one.counters(2 * pair + 1).frames for pair in range(4)] == [21, 1, 1, 1]


async def test_a_device_may_come_and_go_beside_others(switch):
    async with station(switch) as one:
        for count in range(1, 4):
            await one.send(BROADCAST)
            assert one.counters(SENDS).drops["no_receiver"] == count
            async with station(switch) as other:
                assert list(switch.ports) == [0, 1]
                await exchange(one, other)
        assert list(switch.ports) == [0]
        assert [address.mac for address in switch.addresses()] == [one.mac]


async def test_a_receiver_without_buffers_loses_its_own_frames_only(switch):
    async with (
        station(switch) as one,
        station(switch, buffers=0) as slow,
        station(switch) as other,
    ):
        for number in range(10):
            sent = await one.send(BROADCAST, number)
            assert await other.received() == sent
        assert slow.counters(RECEIVES).drops["no_buffer"] == 10
        assert slow.driver.offer(1, 2048) == 1
        sent = await one.send(BROADCAST)
        assert await slow.received() == sent
        assert one.counters(SENDS).frames == 11
        assert one.counters(SENDS).dropped == 0


async def test_what_cannot_be_sent_is_dropped_and_counted_by_its_reason(switch):
    async with station(switch) as one, station(switch) as other:
        await one.driver.send(frame(other.mac, one.mac)[:13])
        await one.driver.send_raw(b"short")
        asks = NetHeader(flags=NetHeaderFlags.NEEDS_CSUM, csum_start=34, csum_offset=16)
        await one.driver.send(frame(other.mac, one.mac), asks)
        await one.driver.send(frame(other.mac, BROADCAST))
        sent = one.counters(SENDS)
        assert (sent.drops["length"], sent.drops["header"], sent.drops["spoofed"]) == (2, 1, 1)
        assert (sent.frames, sent.dropped) == (0, 4)
        await exchange(one, other)
        await one.driver.send(frame(other.mac, one.mac, size=4000))
        assert other.counters(RECEIVES).drops["too_large"] == 1
        assert tuple(sent.drops) == NET_DROPS
        rings = one.device.datapath.statistics()
        assert all(ring.actual is RingActual.RUNNING for ring in rings[:2])
        assert rings[SENDS].kicks > 0


async def test_a_locked_port_has_one_address(switch):
    options = NetOptions(mac=b"\x52\x54\0\0\0\1", locked=True)
    async with station(switch, options=options) as one, station(switch) as other:
        await one.driver.send(frame(other.mac, b"\x52\x54\0\0\0\2"))
        assert one.counters(SENDS).drops["spoofed"] == 1
        await exchange(one, other)


async def test_a_broken_ring_breaks_alone(switch):
    async with station(switch) as one, station(switch) as other:
        one.memory.write(one.driver.pairs[0][0].areas.driver.gpa + 2, (300).to_bytes(2, "little"))
        await other.send(one.mac)
        with pytest.raises(
            RingError, match="ring 0: the back-end reported that the ring is broken"
        ):
            await one.received()
        assert one.device.datapath.statistics()[RECEIVES].actual is RingActual.BROKEN
        assert one.device.datapath.statistics()[SENDS].actual is RingActual.RUNNING
        sent = await one.send(other.mac)
        assert await other.received() == sent


@pytest.mark.parametrize("features", [SPLIT, PACKED | VirtioFeatures.IN_ORDER])
async def test_rings_go_on_where_they_stopped(switch, features):
    async with station(switch, features) as one, station(switch, features) as other:
        await exchange(one, other, [60] * 5)
        await one.restart()
        await exchange(one, other, [60] * 5)
        await other.restart()
        await exchange(one, other, [60] * 5)


async def test_a_port_gets_back_what_it_sends_where_that_is_the_mode():
    async with NetSwitch.open(ALONE) as switch, station(switch, PACKED) as one:
        for number in range(50):
            sent = await one.send(BROADCAST, number)
            assert await one.received() == sent


async def test_a_sink_counts_and_a_source_fills_buffers():
    async with NetSwitch.open(SwitchOptions(mode="sink")) as switch, station(switch) as one:
        for _ in range(5):
            await one.send(BROADCAST)
        assert one.counters(SENDS).drops["sunk"] == 5
    options = SwitchOptions(mode="source", frame_size=100)
    async with NetSwitch.open(options) as switch, station(switch) as one:
        for _ in range(200):
            assert len(await one.received()) == 100


async def test_a_switch_has_so_many_ports_and_no_more():
    async with (
        NetSwitch.open(SwitchOptions(ports=1)) as switch,
        NetDevice.open(switch),
    ):
        with pytest.raises(OSError, match="add a port to the switch") as caught:
            async with NetDevice.open(switch):
                pass
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="make a switch"):
        async with NetSwitch.open(SwitchOptions(ports=0)):
            pass
    with pytest.raises(ValueError, match="queue_pairs: a number from 1 to 128, not 129"):
        NetOptions(queue_pairs=129)
