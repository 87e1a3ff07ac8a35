"""Our client and our server with something between: splits, reordering, loss, silence, death."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from vfio_user_rig import (
    BAR,
    CONFIG,
    NOTIFY_PAGE,
    PAGE,
    RawPeer,
    memfd,
    message,
    raw_client_of,
    serving,
    trio_pair,
)

from accel.vfio_user import (
    VfioUserClient,
    connect,
    open_accelerator,
    open_device,
    open_over,
    over,
)
from accel.vfio_user.given import GivenMemory
from protocol.vfio_user import Header
from vhostuser.errors import AcceleratorError, UsageError
from vhostuser.fds import OwnedFd
from vhostuser.native import ffi
from vhostuser.stream import receive_with_fds, send_with_fds
from vhostuser.testing import open_fds

IOVA = 0x20_0000


class Shuffler:
    """Carries messages on in pieces, replies in any order; fds stay with their message.

    Args:
        seed: of its choices.
        lose_fds: whether fds get lost.
    """

    def __init__(self, seed: int, *, lose_fds: bool = False) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self.lose_fds = lose_fds

    async def carry(self, source, target) -> None:
        held, fds = bytearray(), []
        waiting: list[tuple[bytes, list[OwnedFd]]] = []
        try:
            while True:
                data, late, _ = await receive_with_fds(
                    source, self.random.choice([1, 7, 64, 1 << 16])
                )
                fds += late
                held += data
                while len(held) >= 16 and len(held) >= (size := Header.parse(held).size):
                    waiting.append((bytes(held[:size]), fds))
                    del held[:size]
                    fds = []
                replies = all(Header.parse(each).is_reply for each, _ in waiting)
                if replies:
                    await wait_all_tasks_blocked()  # let more answers come, to mix them
                    self.random.shuffle(waiting)
                for each, along in waiting:
                    await self._pass_on(target, each, along)
                waiting.clear()
                if not data:
                    return
        except (OSError, trio.ClosedResourceError):
            return
        finally:
            for fd in [*fds, *(fd for _, along in waiting for fd in along)]:
                fd.close()
            target.close()

    async def _pass_on(self, target, data, fds) -> None:
        if self.lose_fds:
            _close(fds)
        while data:
            cut = min(len(data), self.random.choice([1, 2, 15, 16, 17, 100, 5000]))
            try:
                await send_with_fds(target, data[:cut], fds)
            finally:
                _close(fds)
            data, fds = data[cut:], []


def _close(fds):
    for fd in fds:
        fd.close()
    fds.clear()


async def exercise(client: VfioUserClient, device) -> None:
    """Do all kinds of things at once, and check each."""
    memory = ffi.new("char[]", PAGE)
    given = GivenMemory(address=IOVA, size=PAGE, hva=int(ffi.cast("uintptr_t", memory)))
    async with open_over(client) as pci:
        await client.map(given, None, 0)

        async def registers(base):
            for at in range(base, base + 8):
                await pci.write(BAR, at, 1, at & 0xFF)
                assert await pci.read(BAR, at, 1) == at & 0xFF

        async def dma(base):
            await device.memory.write(IOVA + base, bytes([base & 0xFF]) * 700)
            assert await device.memory.read(IOVA + base, 700) == bytes([base & 0xFF]) * 700

        async def config():
            assert await pci.read_block(CONFIG, 0, 256) == bytes(range(256))

        async with trio.open_nursery() as nursery:
            for base in (0, 64, 128):
                nursery.start_soon(registers, base)
            for base in (0, 1000, 2000):
                nursery.start_soon(dma, base)
            nursery.start_soon(config)
        with OwnedFd(os.eventfd(0)) as fd:
            await pci.set_vectors({0: fd, 1: fd, 3: None})
        with memfd(PAGE) as fd:
            second = GivenMemory(address=IOVA + PAGE, size=PAGE, hva=given.hva)
            await client.map(second, fd, 0)
            await device.memory.write(IOVA + PAGE, b"by file")
            assert os.pread(fd.fileno(), 7, 0) == b"by file"
            await client.unmap(second)
        await client.unmap(given)


@pytest.mark.parametrize("seed", range(6))
async def test_messages_may_come_in_any_pieces_and_answers_in_any_order(device, seed):
    with trio.fail_after(60):
        async with serving(device) as far:
            near, client_end = trio_pair()
            async with trio.open_nursery() as nursery:
                shuffler = Shuffler(seed)
                nursery.start_soon(shuffler.carry, near, far)
                nursery.start_soon(shuffler.carry, far, near)
                async with over(client_end, "vfio-user:test") as client:
                    await exercise(client, device)
    assert device.ranges == []


async def test_fds_that_get_lost_are_missed_but_nothing_breaks(device):
    with trio.fail_after(60):
        async with serving(device) as far:
            near, client_end = trio_pair()
            async with trio.open_nursery() as nursery:
                shuffler = Shuffler(1, lose_fds=True)
                nursery.start_soon(shuffler.carry, near, far)
                nursery.start_soon(shuffler.carry, far, near)
                async with over(client_end, "vfio-user:test") as client, open_over(client) as pci:
                    assert pci.map_area(BAR, NOTIFY_PAGE, PAGE) is None
                    with OwnedFd(os.eventfd(0)) as fd:
                        await pci.set_vectors({0: fd})
                    assert device.vectors[0] is None
                    # Eventfds without fds break the protocol.
                    assert await pci.doorbell_fd(BAR, NOTIFY_PAGE, 2, 0) is None
                    assert (
                        "fd_index" in await client.gone()
                        or "file descriptors" in await client.gone()
                    )


@contextlib.contextmanager
def no_room_for_fds(left: int):
    """Let this process open only so many fds more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_fds()) + 8, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(OwnedFd(os.eventfd(0)))
        for _ in range(left):
            filling.pop().close()
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _close(filling)


