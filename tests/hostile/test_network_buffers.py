"""Items 71, 74, 101 and 102 of the catalogue, for networks.

Receive buffers that hold no frame, frames without end, and headers that change while they are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from flipping import flipping
from hostile_net import (
    ATTACKER,
    JOINS,
    LEAVES,
    RECEIVES,
    SENDS,
    VICTIM,
    Party,
    difference,
    party,
    place,
)
from net_rig import LAYOUTS, MERGE, exchange, frame

from protocol.vhost_user import Gpa
from protocol.virtio import NetHeader, NetHeaderFlags, VirtioFeatures
from vhostuser.datapath import RingActual
from vhostuser.frontend import GuestBuffer, RegionLayout, RingError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    Play = Callable[[VirtioFeatures], Coroutine[Any, Any, None]]

NONE = VirtioFeatures(0)
HEADER, LEGACY_HEADER, SIZE = 12, 10, 60
BLANK = b"\xee"
MIB = 1 << 20
PARTS_OF_64_MIB = 64
FLIPS = 300
FRAME = frame(VICTIM, ATTACKER)


# Buffers of the victim, which is the hostile one here


def offer(them: Party, sizes: Sequence[int]) -> list[GuestBuffer]:
    """Offer a chain of buffers that hold nothing yet; return them."""
    memory = them.victim.memory
    parts = [place(memory, BLANK * size) for size in sizes]
    assert them.victim.driver.pairs[0][0].add([], parts) is not None
    return parts


def contents(them: Party, parts: Sequence[GuestBuffer]) -> bytes:
    return b"".join(them.victim.memory.read(part.gpa, part.length) for part in parts)


async def send(them: Party, data: bytes = FRAME) -> None:
    before = them.victim.counters(RECEIVES)
    await them.attacker.driver.send(data)
    assert them.victim.counters(RECEIVES) != before


def too_small(
    *chains: Sequence[int],
    why: str = "too_large",
    victim: VirtioFeatures = NONE,
    data: bytes = FRAME,
) -> Play:
    """Nothing of a frame is shown in buffers that do not hold it, which stay the device's."""

    async def play(features: VirtioFeatures) -> None:
        async with party(features, features | victim, buffers=0) as them:
            buffers = [offer(them, sizes) for sizes in chains]
            queue = them.victim.driver.pairs[0][0]
            for number in range(1, 4):
                await send(them, data)
                counters = them.victim.counters(RECEIVES)
                assert difference(dict.fromkeys(counters.drops, 0), counters.drops) == {why: number}
                assert (counters.frames, counters.bytes) == (0, 0)
            assert queue.in_flight == len(buffers)
            assert them.attacker.counters(SENDS).frames == 3
            assert them.victim.device.datapath.statistics()[RECEIVES].actual is RingActual.RUNNING
            if why == "no_buffer":  # what is missing comes: the frame after that has room
                offer(them, [2048])
                await send(them)
                assert them.victim.counters(RECEIVES).frames == 1
                came = contents(them, buffers[0])
                assert came[:HEADER] == bytes(NetHeader(num_buffers=len(chains) + 1))
                assert came[HEADER:] == FRAME[: len(came) - HEADER]

    return play


def fits(*chains: Sequence[int], victim: VirtioFeatures = NONE, legacy: bool = False) -> Play:
    """A frame goes into its buffers byte by byte, the rest of which stays as it was."""

    async def play(features: VirtioFeatures) -> None:
        own = (features | victim) & ~(VirtioFeatures.VERSION_1 if legacy else NONE)
        async with party(features, own, buffers=0) as them:
            buffers = [offer(them, sizes) for sizes in chains]
            queue = them.victim.driver.pairs[0][0]
            await send(them)
            written = [await queue.complete_any() for _ in buffers]
            header = LEGACY_HEADER if legacy else HEADER
            total = sum(length for _, length in written)
            assert total == header + SIZE
            expected = bytes(NetHeader(num_buffers=len(chains)))[:header] + FRAME
            for (_, length), parts in zip(written, buffers, strict=True):
                data = contents(them, parts)
                assert data[:length] == expected[:length]
                assert data[length:] == BLANK * (len(data) - length)
                expected = expected[length:]
            assert them.victim.counters(RECEIVES).frames == 1

    return play


