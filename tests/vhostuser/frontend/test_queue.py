"""Driver queues and the block driver, with the device's end of the ring in the test's hands."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from protocol.virtio import BlkHeader, BlkRequest, BlkSegment, VirtioFeatures
from vhostuser.frontend import (
    BlockDriver,
    BlockError,
    DriverQueue,
    GuestMemory,
    RingError,
)
from vhostuser.memory import MemoryTable
from vhostuser.testing import held
from vhostuser.virtqueue import Buffer, Chain, DeviceRing, RingConfig, RingState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SPLIT = VirtioFeatures.VERSION_1 | VirtioFeatures.INDIRECT_DESC | VirtioFeatures.EVENT_IDX
LAYOUTS = [
    pytest.param(SPLIT, id="split"),
    pytest.param(SPLIT | VirtioFeatures.RING_PACKED, id="packed"),
    pytest.param(VirtioFeatures.VERSION_1, id="split-plain"),
]


@dataclass
class Device:
    """The device's end, driven by hand.

    Attributes:
        queue: the driver's end.
        ring: the device's.
    """

    queue: DriverQueue
    ring: DeviceRing

    def pop(self) -> Chain:
        chain = self.ring.pop()
        assert chain is not None
        return chain

    def read(self, parts: tuple[Buffer, ...]) -> bytes:
        return b"".join(bytes(self.ring.view(part)) for part in parts)

    def write(self, chain: Chain, data: bytes) -> None:
        """Fill the end of the writable part, and give the chain back as that much written."""
        for part in reversed(chain.writable):
            tail, data = data[-part.length :], data[: -part.length]
            self.ring.view(part)[part.length - len(tail) :] = tail

    def finish(self, chain: Chain, written: int) -> None:
        self.ring.push(chain, written)
        if self.ring.publish():
            os.eventfd_write(self.queue.call.fileno(), 1)


def share(memory: GuestMemory, table: MemoryTable) -> None:
    region = memory.regions[0]
    change = table.prepare_add(region.description, region.fd)
    change.commit()
    change.release()


@contextlib.contextmanager
def device(memory: GuestMemory, features: VirtioFeatures, **options: Any) -> Iterator[Device]:
    before = held()
    table = MemoryTable()
    share(memory, table)
    queue = DriverQueue(memory, 0, num=8, features=features, **options)
    areas = queue.areas
    config = RingConfig(
        features=features,
        num=8,
        desc_hva=memory.hva(areas.desc.gpa),
        driver_hva=memory.hva(areas.driver.gpa),
        device_hva=memory.hva(areas.device.gpa),
        state=RingState(avail=0, used=0),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(table.close)
        stack.callback(queue.close)
        ring = stack.enter_context(DeviceRing(table.snapshot, config))
        ring.kick_enable()
        yield Device(queue, ring)
        queue.close()
    assert not held().more_than(before)


@pytest.mark.parametrize("features", LAYOUTS)
@pytest.mark.parametrize("poll", [False, True], ids=["call", "poll"])
async def test_what_the_driver_submits_is_what_the_device_pops(
    features: VirtioFeatures, poll: bool, memory: GuestMemory
) -> None:
    with device(memory, features, poll=poll) as end:
        out, back = memory.alloc(8), memory.alloc(8)
        memory.write(out.gpa, b"request!")
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                await trio.lowlevel.wait_readable(end.queue.kick.fileno())
                chain = end.pop()
                assert end.read(chain.readable) == b"request!"
                end.write(chain, b"answered")
                end.finish(chain, 8)

            nursery.start_soon(serve)
            assert await end.queue.transfer([out], [back]) == 8
        assert memory.read(back.gpa, 8) == b"answered"
        assert end.queue.in_flight == 0


@pytest.mark.parametrize("features", LAYOUTS)
async def test_chains_may_come_back_in_any_order_to_tasks_that_wait_at_once(
    features: VirtioFeatures, memory: GuestMemory
) -> None:
    with device(memory, features) as end:
        results: dict[int, int] = {}

        async def ask(number: int) -> None:
            results[number] = await end.queue.transfer([memory.alloc(number)], [])

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            chains = [end.pop() for _ in range(3)]
            for chain in reversed(chains):
                end.finish(chain, 10 * chain.readable[0].length)
                await trio.testing.wait_all_tasks_blocked()
        assert results == {1: 10, 2: 20, 3: 30}


@pytest.mark.parametrize("features", LAYOUTS)
async def test_a_full_ring_makes_the_next_chain_wait_for_room(
    features: VirtioFeatures, memory: GuestMemory
) -> None:
    with device(memory, features) as end:
        buffer = memory.alloc(1)
        for _ in range(8):
            assert end.queue.add([buffer], []) is not None
        assert end.queue.add([buffer], []) is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.queue.submit, [buffer], [])
            await trio.testing.wait_all_tasks_blocked()
            assert end.queue.in_flight == 8
            end.finish(end.pop(), 0)
        assert end.queue.in_flight == 8


async def test_when_the_task_that_waits_for_the_device_is_cancelled_another_takes_over(
    memory: GuestMemory,
) -> None:
    with device(memory, SPLIT) as end:
        released: list[str] = []
        async with trio.open_nursery() as nursery:
            first = await end.queue.submit([memory.alloc(1)], [])
            second = await end.queue.submit([memory.alloc(2)], [])
            scope = trio.CancelScope()

            async def lead() -> None:
                with scope:
                    await end.queue.complete(first)

            nursery.start_soon(lead)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(end.queue.complete, second)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            end.queue.abandon(first, lambda: released.append("first"))
            chains = [end.pop(), end.pop()]
            end.finish(chains[0], 0)
            await trio.testing.wait_all_tasks_blocked()
            assert released == ["first"]
            end.finish(chains[1], 0)


@pytest.mark.parametrize("poll", [False, True], ids=["call", "poll"])
async def test_what_another_task_took_in_is_not_waited_for(poll: bool, memory: GuestMemory) -> None:
    with device(memory, SPLIT, poll=poll) as end, trio.fail_after(10):
        identity = await end.queue.submit([memory.alloc(1)], [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.queue.complete, identity)
            for _ in range(5):
                await trio.lowlevel.checkpoint()  # until it waits; polling it is never blocked
            end.finish(end.pop(), 0)
            assert end.queue._reap(), "as every task does before it waits itself"


async def test_a_device_that_returns_what_it_was_not_given_fails_the_ring(
    memory: GuestMemory,
) -> None:
    with device(memory, VirtioFeatures.VERSION_1) as end:
        identity = await end.queue.submit([memory.alloc(1)], [])
        used = end.queue.areas.device
        memory.write(used.gpa + 4, (7).to_bytes(4, "little"))
        memory.write(used.gpa + 2, (1).to_bytes(2, "little"))
        for _ in range(2):
            with pytest.raises(RingError, match=r"^ring 0: the device returned a chain"):
                await end.queue.complete(identity)


def _free(memory: GuestMemory) -> int:
    """Return how much guest memory can be had in one piece."""
    size = 1 << 20
    while size:
        with contextlib.suppress(MemoryError):
            memory.free(memory.alloc(size))
            return size
        size -= 4096
    return 0


async def _serve_one(end: Device, status: int, fill: bytes, seen: list[tuple[int, ...]]) -> bytes:
    await trio.lowlevel.wait_readable(end.queue.kick.fileno())
    os.eventfd_read(end.queue.kick.fileno())
    chain = end.pop()
    sent = end.read(chain.readable)
    header = BlkHeader.parse(sent[:16])
    seen.append((header.type, header.sector))
    end.write(chain, fill + bytes([status]))
    end.finish(chain, len(fill) + 1)
    end.ring.kick_enable()
    return sent[16:]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A block request: what the device sees and answers, what the driver makes of it."""

    call: Callable[[BlockDriver], Awaitable[object]]
    header: tuple[int, int]
    sent: bytes = b""
    fill: bytes = b""
    result: object = None


