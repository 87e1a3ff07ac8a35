"""Our back-end serves real devices, and our front-end drives them: whom the doorbell reaches."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import trio
from driven import BLK, GUEST_LAYOUT, LAYOUTS, NET, Network, interrupts, take, use_disk

from protocol.vhost_user import CURRENT, RFC_V1, RFC_V2
from protocol.virtio import VirtioFeatures
from vhostuser.cli.main import main
from vhostuser.frontend import BLK_DRIVER_FEATURES, BlockDriver, FrontendClient, GuestMemory

SHARED_PAGE_BLK = "0000:03:00.0"
_SECONDS = 30
_OFFERED = "the driver rings the accelerator's doorbell itself"


class _Backend:
    """A back-end in a process of its own, as the command starts it."""

    socket, log = Path("socket"), Path("log")

    def __init__(self, device, options):
        command = ["accel", "--accel", f"vfio:{device}", "--socket-path", str(self.socket)]
        self.pid = os.fork()
        if self.pid == 0:
            log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(main([*command, *options]))

    def said(self, words):
        return self.log.read_text().count(words) if self.log.exists() else 0

    def wait_for(self, words, *, times=1):
        """Wait until it has logged something so many times."""
        give_up = time.monotonic() + _SECONDS
        while self.said(words) < times:
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), "it ended"
            assert time.monotonic() < give_up, words
            time.sleep(0.01)

    def switches(self):
        """Return how often each of its threads has run."""
        paths = Path(f"/proc/{self.pid}/task").glob("*/status")
        lines = [line for path in paths for line in path.read_text().splitlines()]
        return [line for line in lines if "ctxt_switches" in line]

    def wait_idle(self):
        """Wait until none of its threads runs any more."""
        give_up = time.monotonic() + _SECONDS
        last = []
        while (now := self.switches()) != last:
            assert time.monotonic() < give_up, now
            last = now
            time.sleep(0.2)

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        _, status = os.waitpid(self.pid, 0)
        return status


@contextlib.contextmanager
def _served(device, *options):
    """Serve a device; the back-end must end well and without a complaint."""
    take(device.partition(",")[0])
    backend = _Backend(device, options)
    try:
        backend.wait_for("serving ")
        yield backend
    except BaseException as error:
        with contextlib.suppress(ChildProcessError):
            backend.end()
        error.add_note(backend.log.read_text())
        raise
    status, log = backend.end(), backend.log.read_text()
    assert status == 0, log
    assert not any(word in log for word in ("Traceback", "ERROR", "WARNING")), log


@contextlib.asynccontextmanager
async def _client(features, *, dialect=CURRENT, config_size=60, stop=True):
    """Connect, and start all queues of the device; leave at the end with or without a stop."""
    with GuestMemory(GUEST_LAYOUT) as memory:
        async with FrontendClient.connect(_Backend.socket, memory, dialect=dialect) as client:
            client.config_size = config_size
            await client.negotiate(features=features | VirtioFeatures.PROTOCOL_FEATURES)
            layout = features & VirtioFeatures.RING_PACKED
            assert client.features & VirtioFeatures.RING_PACKED == layout
            await _start(client)
            yield client
            if stop:
                await client.stop()


async def _start(client):
    """Start rings at their beginning."""
    for index in range(2):
        client.setup_queue(index, num=64)
    await client.start()


async def _mapped(client):
    with trio.fail_after(_SECONDS):
        for index in client.queues:
            await client.areas.wait_mapped(index)


def _kicks(client):
    return [(queue.kicks.page, queue.kicks.eventfd) for queue in client.queues.values()]


async def _alone(client, backend, use):
    """Have the device used by its own doorbells; return what the back-end had to do with it."""
    await _mapped(client)
    backend.wait_for(_OFFERED, times=2)
    backend.wait_idle()
    kicked, switched = _kicks(client), backend.switches()
    used = await use()
    return {
        "used": used,
        "by_page": sum(after[0] - before[0] for before, after in _pairs(kicked, client)),
        "by_fd": sum(after[1] - before[1] for before, after in _pairs(kicked, client)),
        "backend_ran": backend.switches() != switched,
    }


def _pairs(kicked, client):
    return list(zip(kicked, _kicks(client), strict=True))


def _disk_alone(layout, *, at, dialect=CURRENT):
    """Use a disk through its own doorbells."""

    async def front(backend):
        async with _client(BLK_DRIVER_FEATURES | LAYOUTS[layout], dialect=dialect) as client:
            disk = BlockDriver(list(client.queues.values()))
            notes = await _alone(client, backend, lambda: use_disk(disk, at=at, seed=at + 1))
            groups = {client.groups.of(index) for index in client.queues} - {None}
            return {**notes, "groups": len(groups), "interrupted": sum(interrupts(BLK).values())}

    with _served(f"{BLK},share-device-fd=on", "--dialect", dialect.name) as backend:
        return trio.run(front, backend)


def _network_alone(layout):
    async def front(backend):
        async with _client(LAYOUTS[layout], config_size=12) as client:
            network = Network(client.queues[0], client.queues[1])
            return await _alone(client, backend, lambda: network.use(seed=7))

    with _served(f"{NET},share-device-fd=on") as backend:
        return trio.run(front, backend)


def _disk_relayed(device, *, at):
    """Use a disk whose doorbells are not handed over."""

    async def front():
        async with _client(BLK_DRIVER_FEATURES | LAYOUTS["split"]) as client:
            used = await use_disk(BlockDriver(list(client.queues.values())), at=at, seed=at + 2)
            return {"used": used, "areas": len(client.areas.shown()), "kicks": _kicks(client)}

    with _served(device, "--verbose") as backend:
        notes = trio.run(front)
        lines = backend.log.read_text().splitlines()
    return {**notes, "said": [line for line in lines if "relayed" in line]}


def check_a_split_disk_alone():
    return _disk_alone("split", at=64)


def check_a_packed_disk_alone():
    return _disk_alone("packed", at=2112)


def check_a_disk_alone_in_the_dialect_of_2017():
    return _disk_alone("split", at=64, dialect=RFC_V1)


def check_a_disk_alone_in_the_dialect_of_2018():
    return _disk_alone("split", at=64, dialect=RFC_V2)


def check_a_split_network_alone():
    return _network_alone("split")


def check_a_packed_network_alone():
    return _network_alone("packed")


def check_a_disk_is_relayed_unless_its_file_may_be_shared():
    return _disk_relayed(BLK, at=64)


def check_a_disk_with_one_page_for_all_doorbells_is_relayed():
    return _disk_relayed(f"{SHARED_PAGE_BLK},share-device-fd=on", at=64)


def check_the_next_guest_gets_the_device_as_new():
    """Also where the one before left without a word."""

    async def leave():
        async with _client(LAYOUTS["packed"], stop=False) as client:
            await _mapped(client)

    async def front():
        for number, layout in enumerate(("split", "packed")):
            await leave()
            async with _client(BLK_DRIVER_FEATURES | LAYOUTS[layout]) as client:
                await _mapped(client)
                disk = BlockDriver(list(client.queues.values()))
                await use_disk(disk, at=64, seed=number)

    with _served(f"{BLK},share-device-fd=on") as backend:
        trio.run(front)
        return backend.said(_OFFERED)


def check_a_ring_that_starts_anew_gets_its_page_again():
    async def front():
        async with _client(BLK_DRIVER_FEATURES | LAYOUTS["split"]) as client:
            for round_ in range(2):
                await _mapped(client)
                disk = BlockDriver(list(client.queues.values()))
                await use_disk(disk, at=64, seed=round_ + 20)
                await client.stop()
                assert client.areas.shown() == ()
                await _start(client)

    with _served(f"{BLK},share-device-fd=on") as backend:
        trio.run(front)
        return backend.said(_OFFERED)


def check_a_back_end_that_dies_gives_the_device_up():
    """The front-end is left with a page of a device that has none to serve it any more."""

    async def front(backend):
        async with _client(LAYOUTS["split"], stop=False) as client:
            await _mapped(client)
            os.kill(backend.pid, signal.SIGKILL)
            os.waitpid(backend.pid, 0)
            with trio.fail_after(_SECONDS):
                for index in client.queues:
                    await client.areas.wait_unmapped(index)

    take(BLK)
    backend = _Backend(f"{BLK},share-device-fd=on", ())
    backend.wait_for("serving ")
    trio.run(front, backend)
    backend.log.unlink()
    backend.socket.unlink()
    return _disk_alone("split", at=64)