async def readable_buffer(features: VirtioFeatures) -> None:
    """A receive buffer that may only be read holds nothing."""
    async with party(features, features, buffers=0) as them:
        queue = them.victim.driver.pairs[0][0]
        queue.add([place(them.victim.memory, BLANK * 2048)], [])
        await send(them)
        assert them.victim.counters(RECEIVES).drops["too_large"] == 1
        await exchange_of_others(them)


async def exchange_of_others(them: Party) -> None:
    """The attacker and the third one."""
    await them.attacker.send(them.other.mac)
    await them.other.received()


def broken(spoil: Callable[[Party], object], victim: VirtioFeatures = NONE) -> Play:
    """A receive ring breaks in the middle of a frame: nothing of it is shown, and others go on."""

    async def play(features: VirtioFeatures) -> None:
        async with party(features, features | victim, buffers=0) as them:
            first = offer(them, [100])
            spoil(them)
            data = frame(VICTIM, ATTACKER, size=1000)
            await them.attacker.driver.send(data)
            with pytest.raises(RingError, match="the ring is broken"):
                await them.victim.driver.pairs[0][0].complete_any()
            actual = them.victim.device.datapath.statistics()[RECEIVES].actual
            assert actual is RingActual.BROKEN
            assert them.victim.counters(RECEIVES).frames == 0
            assert first[0].length == 100
            await them.attacker.driver.send(data)
            await exchange_of_others(them)

    return play


def unmapped_buffer(them: Party) -> None:
    queue = them.victim.driver.pairs[0][0]
    queue.add([], [GuestBuffer(Gpa(1 << 40), 2048)])


def buffer_that_ends_outside(them: Party) -> None:
    queue = them.victim.driver.pairs[0][0]
    queue.add([], [GuestBuffer(Gpa(MIB - 16), 2048)])


async def buffer_is_the_ring(features: VirtioFeatures) -> None:
    """A frame over the rings of who offered that: his rings may break, nobody else is concerned."""
    async with party(features, features, buffers=0) as them:
        queue = them.victim.driver.pairs[0][0]
        for area in (queue.areas.desc, queue.areas.driver, queue.areas.device):
            queue.add([], [GuestBuffer(area.gpa, 2048)])
        for _ in range(5):
            await them.attacker.driver.send(FRAME)
        await exchange_of_others(them)