SEGMENT = BlkSegment(sector=8, num_sectors=16)
UNMAP = BlkSegment(sector=8, num_sectors=16, flags=1)
REQUESTS = {
    "read": Case(
        call=lambda disk: disk.read(5, 512),
        header=(BlkRequest.IN, 5),
        fill=b"x" * 512,
        result=b"x" * 512,
    ),
    "write": Case(
        call=lambda disk: disk.write(6, b"y" * 512), header=(BlkRequest.OUT, 6), sent=b"y" * 512
    ),
    "flush": Case(call=lambda disk: disk.flush(), header=(BlkRequest.FLUSH, 0)),
    "get-id": Case(
        call=lambda disk: disk.get_id(),
        header=(BlkRequest.GET_ID, 0),
        fill=b"serial".ljust(20, b"\0"),
        result="serial",
    ),
    "discard": Case(
        call=lambda disk: disk.discard(8, 16), header=(BlkRequest.DISCARD, 0), sent=bytes(SEGMENT)
    ),
    "write-zeroes": Case(
        call=lambda disk: disk.write_zeroes(8, 16, unmap=True),
        header=(BlkRequest.WRITE_ZEROES, 0),
        sent=bytes(UNMAP),
    ),
}


@pytest.mark.parametrize("case", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
async def test_each_block_request_says_what_it_means_and_gives_its_memory_back(
    case: Case, indirect: bool, memory: GuestMemory
) -> None:
    with device(memory, SPLIT, indirect_entries=4) as end:
        room = _free(memory)
        seen: list[tuple[int, ...]] = []
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                got.append(await _serve_one(end, 0, case.fill, seen))

            nursery.start_soon(serve)
            disk = BlockDriver([end.queue], indirect=indirect)
            assert await case.call(disk) == case.result
        assert seen == [case.header]
        assert got == [case.sent]
        assert _free(memory) == room


@pytest.mark.parametrize(("status", "name"), [(1, "IOERR"), (2, "UNSUPP"), (0xFF, "unknown")])
async def test_a_status_other_than_ok_is_an_error_that_names_it(
    status: int, name: str, memory: GuestMemory
) -> None:
    with device(memory, SPLIT) as end:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_one, end, status, b"", [])
            with pytest.raises(BlockError, match=rf"^flush: .* status {status} \({name}\)$"):
                await BlockDriver([end.queue]).flush()


async def test_a_used_length_that_is_not_what_a_request_writes_is_an_error(
    memory: GuestMemory,
) -> None:
    with device(memory, SPLIT) as end:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_one, end, 0, b"", [])
            with pytest.raises(RingError, match=r"used length 1, not 513$"):
                await BlockDriver([end.queue]).read(0, 512)


async def test_a_cancelled_block_request_keeps_its_memory_until_the_device_is_done(
    memory: GuestMemory,
) -> None:
    with device(memory, SPLIT) as end:
        disk = BlockDriver([end.queue])
        free = memory.alloc(1, alignment=512)
        memory.free(free)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(disk.read, 0, 512)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        chain = end.pop()
        assert memory.alloc(1, alignment=512).gpa != free.gpa
        end.finish(chain, 513)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_one, end, 0, b"", [])
            await disk.flush()
        assert memory.alloc(1, alignment=512).gpa == free.gpa


async def test_a_request_that_guest_memory_has_no_room_for_takes_nothing_of_it(
    memory: GuestMemory,
) -> None:
    with device(memory, SPLIT) as end:
        room = _free(memory)
        with pytest.raises(MemoryError):
            await BlockDriver([end.queue]).read(0, 1 << 20)
        assert _free(memory) == room