async def test_fds_for_which_there_is_no_room_end_the_connection_and_are_closed(device):
    async with raw_client_of(device) as peer:
        fds = [memfd(PAGE) for _ in range(16)]
        with no_room_for_fds(3):
            await peer.send(message(8, struct.pack("=5I", 20, 0x24, 2, 0, 16)), fds)
            with trio.fail_after(30):
                await peer.ended()
        _close(fds)
    assert device.calls[-1] == ("disconnected",)


# Silence and death


async def test_a_server_that_does_not_answer_is_given_up_in_time_and_its_late_answer_is_dropped(
    device,
):
    release = trio.Event()
    device.before = lambda kind, offset: release.wait() if offset == 0x20 else None
    async with serving(device) as sock, over(sock, "vfio-user:test") as client:
        client._channel._seconds = 0.05
        with pytest.raises(
            AcceleratorError, match=r"did not answer RegionRead within 0\.05 s"
        ) as caught:
            await client.read(BAR, 0x20, 4000)
        assert caught.value.errno == errno.ETIMEDOUT
        client._channel._seconds = 30
        with pytest.raises(AcceleratorError, match="look at its server") as caught:
            await client.read(CONFIG, 0, 4)
        assert caught.value.errno == errno.ETIMEDOUT
        release.set()
        while client._channel.connection.overdue:
            await trio.lowlevel.checkpoint()
        assert await client.read(CONFIG, 0, 4) == b"\0\1\2\3"


async def test_a_cancelled_command_leaves_the_stream_in_step(device):
    release = trio.Event()
    device.before = lambda kind, offset: release.wait() if offset == 0x20 else None
    async with serving(device) as sock, over(sock, "vfio-user:test") as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.read, BAR, 0x20, 4000)
            nursery.start_soon(client.read, BAR, 0x20, 100)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        release.set()
        assert await client.read(CONFIG, 0, 4) == b"\0\1\2\3"


async def test_a_cancelled_command_whose_answer_brings_an_fd_leaves_none_open(device):
    async with serving(device) as sock, over(sock, "vfio-user:test") as client:
        answered = 0

        async def ask():
            nonlocal answered
            _, fds = await client.io_fds(BAR)
            _close(fds)
            answered += 1

        for turn in range(40):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    for _ in range(turn):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
        assert answered < 40
        assert await client.read(CONFIG, 0, 4) == b"\0\1\2\3"