async def removed_memory(features: VirtioFeatures) -> None:
    """Memory with receive buffers goes while frames come: the ring may break, nothing else."""
    layout = [RegionLayout(gpa=0, size=MIB), RegionLayout(gpa=16 * MIB, size=MIB)]
    async with party(features, features | MERGE, buffers=0, layout=layout) as them:
        queue = them.victim.driver.pairs[0][0]
        for number in range(20):
            queue.add([], [GuestBuffer(Gpa(16 * MIB + 4096 * number), 2048)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_many, them, 40)
            await them.victim.client.remove_region(them.victim.memory.regions[1])
        assert them.victim.counters(RECEIVES).frames <= 20
        await exchange_of_others(them)


async def send_many(them: Party, count: int) -> None:
    for _ in range(count):
        await them.attacker.driver.send(FRAME)


# Frames without end


async def endless_frame(features: VirtioFeatures) -> None:
    """2^32 bytes and a frame: in 32 bits it would look like that frame."""
    layout = [RegionLayout(gpa=0, size=66 * MIB)]
    async with party(features, features, layout=layout) as them:
        queue = them.attacker.driver.pairs[0][1]
        memory = them.attacker.memory
        first = place(memory, bytes(HEADER) + FRAME)
        large = GuestBuffer(Gpa(0), 64 * MIB)
        before = them.attacker.counters(SENDS)
        assert await queue.transfer([first, *[large] * PARTS_OF_64_MIB], []) == 0
        after = them.attacker.counters(SENDS)
        assert difference(before.drops, after.drops) == {"length": 1}
        assert after.frames == before.frames
        await exchange(them.attacker, them.victim)


async def endless_buffer(features: VirtioFeatures) -> None:
    """A receive buffer of 2^32 bytes and a few: the frame is in it, and the length says so."""
    layout = [RegionLayout(gpa=0, size=66 * MIB)]
    async with party(features, features, layout=layout, buffers=0) as them:
        queue = them.victim.driver.pairs[0][0]
        first = place(them.victim.memory, BLANK * 40)
        rest = place(them.victim.memory, BLANK * 40)
        large = GuestBuffer(Gpa(0), 64 * MIB)
        queue.add([], [first, rest, *[large] * PARTS_OF_64_MIB])
        await send(them)
        _, written = await queue.complete_any()
        assert written == HEADER + SIZE
        assert contents(them, [first, rest])[HEADER:written] == FRAME


# Headers that change


def flips(one: NetHeader, other: NetHeader) -> Play:
    """Of a header that flips, the victim gets what was checked, or nothing at all."""

    async def play(features: VirtioFeatures) -> None:
        async with party(features | LEAVES, features | JOINS) as them:
            queue = them.attacker.driver.pairs[0][1]
            memory = them.attacker.memory
            buffer = place(memory, bytes(one) + FRAME)
            region = memory.regions[0]
            before = them.attacker.counters(SENDS)
            came = 0
            async with flipping(
                region.fd, buffer.gpa - region.layout.gpa, bytes(one), bytes(other)
            ):
                for _ in range(FLIPS):
                    await queue.transfer([buffer], [])
                    sent = them.attacker.counters(SENDS)
                    if sent.frames == before.frames + came:
                        continue
                    came += 1
                    header = (await them.victim.driver.receive()).header
                    assert header.gso_type == 0
                    assert header.flags in {0, NetHeaderFlags.NEEDS_CSUM}
                    assert header.csum_start + header.csum_offset + 2 <= SIZE
            dropped = difference(before.drops, them.attacker.counters(SENDS).drops)
            assert dropped in ({}, {"header": FLIPS - came})
            assert sum(dropped.values()) + came == FLIPS

    return play


CHECKED = NetHeader(flags=NetHeaderFlags.NEEDS_CSUM, csum_start=34, csum_offset=16)
PLAYS: dict[str, Play] = {
    **{f"101-buffer-{size}": too_small([size]) for size in (1, 11, 12, 13, HEADER + SIZE - 1)},
    **{f"101-merged-buffer-{size}": too_small([size], victim=MERGE) for size in (1, 11, 12)},
    "101-merged-65-of-a-byte": too_small(
        [HEADER + 1], *[[1]] * 70, victim=MERGE, data=frame(VICTIM, ATTACKER, size=65)
    ),
    "101-merged-bytes-beyond": too_small([HEADER + 1], [1], why="no_buffer", victim=MERGE),
    "101-merged-num-buffers-beyond": too_small([20], [20], [20], why="no_buffer", victim=MERGE),
    "101-buffer-exact": fits([HEADER + SIZE]),
    "101-buffer-in-bytes": fits([1] * (HEADER + SIZE)),
    "101-header-apart": fits([HEADER, SIZE]),
    "101-buffer-larger": fits([11, 2, 3, 2000, 2000]),
    "101-merged-exact": fits([HEADER + 20], [20], [20], victim=MERGE),
    "101-merged-in-pieces": fits([1] * 13, [3, 4, 5], [1, 2000], victim=MERGE),
    "101-merged-64": fits([HEADER + 1], *[[1]] * 58, [5, 5], victim=MERGE),
    "101-legacy-buffer-exact": fits([LEGACY_HEADER + SIZE], legacy=True),
    "101-buffer-to-read": readable_buffer,
    "101-breaks-in-mid-frame": broken(unmapped_buffer, MERGE),
    "101-ends-outside-in-mid-frame": broken(buffer_that_ends_outside, MERGE),
    "101-memory-removed-under-load": removed_memory,
    "71-receive-buffer-is-the-ring": buffer_is_the_ring,
    "102-frame-of-4-gib": endless_frame,
    "102-buffer-of-4-gib": endless_buffer,
    "74-net-csum-start": flips(CHECKED, NetHeader(flags=1, csum_start=65535, csum_offset=16)),
    "74-net-csum-offset": flips(CHECKED, NetHeader(flags=1, csum_start=34, csum_offset=65535)),
    "74-net-flags": flips(CHECKED, NetHeader(csum_start=65535, csum_offset=65535)),
    "74-net-gso": flips(CHECKED, NetHeader(flags=1, gso_type=1, csum_start=34, csum_offset=16)),
}
CASES = {
    f"{name}-{ring}": (play, features)
    for ring, features in LAYOUTS.items()
    for name, play in PLAYS.items()
}


@pytest.mark.parametrize(("play", "features"), CASES.values(), ids=CASES)
async def hostile(play: Play, features: VirtioFeatures) -> None:
    await play(features)
