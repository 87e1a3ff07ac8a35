"""A driver's process: sets a ring up by vhost-user, or straight on a device, and drives it.

`python -m bench.driving WAY SOCKET …` says "ready" when the ring runs, goes on at a line on its
standard input, prints what came of it as JSON, and leaves at the next line. The loop itself is
`src/drive.c`, the same for all ways.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from protocol.virtio import VirtioFeatures
from vhostuser.datapath import MappedDoorbell, QueueAddresses, open_accelerator
from vhostuser.frontend import BLK_DRIVER_FEATURES, QEMU, FrontendClient, GuestMemory, RegionLayout
from vhostuser.frontend.queue import DriverQueue
from vhostuser.memory import MappedRegion

from .row import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["driving_command"]

_FEATURES = BLK_DRIVER_FEATURES | VirtioFeatures.VERSION_1 | VirtioFeatures.EVENT_IDX
_WAYS = {each.name.lower(): each for each in (Backend.PASSED, Backend.RELAYED, Backend.STRAIGHT)}
_NUM = 256
_SLOT_BYTES = 64
_MEMORY = RegionLayout(gpa=1 << 32, size=16 << 20)
_PATIENCE_SECONDS = 20.0


class _Ring(ctypes.Structure):
    """`struct drive_ring`."""

    _fields_ = (
        ("desc", ctypes.c_void_p),
        ("driver", ctypes.c_void_p),
        ("device", ctypes.c_void_p),
        ("features", ctypes.c_uint64),
        ("buffers", ctypes.c_void_p),
        ("gpa", ctypes.c_uint64),
        ("doorbell", ctypes.c_void_p),
        ("sectors", ctypes.c_uint64),
        ("num", ctypes.c_uint32),
        ("value", ctypes.c_uint32),
        ("kick", ctypes.c_int),
        ("call", ctypes.c_int),
    )


class _Load(ctypes.Structure):
    """`struct drive_load`."""

    _fields_ = (
        ("warm", ctypes.c_double),
        ("seconds", ctypes.c_double),
        ("least", ctypes.c_uint64),
        ("depth", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("sleep", ctypes.c_uint32),
    )


class _Figures(ctypes.Structure):
    """`struct drive_figures`, the summary in it laid flat."""

    _fields_ = (
        ("rate", ctypes.c_double),
        ("p50_us", ctypes.c_double),
        ("p99_us", ctypes.c_double),
        ("client_cpu", ctypes.c_double),
        ("counted", ctypes.c_uint64),
        ("errors", ctypes.c_uint64),
        ("requests", ctypes.c_uint64),
        ("kicks", ctypes.c_uint64),
        ("interrupts", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A ring that a device serves.

    Attributes:
        queue: its areas and fds; its own driver does nothing.
        features: that were negotiated.
        config: of the disk.
        doorbell: where a store reaches the device; None: it is kicked.
    """

    queue: DriverQueue
    features: VirtioFeatures
    config: bytes
    doorbell: int | None


def driving_command(library: Path, way: Backend, socket: Path) -> list[str]:
    """Return the beginning of the command that drives a ring; `_parser` has the rest."""
    return [sys.executable, "-m", "bench.driving", way.name.lower(), str(socket), str(library)]


@contextlib.asynccontextmanager
async def _by_back_end(path: str, memory: GuestMemory, *, passed: bool) -> AsyncIterator[_Running]:
    """Be a front-end, with the doorbell handed over or without."""
    wanted = _FEATURES | VirtioFeatures.PROTOCOL_FEATURES
    async with FrontendClient.connect(path, memory, order=QEMU) as client:
        await client.negotiate(features=wanted)
        queue = client.setup_queue(0, num=_NUM)
        await client.start()
        if passed:
            with trio.fail_after(_PATIENCE_SECONDS):
                await client.areas.wait_mapped(0)
        doorbell = client.areas.address(0)
        if (doorbell is not None) is not passed:
            raise SystemExit("a doorbell was handed over that should not have been")
        yield _Running(
            queue=queue, features=client.features, config=client.config, doorbell=doorbell
        )
        await client.stop()


