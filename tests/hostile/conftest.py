"""A disk served in this process by the real server, for input that no good front-end would send.

Each case works on a `Served`; its end checks what every item of the catalogue demands: the server
did not hang, nothing of the case is left open or mapped, and the next front-end gets its data.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hostile_rings import SIZES
from ring_rig import GuardedMemory, TwinMemory

from protocol.vhost_user import FRONT_END_ROWS, ReplyKind
from vhostuser.devices import BlkDevice, BlkOptions, open_store
from vhostuser.fds import OwnedFd
from vhostuser.frontend import (
    BLK_DRIVER_FEATURES,
    PROTOCOL_FEATURES,
    QEMU,
    TRANSPORT_FEATURES,
    BlockDriver,
    FrontendClient,
    GuestMemory,
    Order,
)
from vhostuser.testing import NEED_REPLY, VERSION, RawFrontend, RawReply, held
from vhostuser.testing import serving as running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from protocol.virtio import VirtioFeatures
    from vhostuser.server import Server

SECTORS = 2048
_ROWS = {row.name: row for row in FRONT_END_ROWS}
_U64 = struct.Struct("=Q")
_ERROR_LINE = re.compile(r'message=(\S+) field=(\S+) value=(\S+) rule="([^"]+)" section="[^"]+"')
_PATIENCE = 30


def pattern(sector: int) -> bytes:
    """What the disk holds in a sector before anybody wrote to it."""
    return struct.pack("<Q", sector) * 64


class Served:
    """A disk that is being served, and the ways to attack it.

    Args:
        path: where it listens.
        image: the disk's file.
        server: what serves it.
        log: what was logged so far.
        left: gets an entry when a front-end was left.

    Attributes:
        features: virtio features that `raw` negotiates.
        protocol: protocol features that `raw` negotiates.
    """

    def __init__(
        self,
        path: Path,
        image: Path,
        server: Server,
        log: pytest.LogCaptureFixture,
        left: trio.MemoryReceiveChannel[None],
    ) -> None:
        self.path = path
        self.image = image
        self.server = server
        self._log = log
        self._left = left
        self.features = TRANSPORT_FEATURES
        self.protocol = PROTOCOL_FEATURES
        self._stack = contextlib.ExitStack()

    # What a case sends

    def fd(self, number: int) -> OwnedFd:
        """Own a descriptor until the end of the case."""
        return self._stack.enter_context(OwnedFd(number))

    def eventfd(self, value: int = 0, flags: int = os.EFD_NONBLOCK) -> OwnedFd:
        return self.fd(os.eventfd(value, flags | os.EFD_CLOEXEC))

    def pipe(self) -> tuple[OwnedFd, OwnedFd]:
        """The end to read from, and the one to write to."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return self.fd(reading), self.fd(writing)

    def memfd(self, size: int) -> OwnedFd:
        fd = self.fd(os.memfd_create("hostile", os.MFD_CLOEXEC))
        os.truncate(fd.fileno(), size)
        return fd

    def file(self, *, flags: int = os.O_RDWR, size: int = 1 << 20) -> OwnedFd:
        path = self.path.parent / "some-file"
        path.touch()
        os.truncate(path, size)
        return self.fd(os.open(path, flags | os.O_CLOEXEC))

    def guest(self, *layout: Any) -> GuestMemory:
        """Guest memory that ends with the case."""
        return self._stack.enter_context(GuestMemory(layout) if layout else GuestMemory())

    # Connections

    @contextlib.asynccontextmanager
    async def _left_behind(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with trio.CancelScope(shield=True), trio.fail_after(_PATIENCE):
                await self._left.receive()

    @contextlib.asynccontextmanager
    async def raw(self, *, negotiated: bool = True) -> AsyncIterator[RawFrontend]:
        """Connect, and negotiate this object's features unless told otherwise."""
        async with self._left_behind(), RawFrontend.connect(self.path) as front_end:
            if negotiated:
                await front_end.message(number("SET_OWNER"))
                await front_end.message(number("SET_FEATURES"), _U64.pack(self.features))
                await front_end.message(number("SET_PROTOCOL_FEATURES"), _U64.pack(self.protocol))
            yield front_end

    @contextlib.asynccontextmanager
    async def client(
        self,
        memory: GuestMemory,
        *,
        queues: int = 1,
        features: VirtioFeatures = TRANSPORT_FEATURES,
        order: Order = QEMU,
    ) -> AsyncIterator[FrontendClient]:
        """Connect as a good front-end and negotiate."""
        wanted = features | BLK_DRIVER_FEATURES
        async with (
            self._left_behind(),
            FrontendClient.connect(self.path, memory, order=order) as client,
        ):
            await client.negotiate(features=wanted, queues=queues)
            yield client

    @contextlib.asynccontextmanager
    async def disk(
        self, memory: GuestMemory, *, num: int = 128, **options: Any
    ) -> AsyncIterator[tuple[FrontendClient, BlockDriver]]:
        """Connect as a good front-end with one running ring."""
        async with self.client(memory, **options) as client:
            client.setup_queue(0, num=num)
            await client.start()
            yield client, BlockDriver([client.queues[0]])

    # What a case expects

    def complaints(self) -> list[str]:
        """Everything the program warned of so far; the next call starts anew."""
        lines = [
            record.getMessage()
            for record in self._log.records
            if record.levelno >= logging.WARNING and record.name.startswith("vhostuser")
        ]
        self._log.clear()
        return lines

    def complained_once(self, message: str | None = None, field: str | None = None) -> None:
        """Exactly one line was logged, with message, field, value, rule and section."""
        lines = self.complaints()
        assert len(lines) == 1, lines
        found = _ERROR_LINE.search(lines[0])
        assert found is not None, lines
        assert message in {None, found[1]}, lines
        assert found[1] != "-", lines
        assert field in {None, found[2]}, lines
        assert found[3] != "-", lines

    async def closes(
        self,
        data: bytes,
        fds: Sequence[OwnedFd] = (),
        *,
        message: str | None = None,
        field: str | None = None,
    ) -> None:
        """The server closes the connection over these bytes, whatever was asked for."""
        async with self.raw() as front_end:
            await front_end.send(data, fds)
            await front_end.wait_closed()
        self.complained_once(message, field)

    async def refuses(
        self,
        name: str,
        payload: bytes = b"",
        fds: Sequence[OwnedFd] = (),
        *,
        field: str | None = None,
        before: Callable[[RawFrontend], Any] | None = None,
    ) -> None:
        """The server refuses a message: by an answer where there can be one, else by closing."""
        row = _ROWS[name]
        can_answer = row.reply.kind in {ReplyKind.NONE, ReplyKind.POSTCOPY}
        has_error_form = row.reply.failure is not None and row.reply.failure(None) is not None
        async with self.raw() as front_end:
            if before is not None:
                await before(front_end)
            reply = await front_end.ask(row.number, payload, fds=fds)
            if can_answer or has_error_form:
                assert reply is not None, self.complaints()
                assert (reply.number, reply.flags, reply.fds) == (row.number, 0x5, 0)
                assert not can_answer or reply.value != 0
                await self.still_answers(front_end)
            else:
                assert reply is None
        self.complained_once(name, field)
        async with self.raw() as front_end:
            if before is not None:
                await before(front_end)
            await front_end.message(row.number, payload, fds=fds)
            if has_error_form:
                assert await front_end.reply() is not None
            else:
                await front_end.wait_closed()
        self.complained_once(name, field)

    async def still_answers(self, front_end: RawFrontend) -> None:
        """The connection goes on: the next request gets the next answer."""
        reply = await front_end.ask(number("GET_FEATURES"))
        assert reply is not None
        assert (reply.number, len(reply.payload)) == (number("GET_FEATURES"), 8)

    async def does(
        self, front_end: RawFrontend, name: str, payload: bytes = b"", fds: Sequence[OwnedFd] = ()
    ) -> RawReply:
        """Send a message that must succeed."""
        reply = await front_end.ask(number(name), payload, fds=fds, flags=VERSION | NEED_REPLY)
        assert reply is not None, self.complaints()
        if _ROWS[name].reply.kind is ReplyKind.NONE:
            assert reply.value == 0, self.complaints()
        return reply

    async def reads(self, disk: BlockDriver, sector: int = 0, length: int = 512) -> None:
        """The disk gives the data that it holds."""
        data = await disk.read(sector, length)
        assert data == self.image.read_bytes()[sector * 512 : sector * 512 + length]

    async def serves_the_next(self) -> None:
        """A fresh connection works."""
        with GuestMemory() as memory:
            async with self.disk(memory) as (_, disk):
                await self.reads(disk)

    def close(self) -> None:
        self._stack.close()


def number(name: str) -> int:
    """The number of a front-end message."""
    return _ROWS[name].number


@pytest.fixture
def serving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Any:
    """Serve a disk for the length of a block; at its end, nothing of the block must be left."""

    @contextlib.asynccontextmanager
    async def serve(
        *, read_only: bool = False, queues: int = 2, queue_size: int = 1024
    ) -> AsyncIterator[Served]:
        caplog.set_level(logging.INFO, logger="vhostuser")
        image, path = tmp_path / "disk.img", tmp_path / "socket"
        image.write_bytes(b"".join(pattern(sector) for sector in range(SECTORS)))
        options = BlkOptions(queues=queues, queue_size=queue_size, serial="hostile-disk")
        store = open_store(image, read_only=read_only)
        tell, left = trio.open_memory_channel[None](1000)

        def notify(name: str, _data: object) -> None:
            if name == "DISCONNECTED":
                tell.send_nowait(None)

        async with (
            BlkDevice.open(store, options) as device,
            running(path, device, seconds=600) as server,
        ):
            server.notify = notify
            served = Served(path, image, server, caplog, left)
            with trio.fail_after(_PATIENCE), contextlib.closing(served):
                await served.serves_the_next()
                before = held()
                served.complaints()
                yield served
                await served.serves_the_next()
                served.close()
                assert not held().more_than(before)
                assert served.complaints() == []

    return serve


@pytest.fixture(scope="module")
def memory() -> Iterator[TwinMemory]:
    guarded = GuardedMemory(SIZES)
    yield TwinMemory(guarded)
    guarded.close()
