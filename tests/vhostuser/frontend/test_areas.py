"""Notify areas: offered, used for kicks, replaced, taken back, and what a stop makes of them."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from protocol.vhost_user import (
    CURRENT,
    RFC_V1,
    RFC_V2,
    Dialect,
    ProtocolFeatures,
    ResetDevice,
)
from vhostuser.frontend import (
    AreaState,
    FrontendError,
    Host,
    RegionLayout,
    RequestRefusedError,
)
from vhostuser.frontend.memory import GuestRegion

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhostuser.fds import OwnedFd

DIALECTS = pytest.mark.parametrize("dialect", [CURRENT, RFC_V2, RFC_V1], ids=lambda each: each.name)
RFCS = pytest.mark.parametrize("dialect", [RFC_V2, RFC_V1], ids=lambda each: each.name)


def stored(fd: OwnedFd, offset: int = 0) -> int:
    """What lies in the first two bytes of a page."""
    return struct.unpack("=H", os.pread(fd.fileno(), 2, offset))[0]


def rearm(fd: OwnedFd, offset: int = 0) -> None:
    os.pwrite(fd.fileno(), b"\xff" * 16, offset)


def mapping_flags(address: int) -> list[str]:
    """What the kernel keeps of the mapping that begins at an address, in two letters each."""
    mappings = Path("/proc/self/smaps").read_text(encoding="utf-8")
    mapping = mappings[mappings.index(f"\n{address:x}-") :]
    return mapping.partition("VmFlags:")[2].partition("\n")[0].split()


def signalled(queue: Any) -> bool:
    """Whether the kick fd was signalled since the last look."""
    try:
        os.eventfd_read(queue.kick.fileno())
    except BlockingIOError:
        return False
    return True


@DIALECTS
async def test_kicks_go_into_the_page_from_the_acknowledgement_on(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            queue = client.queues[1]
            queue.notify()
            assert signalled(queue)
            assert await backend.offer(page.duplicate(), index=1) == 0
            assert signalled(queue), "one kick by the kick fd makes up for what the switch lost"
            for _ in range(3):
                queue.notify()
                assert stored(page) == 1
                assert os.pread(page.fileno(), 2, 2) == b"\xff\xff", "16 bits and no more"
                rearm(page)
            assert not signalled(queue)
            assert (queue.kicks.page, queue.kicks.eventfd, queue.kicks.own) == (3, 1, 1)
            assert client.areas.shown() == (AreaState(index=1, offset=0, size=4096, mapped=True),)
            assert client.areas[0] is None


@DIALECTS
async def test_a_queue_without_an_area_goes_on_by_its_kick_fd(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        assert await backend.offer(make_memfd(), index=1) == 0
        client.queues[0].notify()
        assert signalled(client.queues[0])
        assert client.queues[0].kicks.page == 0


@DIALECTS
async def test_only_the_bytes_offered_are_written(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd(4 * 4096) as file:
            assert await backend.offer(file.duplicate(), offset=8192) == 0
            client.queues[0].notify()
            expected = bytearray(b"\xff" * 4 * 4096)
            expected[8192:8194] = b"\0\0"
            assert os.pread(file.fileno(), 4 * 4096, 0) == expected


@DIALECTS
@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
async def test_the_page_size_is_the_hosts_and_an_area_may_be_several_pages(
    page_size: int,
    dialect: Dialect,
    handing: Callable[..., Any],
    make_memfd: Callable[..., OwnedFd],
) -> None:
    async with handing(dialect, host=Host(page_size=page_size)) as (client, backend):
        with make_memfd(4 * page_size) as file:
            for size, offset in ((page_size // 2, 0), (page_size, page_size // 2)):
                answer = await backend.offer(file.duplicate(), size=size, offset=offset)
                assert answer == 1
            assert await backend.offer(file.duplicate(), size=page_size, offset=page_size) == 0
            assert await backend.offer(file.duplicate(), size=3 * page_size, offset=page_size) == 0
            client.queues[0].notify()
            assert stored(file, page_size) == 0
            assert client.areas[0].size == 3 * page_size


@DIALECTS
async def test_an_area_replaces_the_one_before_which_is_not_touched_again(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as old, make_memfd() as new:
            assert await backend.offer(old.duplicate()) == 0
            assert await backend.offer(new.duplicate()) == 0
            client.queues[0].notify()
            assert (stored(old), stored(new)) == (0xFFFF, 0)
            assert client.queues[0].kicks.own == 2


@DIALECTS
async def test_a_removal_is_idempotent_and_kicks_go_by_the_kick_fd_again(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            queue = client.queues[0]
            assert await backend.remove() == 0, "nothing was ever offered"
            assert await backend.offer(page.duplicate()) == 0
            signalled(queue)
            assert await backend.remove() == 0
            assert signalled(queue), "one kick by the kick fd makes up for what the switch lost"
            queue.notify()
            assert signalled(queue)
            assert stored(page) == 0xFFFF
            assert await backend.remove() == 0
            assert queue.kicks.own == 2, "nothing was switched"
            assert client.areas.shown() == ()


async def test_an_area_of_today_ends_with_its_ring_and_is_offered_anew(
    handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing() as (client, backend):
        with make_memfd() as page:
            assert await backend.offer(page.duplicate()) == 0
            await client.stop()
            assert client.areas.shown() == ()
            assert await backend.offer(page.duplicate()) == 1, "the ring is stopped"
            await client.start()
            client.queues[0].notify()
            assert stored(page) == 0xFFFF
            assert await backend.offer(page.duplicate()) == 0
            client.queues[0].notify()
            assert stored(page) == 0


async def test_a_driver_in_another_language_can_store_where_an_area_is_mapped(
    handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing() as (client, backend):
        with make_memfd() as page:
            assert client.areas.address(0) is None
            assert await backend.offer(page.duplicate()) == 0
            ctypes.c_uint16.from_address(client.areas.address(0)).value = 5
            assert stored(page) == 5
            assert await backend.remove() == 0
            assert client.areas.address(0) is None


@RFCS
async def test_an_area_of_the_rfc_comes_back_with_its_ring_by_itself(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            assert await backend.offer(page.duplicate()) == 0
            await client.stop()
            assert client.areas.shown() == (AreaState(index=0, offset=0, size=4096, mapped=False),)
            client.queues[0].notify()
            assert stored(page) == 0xFFFF, "no more direct kicks after GET_VRING_BASE"
            await client.start()
            assert client.areas.mapped(0)
            client.queues[0].notify()
            assert stored(page) == 0


@RFCS
async def test_an_area_of_the_rfc_may_be_offered_and_removed_while_its_ring_is_stopped(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            await client.stop()
            assert await backend.offer(page.duplicate()) == 0
            assert await backend.offer(page.duplicate(), index=1) == 0
            assert not client.areas.mapped(0)
            assert await backend.remove(index=1) == 0
            await client.start()
            assert (client.areas.mapped(0), client.areas.mapped(1)) == (True, False)


@RFCS
async def test_an_area_that_is_too_short_when_its_ring_starts_again_is_given_up(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            assert await backend.offer(page.duplicate()) == 0
            await client.stop()
            os.ftruncate(page.fileno(), 0)
            await client.start()
            assert client.areas.shown() == ()
            client.queues[0].notify()
            assert signalled(client.queues[0])


@DIALECTS
async def test_a_reset_stops_every_ring_and_its_area_with_it(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            for index in range(2):
                assert await backend.offer(page.duplicate(), index=index) == 0
            await client.request(ResetDevice())
            assert not any(client.areas.mapped(index) for index in range(2))
            assert len(client.areas.shown()) == (0 if dialect is CURRENT else 2)
            client.queues[0].notify()
            assert stored(page) == 0xFFFF


@DIALECTS
async def test_the_end_of_the_back_ends_channel_ends_areas_that_nobody_could_take_back(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        assert await backend.offer(make_memfd()) == 0
        backend.close()
        await client.areas.wait_unmapped(0)
        assert client.areas.shown() == ()
        client.queues[0].notify()
        assert client.queues[0].kicks.eventfd == 1


@DIALECTS
async def test_a_file_truncated_under_an_area_costs_no_kick_and_no_process(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing(dialect) as (client, backend):
        with make_memfd() as page:
            assert await backend.offer(page.duplicate()) == 0
            queue = client.queues[0]
            signalled(queue)
            os.ftruncate(page.fileno(), 0)
            queue.notify()
            assert signalled(queue)
            assert queue.kicks.page == 0
            assert client.areas.shown() == ()


@DIALECTS
async def test_changes_can_be_waited_for(
    dialect: Dialect, handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    seen: list[bool] = []
    async with handing(dialect) as (client, backend):

        async def watch() -> None:
            await client.areas.changed(0)
            seen.append(client.areas.mapped(0))
            await client.areas.wait_unmapped(0)
            seen.append(client.areas.mapped(0))
            await client.areas.wait_mapped(0)
            seen.append(client.areas.mapped(0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            for step in (backend.offer(make_memfd()), backend.remove()):
                assert await step == 0
            await trio.testing.wait_all_tasks_blocked()
            assert await backend.offer(make_memfd()) == 0
    assert seen == [True, False, True]


@DIALECTS
async def test_an_area_is_never_guest_memory(dialect: Dialect, handing: Callable[..., Any]) -> None:
    layout = RegionLayout(gpa=0x1_0000_0000, size=4096)
    async with handing(dialect) as (client, backend):
        told = client.shared[:]
        own = client.memory.regions[0].fd
        assert await backend.offer(own.duplicate()) == 1, "guest memory cannot be an area"
        region = GuestRegion(layout)
        try:
            assert await backend.offer(region.fd.duplicate()) == 0
            with pytest.raises(FrontendError, match=r"^a notify area is no guest memory"):
                await client.add_region(region)
        finally:
            region.close()
        assert client.shared == told
        assert len(client.memory.regions) == 1


async def test_an_area_is_in_no_dump(
    handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing() as (client, backend):
        assert await backend.offer(make_memfd()) == 0
        assert "dd" in mapping_flags(client.areas._slots[0].area.pages.address)


async def test_a_replaced_queue_rings_the_area_that_its_number_has(
    handing: Callable[..., Any], make_memfd: Callable[..., OwnedFd]
) -> None:
    async with handing() as (client, backend):
        with make_memfd() as page:
            assert await backend.offer(page.duplicate()) == 0
            client.setup_queue(0, num=16).notify()
            assert stored(page) == 0


async def test_the_bits_to_negotiate_are_the_dialects() -> None:
    assert int(CURRENT.hand_over_features) == 1 << 10 | 1 << 11
    assert int(RFC_V2.hand_over_features) == 1 << 8
    assert int(RFC_V1.hand_over_features) == 1 << 7


async def test_nothing_is_taken_that_was_not_negotiated(
    join: Any, memory: Any, make_memfd: Callable[..., OwnedFd]
) -> None:
    async with join(memory) as (client, backend):
        backend.protocol_features |= ProtocolFeatures.HOST_NOTIFIER
        await client.negotiate()
        assert not client.has(ProtocolFeatures.BACKEND_SEND_FD)
        client.setup_queue(0, num=8)
        await client.start()
        upward = backend.upward()
        assert await upward.offer(make_memfd()) == 1
        assert client.areas.shown() == ()
        upward.close()


async def test_a_stop_that_is_refused_leaves_kicks_with_the_kick_fd(
    join: Any, memory: Any, make_memfd: Callable[..., OwnedFd]
) -> None:
    async with join(memory) as (client, backend):
        backend.protocol_features |= CURRENT.hand_over_features
        await client.negotiate()
        client.setup_queue(0, num=8)
        await client.start()
        upward = backend.upward()
        assert await upward.offer(make_memfd()) == 0
        backend.refused.add(ResetDevice)
        with pytest.raises(RequestRefusedError):
            await client.request(ResetDevice())
        client.queues[0].notify()
        assert client.queues[0].kicks.eventfd == 1
        upward.close()