async def test_a_server_that_reads_nothing_is_given_up(device):
    near, far = trio_pair()
    peer = RawPeer(far)

    async def agree():
        await peer.receive()
        await peer.send(Header(id=0, command=1, size=20, flags=1).build() + b"\0\0\0\0")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agree)
        async with over(near, "vfio-user:test") as client:
            client._channel._seconds = 0.05

            async def flood():
                while True:
                    await client.post(BAR, 0, bytes(1 << 16))

            with pytest.raises(AcceleratorError, match=r"within 0\.05 s"):
                await flood()
    peer.close()


async def test_a_server_that_dies_fails_what_waits_and_all_that_follows(device):
    near, far = trio_pair()
    peer = RawPeer(far)
    failed = []

    async def agree():
        await peer.receive()
        await peer.send(Header(id=0, command=1, size=20, flags=1).build() + b"\0\0\0\0")

    async def wait(client):
        with pytest.raises(AcceleratorError) as caught:
            await client.read(BAR, 0, 4)
        failed.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agree)
        async with over(near, "vfio-user:test") as client:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait, client)
                waiting.start_soon(wait, client)
                await wait_all_tasks_blocked()
                peer.close()
            assert "vfio-user:test" in await client.gone()
            await wait(client)
    assert [error.errno for error in failed] == [errno.ENODEV] * 3
    assert all("vfio-user:test" in error.strerror for error in failed)


async def test_memory_counts_as_taken_away_when_the_server_is_gone_or_keeps_it(device):
    near, far = trio_pair()
    peer = RawPeer(far)
    memory = ffi.new("char[]", PAGE)
    given = GivenMemory(address=IOVA, size=PAGE, hva=int(ffi.cast("uintptr_t", memory)))

    async def serve():
        await peer.receive()
        await peer.send(Header(id=0, command=1, size=20, flags=1).build() + b"\0\0\0\0")
        await peer.receive()
        await peer.send(Header(id=1, command=2, size=16, flags=1).build())
        await peer.receive()
        refusal = Header(id=2, command=3, size=16, flags=0x21, error=errno.EBUSY)
        await peer.send(refusal.build())
        await peer.ended()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with over(near, "vfio-user:test") as client:
            await client.map(given, None, 0)
            await client.unmap(given)
            assert "kept memory that it had to give back" in await client.gone()
            assert len(client.memory) == 0
    peer.close()


# Connecting


async def test_nobody_there_is_said_with_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="start its server first"):
        async with connect(tmp_path / "none.sock"):
            pass


async def test_a_path_that_is_too_long_is_said(tmp_path):
    with pytest.raises(UsageError, match="too long"):
        async with open_device(str(tmp_path / ("x" * 200))):
            pass


async def test_a_server_that_never_accepts_is_given_up(tmp_path):
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with pytest.raises(AcceleratorError, match="did not answer Version"):
            async with connect(tmp_path / "s", seconds=0.1):
                pass


async def test_a_socket_that_we_may_not_use_is_said(tmp_path, monkeypatch):
    async def refuse(_path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("accel.vfio_user.client.connect_unix", refuse)
    with pytest.raises(UsageError, match="write permission on the socket"):
        async with connect(tmp_path / "s"):
            pass


async def test_a_server_that_dies_in_the_middle_of_a_message_is_said():
    near, far = trio_pair()
    peer = RawPeer(far)

    async def serve():
        await peer.receive()
        await peer.send(Header(id=0, command=1, size=20, flags=1).build() + b"\0\0\0\0")
        await peer.receive()
        await peer.send(Header(id=1, command=9, size=36, flags=1).build()[:10])
        peer.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with over(near, "vfio-user:test") as client:
            with pytest.raises(AcceleratorError, match="in the middle of a message"):
                await client.read(BAR, 0, 4)


async def test_an_accelerator_without_a_path_is_told_what_an_address_is():
    with pytest.raises(UsageError, match="name the server's socket"):
        async with open_accelerator(""):
            pass
