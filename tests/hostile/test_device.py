"""Items 50-53, 91 and 92 of the catalogue: starts, stops, features, resets and configuration."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from protocol.vhost_user import (
    ResetDevice,
    ResetOwner,
    SetFeatures,
    SetOwner,
    SetVringEnable,
    SetVringKick,
)
from protocol.virtio import BLK_WRITEBACK_OFFSET as WRITEBACK
from protocol.virtio import VirtioFeatures
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    PROTOCOL_FEATURES,
    TRANSPORT_FEATURES,
    BlockDriver,
    RequestRefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Case = "Callable[[Any], Awaitable[None]]"
CONFIG_SPACE = 256


async def kick_twice(served: Any) -> None:
    async with served.disk(served.guest()) as (client, disk):
        queue = client.queues[0]
        for _ in range(3):
            await client.request(SetVringKick(index=0), [queue.kick])
            await served.reads(disk)
        await client.request(SetVringKick(index=0, no_fd=True))
        await served.reads(disk)


async def kick_storm(served: Any) -> None:
    async with served.disk(served.guest()) as (client, disk):
        for _ in range(100):
            for _ in range(1000):
                os.eventfd_write(client.queues[0].kick.fileno(), 1)
            await served.reads(disk)


async def base_of_a_ring_never_started(served: Any) -> None:
    async with served.client(served.guest()) as client:
        for _ in range(2):
            assert await client.get_vring_base(1) == 0


async def base_twice(served: Any) -> None:
    async with served.disk(served.guest()) as (client, disk):
        for _ in range(5):
            await served.reads(disk)
        assert [await client.get_vring_base(0) for _ in range(2)] == [5, 5]


async def base_with_requests_in_flight(served: Any) -> None:
    """What was taken from the ring is finished; the rest is served after the next start."""
    async with served.disk(served.guest()) as (client, _):
        memory, queue = client.memory, client.queues[0]
        header, data, status = memory.alloc(16), memory.alloc(64 * 512), memory.alloc(100)
        memory.write(header.gpa, bytes(16))
        chains = [queue.add([header], [data, status.part(i, 1)]) for i in range(40)]
        await client.stop()
        taken = client.bases[0]
        used = struct.unpack("<H", memory.read(queue.areas.device.gpa + 2, 2))[0]
        assert used == taken
        await client.start()
        for chain in chains:
            assert await queue.complete(chain) == data.length + 1


def bit_not_offered(name: str, offered: int) -> Case:
    spare = min(bit for bit in range(64) if not offered >> bit & 1 and bit > 40)
    payload = struct.pack("=Q", offered | 1 << spare)
    return lambda served: served.refuses(name, payload, field="features")


def format_changes_while_running(change: VirtioFeatures) -> Case:
    async def case(served: Any) -> None:
        async with served.disk(served.guest()) as (client, disk):
            with pytest.raises(RequestRefusedError):
                await client.request(SetFeatures(features=client.features ^ change))
            served.complained_once("SET_FEATURES", "features")
            await client.request(SetFeatures(features=client.features))
            await served.reads(disk)

    return case


async def protocol_features_given_up(served: Any) -> None:
    """Without bit 30 every ring is enabled, whatever was said before."""
    async with served.disk(served.guest()) as (client, disk):
        await client.request(SetVringEnable(index=0, enable=0))
        without = client.features & ~VirtioFeatures.PROTOCOL_FEATURES
        await client.request(SetFeatures(features=without))
        await served.reads(disk)


async def owner_set_and_reset(served: Any) -> None:
    async with served.disk(served.guest()) as (client, disk):
        for message in (SetOwner(), SetOwner(), ResetOwner()):
            await client.request(message)
            await served.reads(disk)


async def reset_with_requests_in_flight(served: Any) -> None:
    async with served.disk(served.guest()) as (client, _):
        memory, queue = client.memory, client.queues[0]
        header, data, status = memory.alloc(16), memory.alloc(64 * 512), memory.alloc(1)
        memory.write(header.gpa, bytes(16))
        for _ in range(40):
            queue.add([header], [data, status])
        await client.request(ResetDevice())
        fresh = client.setup_queue(0)
        await client.start()
        await served.reads(BlockDriver([fresh]))


def config(offset: int, size: int, payload: int | None = None, flags: int = 0) -> bytes:
    return struct.pack("=III", offset, size, flags) + bytes(size if payload is None else payload)


def bad_write(offset: int, data: bytes, field: str, flags: int = 0) -> Case:
    payload = struct.pack("=III", offset, len(data), flags) + data
    return lambda served: served.refuses("SET_CONFIG", payload, field=field)


async def writes_what_can_be_written(served: Any) -> None:
    for migration in (False, True):
        async with served.disk(served.guest()) as (client, disk):
            for value in (b"\0", b"\1"):
                await client.set_config(WRITEBACK, value, migration=migration)
                assert await client.get_config(WRITEBACK, 1) == value
                await served.reads(disk)


async def migrates_the_same_configuration(served: Any) -> None:
    async with served.disk(served.guest()) as (client, disk):
        whole = bytearray(await client.get_config(0, CONFIG_SPACE))
        await client.set_config(0, bytes(whole), migration=True)
        whole[WRITEBACK] = 0
        await client.set_config(0, bytes(whole), migration=True)
        assert await client.get_config(0, CONFIG_SPACE) == whole
        whole[0] ^= 1
        with pytest.raises(RequestRefusedError):
            await client.set_config(0, bytes(whole), migration=True)
        await client.set_config(WRITEBACK, b"\1")
        await served.reads(disk)
    served.complained_once("SET_CONFIG", "offset")


def bad_config(payload: bytes, name: str = "GET_CONFIG") -> Case:
    return lambda served: served.refuses(name, payload)


def good_config(offset: int, size: int) -> Case:
    async def case(served: Any) -> None:
        async with served.client(served.guest()) as client:
            whole = client.config.ljust(CONFIG_SPACE, b"\0")
            assert await client.get_config(offset, size) == whole[offset : offset + size]

    return case


CASES = {
    "50-kick-twice": kick_twice,
    "50-kick-storm": kick_storm,
    "51-never-started": base_of_a_ring_never_started,
    "51-twice": base_twice,
    "51-in-flight": base_with_requests_in_flight,
    "52-bit-not-offered": bit_not_offered(
        "SET_FEATURES", int(TRANSPORT_FEATURES | BLK_DRIVER_FEATURES)
    ),
    "52-protocol-bit-not-offered": bit_not_offered("SET_PROTOCOL_FEATURES", int(PROTOCOL_FEATURES)),
    "52-packed-while-running": format_changes_while_running(VirtioFeatures.RING_PACKED),
    "52-version-1-while-running": format_changes_while_running(VirtioFeatures.VERSION_1),
    "52-without-bit-30-after-with": protocol_features_given_up,
    "53-owner": owner_set_and_reset,
    "53-reset-device-in-flight": reset_with_requests_in_flight,
    "91-size-0": bad_config(config(0, 0)),
    "91-size-1": good_config(0, 1),
    "91-size-256": good_config(0, 256),
    "91-size-257": bad_config(config(0, 257)),
    "91-size-4g": bad_config(config(0, 0xFFFFFFFF, 8)),
    "91-offset-wraps": bad_config(config(0xFFFFFFFF, 2)),
    "91-offset-at-the-end": bad_config(config(CONFIG_SPACE, 1)),
    "91-payload-short": bad_config(config(0, 8, 4)),
    "91-payload-long": bad_config(config(0, 4, 8)),
    "92-read-only-field": bad_write(0, bytes(8), "offset"),
    "92-read-only-field-as-it-is": bad_write(33, bytes(1), "offset"),
    "92-migration": bad_write(0, bytes(8), "offset", flags=1),
    "92-unknown-flag": bad_write(WRITEBACK, b"\1", "flags", flags=2),
    "92-unknown-flag-31": bad_write(WRITEBACK, b"\1", "flags", flags=1 << 31),
    "92-size-0": bad_write(WRITEBACK, b"", "size"),
    "92-one-byte-before": bad_write(WRITEBACK - 1, b"\0\1", "offset"),
    "92-one-byte-behind": bad_write(WRITEBACK, b"\1\0", "offset"),
    "92-beyond-the-fields": bad_write(CONFIG_SPACE - 1, b"\0", "offset"),
    "92-beyond-the-space": bad_write(CONFIG_SPACE, b"\0", "offset+size"),
    "92-offset-wraps": bad_write(0xFFFFFFFF, b"\0\0", "offset"),
    "92-value-2": bad_write(WRITEBACK, b"\2", "writeback"),
    "92-value-255-migration": bad_write(WRITEBACK, b"\xff", "writeback", flags=1),
    "92-payload-short": bad_config(config(WRITEBACK, 1, 0), "SET_CONFIG"),
    "92-payload-long": bad_config(config(WRITEBACK, 1, 2), "SET_CONFIG"),
    "92-writeback": writes_what_can_be_written,
    "92-same-configuration": migrates_the_same_configuration,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def hostile(case: Callable[[Any], Awaitable[None]], serving: Any) -> None:
    async with serving() as served:
        await case(served)