@contextlib.asynccontextmanager
async def _straight(path: str, memory: GuestMemory) -> AsyncIterator[_Running]:
    """Be the driver of the device itself: no back-end is there."""
    region = memory.regions[0]
    mapped = MappedRegion(region.description, region.hva(region.layout.gpa), region.fd)
    async with open_accelerator(f"vfio-user:{path}") as accelerator:
        features = accelerator.features & _FEATURES
        await accelerator.reset()
        await accelerator.set_features(features)
        await accelerator.map(mapped)
        queue = DriverQueue(memory, 0, num=_NUM, features=features)
        try:
            await accelerator.set_call(0, queue.call)
            areas = queue.areas
            addresses = QueueAddresses(
                num=_NUM, desc=areas.desc.gpa, driver=areas.driver.gpa, device=areas.device.gpa
            )
            await accelerator.start_queue(0, addresses, None)
            await accelerator.start()
            doorbell = accelerator.doorbell(0)
            if not isinstance(doorbell, MappedDoorbell):
                raise SystemExit("the device's doorbell cannot be mapped")
            yield _Running(
                queue=queue,
                features=features,
                config=await accelerator.read_config(0, 8),
                doorbell=doorbell.address,
            )
            await accelerator.reset()
        finally:
            queue.close()
            await accelerator.unmap(mapped)


def _ring(running: _Running, memory: GuestMemory, depth: int, size: int) -> _Ring:
    queue = running.queue
    desc, driver, device = (
        memory.hva(part.gpa, part.length)
        for part in (queue.areas.desc, queue.areas.driver, queue.areas.device)
    )
    buffers = memory.alloc(depth * (_SLOT_BYTES + size), alignment=4096)
    return _Ring(
        desc=desc,
        driver=driver,
        device=device,
        features=int(running.features),
        buffers=memory.hva(buffers.gpa, buffers.length),
        gpa=buffers.gpa,
        doorbell=running.doorbell,
        sectors=int.from_bytes(running.config[:8], "little"),
        num=_NUM,
        value=queue.index,
        kick=queue.kick.fileno(),
        call=queue.call.fileno(),
    )


async def _line() -> None:
    """Wait for the one who measures."""
    await trio.to_thread.run_sync(sys.stdin.readline)


def _tell(figures: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


async def _drive(arguments: argparse.Namespace) -> None:
    library = ctypes.CDLL(arguments.library)
    load = _Load(
        warm=arguments.warm,
        seconds=arguments.seconds,
        least=arguments.least,
        depth=arguments.depth,
        bytes=arguments.bytes,
        sleep=arguments.sleep,
    )
    way = _WAYS[arguments.way]
    with GuestMemory([_MEMORY]) as memory:
        made = (
            _straight(arguments.socket, memory)
            if way is Backend.STRAIGHT
            else _by_back_end(arguments.socket, memory, passed=way is Backend.PASSED)
        )
        async with made as running:
            ring = _ring(running, memory, load.depth, load.bytes)
            figures = _Figures()
            _tell({"ready": 1})
            await _line()
            code = await trio.to_thread.run_sync(
                library.drive, ctypes.byref(ring), ctypes.byref(load), ctypes.byref(figures)
            )
            if code:
                raise SystemExit(f"the device did not do what it should: errno {-code}")
            _tell({name: getattr(figures, name) for name, _ in _Figures._fields_})
            await _line()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.driving", description=__doc__)
    parser.add_argument("way", choices=_WAYS)
    parser.add_argument("socket", help="of the back-end or of the device")
    parser.add_argument("library", help="the compiled loop")
    parser.add_argument("--depth", type=int, default=32, help="requests in flight")
    parser.add_argument("--bytes", type=int, default=4096, help="of a request")
    parser.add_argument("--warm", type=float, default=0.2, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring")
    parser.add_argument("--least", type=int, default=0, help="requests, however long it takes")
    parser.add_argument("--sleep", action="store_true", help="until the device interrupts")
    return parser


if __name__ == "__main__":
    trio.run(_drive, _parser().parse_args())
