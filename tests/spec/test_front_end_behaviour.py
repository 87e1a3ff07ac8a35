"""What real front-ends do that is legal but surprising, against the real server: S1 to S14.

Each test bears the number of its observation. "Works" means that the disk gave the right data. The
recordings themselves are played back in `test_recorded_traffic`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from served_disk import QUEUES, reads, serving, serving_disk

from protocol import vhost_user as v
from protocol.virtio import VirtioFeatures
from vhostuser.fds import OwnedFd
from vhostuser.frontend import (
    LIBBLKIO,
    PROTOCOL_FEATURES,
    QEMU,
    VIRTIO_USER,
    BlockDriver,
    GuestMemory,
    RequestRefusedError,
    Step,
)
from vhostuser.memory import MemoryTable
from vhostuser.testing import FakeDevice, RawFrontend, held, raw_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vhostuser.frontend import FrontendClient, Order

FIRMWARE, LINUX = VirtioFeatures(0x1_4000_0046), VirtioFeatures(0x1_7000_7E46)
ROWS = {row.name: row.number for row in v.FRONT_END_ROWS}


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory() as memory:
        yield memory


def disk_of(client: FrontendClient, indexes: Sequence[int] = (0,), **options: int) -> BlockDriver:
    return BlockDriver([client.setup_queue(index, **options) for index in indexes])


def without(order: Order, *steps: Step) -> Order:
    """An order whose `start` leaves steps out."""
    start = tuple(
        tuple(step for step in entry if step not in steps) if isinstance(entry, tuple) else entry
        for entry in order.start
        if entry not in steps
    )
    return replace(order, start=start)


@pytest.mark.parametrize("order", [QEMU, LIBBLKIO, VIRTIO_USER], ids=lambda order: order.name)
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
async def test_the_orders_of_all_three_front_ends_are_served_and_served_again(
    served, memory, order, packed
):
    features = served.server.device.profile.features
    if not packed:
        features &= ~VirtioFeatures.RING_PACKED
    async with served.client(memory, order=order, features=features, queues=2) as client:
        disk = disk_of(client, (0, 1))
        for _ in range(3):
            await client.start()
            await reads(disk)
            await client.stop()


async def test_s1_rings_are_enabled_before_they_are_set_up_and_before_the_features(served, memory):
    async with served.client(memory, order=without(QEMU, Step.ENABLE)) as client:
        for enable in (1, 0, 1):
            for index in range(QUEUES):
                await client.request(v.SetVringEnable(index=index, enable=enable), need_reply=True)
        disk = disk_of(client)
        await client.start()  # which does not enable anything
        await reads(disk)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
async def test_s2_garbage_beside_the_index_of_get_vring_base_is_overlooked(served, memory, packed):
    features = VirtioFeatures.RING_PACKED if packed else 0
    async with served.client(memory, features=client_features(features)) as client:
        disk = disk_of(client)
        await client.start()
        await reads(disk)
        reply = await client.request(v.GetVringBase(index=0, num=0xDEAD_BEEF))
        assert reply.message == v.VringState(index=0, num=0x8018_8018 if packed else 8)
        await client.stop()  # asks again, of a ring that is stopped already
        assert client.bases == {0: reply.message.num}
        await client.start()
        await reads(disk)


def client_features(more: int) -> int:
    return int(VirtioFeatures.PROTOCOL_FEATURES | VirtioFeatures.VERSION_1) | int(more)


async def test_s3_features_set_again_disturb_no_ring(served, memory):
    async with served.client(memory) as client:
        disk = disk_of(client)
        for _ in range(3):
            await client.request(v.SetFeatures(features=client.features))
        await client.start()
        for _ in range(3):
            await reads(disk)
            await client.request(v.SetFeatures(features=client.features))
        await reads(disk)
        assert await client.get_vring_base(0) == 4 * 8


async def test_s4_the_last_call_fd_is_signalled_and_those_before_are_closed(served, memory):
    async with served.client(memory) as client:
        disk = disk_of(client)
        await client.start()
        before = held()
        for _ in range(3):
            with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)) as replaced:
                await use_call_fd(client, replaced)
                assert os.eventfd_read(replaced.fileno()) == 1  # what the one before may have lost
                await use_call_fd(client, disk.queues[0].call)
                await reads(disk)
                with pytest.raises(BlockingIOError):
                    os.eventfd_read(replaced.fileno())
        assert not held().more_than(before)


async def use_call_fd(client: FrontendClient, fd: OwnedFd) -> None:
    """Replace ring 0's call fd, and wait until the engine has done so."""
    await client.request(v.SetVringCall(index=0), [fd])
    await client.request(v.SetVringEnable(index=0, enable=1), need_reply=True)


async def test_s5_the_firmware_starts_one_queue_and_the_driver_then_all_with_other_features(
    served, memory
):
    async with served.client(memory, features=FIRMWARE, queues=2) as client:
        disk = disk_of(client)
        await client.start()
        await reads(disk, range(1))
        await client.stop()
        client.wanted = LINUX
        client.features = client.offered & LINUX
        disk = disk_of(client, (0, 1), indirect_entries=8)
        assert client.bases == {0: 0, 1: 0}
        await client.start()
        assert served.server.connection.session.state.features == client.features != FIRMWARE
        await reads(disk)
        await client.stop()


async def test_s6_the_memory_is_not_sent_again_on_a_restart(served, memory):
    async with served.client(memory) as client:
        disk = disk_of(client)
        await client.start()
        await reads(disk)
        await client.stop()
        client.order = without(QEMU, Step.ADD_MEMORY)
        table = served.server.connection.carrier.memory.snapshot.number
        await client.start()
        await reads(disk)
        assert served.server.connection.carrier.memory.snapshot.number == table == 1


@pytest.mark.parametrize("indexes", [(0, 2, 1, 3), (3, 1), (2,)], ids=str)
async def test_s7_queues_are_set_up_in_any_order(served, memory, indexes):
    async with served.client(memory, order=VIRTIO_USER) as client:
        disk = disk_of(client, indexes)
        await client.start()
        for queue in disk.queues:
            assert await disk.get_id(queue=queue) == "spec-disk"
        await client.stop()


async def test_s8_the_status_is_optional_and_its_reset_comes_after_the_stop(served, memory):
    async with served.client(memory, order=VIRTIO_USER) as client:
        disk = disk_of(client)
        for _ in range(2):
            await client.start()
            assert await client.ask(v.GetStatus()) == 0x0F
            await reads(disk)
            await client.stop()
            assert await client.ask(v.GetStatus()) == 0
    never = PROTOCOL_FEATURES & ~v.ProtocolFeatures.STATUS
    async with served.client(memory, order=VIRTIO_USER, protocol_features=never) as client:
        disk = disk_of(client)
        await client.start()
        await reads(disk)


async def test_s9_memory_that_takes_long_to_map_stops_nobody_else(
    served, memory, tmp_path, monkeypatch
):
    mapping, go_on = threading.Event(), threading.Event()
    prepare = MemoryTable.prepare_replace

    def slow(table: MemoryTable, regions: Sequence[tuple[v.MemRegion, OwnedFd]]) -> object:
        mapping.set()
        assert go_on.wait(60)
        return prepare(table, regions)

    async with (
        serving_disk(tmp_path / "other") as other,
        served.client(memory) as client,
        other.client(memory, order=VIRTIO_USER) as slow_client,
    ):
        disk, slow_disk = disk_of(client), disk_of(slow_client)
        await client.start()
        monkeypatch.setattr(MemoryTable, "prepare_replace", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow_client.start)
            try:
                await trio.to_thread.run_sync(mapping.wait)
                await reads(disk)
                assert other.server.connection.carrier.memory.snapshot.number == 0
            finally:
                go_on.set()
        await reads(slow_disk)


async def test_s10_nobody_says_farewell(served):
    for order in (QEMU, LIBBLKIO, VIRTIO_USER):
        with GuestMemory() as memory:
            async with served.client(memory, order=order, queues=2) as client:
                disk = disk_of(client, (0, 1))
                await client.start()
                await reads(disk)


async def test_s11_the_in_flight_area_is_not_offered_and_asking_for_it_again_and_again_is_answered(
    served, memory
):
    served.expected.append("message=GET_INFLIGHT_FD")
    async with served.client(memory) as client:
        assert not client.offered_protocol & v.ProtocolFeatures.INFLIGHT_SHMFD
    async with RawFrontend.connect(served.path) as raw:
        for _ in range(3):
            reply = await raw.ask(ROWS["GET_INFLIGHT_FD"], bytes(24))
            assert (len(reply.payload), reply.value, reply.fds) == (24, 0, 0)
        assert (await raw.ask(ROWS["GET_FEATURES"])).value != 0


async def test_s12_messages_that_lie_in_the_socket_together_keep_their_own_fds(tmp_path):
    device = FakeDevice()
    with contextlib.ExitStack() as stack:
        pipes = [[stack.enter_context(OwnedFd(end)) for end in os.pipe()] for _ in range(2)]
        async with (
            serving(tmp_path / "socket", device) as served,
            RawFrontend.connect(served.path) as raw,
        ):
            for index, (_, writing) in enumerate(pipes):
                message = raw_message(ROWS["SET_VRING_CALL"], index.to_bytes(8, "little"))
                await raw.send(message, [writing])
            assert (await raw.ask(ROWS["GET_FEATURES"])).number == ROWS["GET_FEATURES"]
            for index, (reading, _) in enumerate(pipes):
                kept = device.datapath.fds[index, "call"]
                assert os.path.samestat(os.fstat(kept.fileno()), os.fstat(reading.fileno()))


async def test_s13_a_start_that_cannot_succeed_is_nacked_and_the_next_one_works(served, memory):
    served.expected.append("message=SET_VRING_KICK")
    async with served.client(memory) as client:
        disk = disk_of(client)
        client.order = without(QEMU, Step.ADD_MEMORY)
        with pytest.raises(RequestRefusedError, match="SetVringKick"):
            await client.start()
        client.order = QEMU
        await client.start()
        await reads(disk)


def test_s14_each_number_stands_once_in_one_table_with_the_release_that_first_had_it():
    for rows in (v.FRONT_END_ROWS, v.BACK_END_ROWS):
        numbers = [row.number for row in rows]
        assert sorted(set(numbers)) == sorted(numbers)
        assert all(row.since for row in rows)
    settled = {feature.value: since for feature, since in v.NUMBERED_SINCE.items()}
    assert sorted(settled) == [20, 21, 22, 23]  # 0 to 19 never changed
    assert (settled[v.ProtocolFeature.SHMEM.value], settled[20]) == ("11.1", "11.0")
