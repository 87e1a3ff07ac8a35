"""A vfio-user device that remembers what it was asked, and its being served over a socket pair."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

import trio

from accel.pci import Area
from accel.vfio_user import (
    MSIX_IRQ,
    ClientMemory,
    DmaRange,
    EmulatedDevice,
    EmulatedRegion,
    IoFd,
    over,
    serve_connection,
)
from protocol.vfio_user import Header
from vhostuser.fds import OwnedFd
from vhostuser.stream import receive_with_fds, send_with_fds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from accel.vfio_user import VfioUserClient

PAGE = 4096
BAR = 0
BAR_SIZE = 4 * PAGE
NOTIFY_PAGE = 2 * PAGE
CONFIG = 7


def memfd(size: int) -> OwnedFd:
    """Make a file of memory that can be sealed."""
    fd = OwnedFd(os.memfd_create("vfio-user-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.truncate(fd.fileno(), size)
    return fd


class RecordingDevice(EmulatedDevice):
    """Registers in a bytearray, a page of a BAR in a file, four vectors.

    Attributes:
        calls: what it was asked, in order.
        before: called before each register access, with its kind and offset.
    """

    name = "recording"

    def __init__(self) -> None:
        self.file = memfd(BAR_SIZE)
        self.doorbells = [OwnedFd(os.eventfd(0, os.EFD_NONBLOCK)) for _ in range(2)]
        self.registers = {BAR: bytearray(BAR_SIZE), CONFIG: bytearray(range(256))}
        area = Area(NOTIFY_PAGE, PAGE)
        self.regions = {
            BAR: EmulatedRegion(size=BAR_SIZE, areas=(area,), fd=self.file),
            CONFIG: EmulatedRegion(size=256, writable=False),
        }
        self.irqs = {MSIX_IRQ: 4}
        self.calls: list[tuple[object, ...]] = []
        self.ranges: list[DmaRange] = []
        self.vectors: list[OwnedFd | None] = [None] * 4
        self.memory: ClientMemory | None = None
        self.before: Callable[[str, int], object] = lambda _kind, _offset: None

    async def _pause(self, kind: str, offset: int) -> None:
        waits = self.before(kind, offset)
        if waits is not None:
            await waits  # type: ignore[misc]

    async def connected(self, memory: ClientMemory) -> None:
        self.calls.append(("connected",))
        self.memory = memory

    async def read(self, region: int, offset: int, count: int) -> bytes:
        self.calls.append(("read", region, offset, count))
        await self._pause("read", offset)
        return bytes(self.registers[region][offset : offset + count])

    async def write(self, region: int, offset: int, data: bytes) -> None:
        self.calls.append(("write", region, offset, bytes(data)))
        await self._pause("write", offset)
        self.registers[region][offset : offset + len(data)] = data

    async def map(self, dma: DmaRange) -> None:
        self.calls.append(("map", dma.address, dma.size))
        await self._pause("map", dma.address)
        self.ranges.append(dma)

    async def unmap(self, dma: DmaRange) -> None:
        self.calls.append(("unmap", dma.address, dma.size))
        assert dma.fd is None or not dma.fd.closed
        self.ranges.remove(dma)

    async def set_irqs(self, index: int, start: int, fds: Sequence[OwnedFd | None]) -> None:
        self.calls.append(("set_irqs", index, start, [fd is not None for fd in fds]))
        self.vectors[start : start + len(fds)] = fds

    def io_fds(self, region: int) -> Sequence[IoFd]:
        if region != BAR:
            return ()
        first, second = self.doorbells
        return [
            IoFd(offset=NOTIFY_PAGE, size=2, fd=first, datamatch=0),
            IoFd(offset=NOTIFY_PAGE, size=2, fd=second, datamatch=1),
            IoFd(offset=NOTIFY_PAGE + 4, size=0, fd=second),
        ]

    async def reset(self) -> None:
        self.calls.append(("reset",))

    async def disconnected(self) -> None:
        self.calls.append(("disconnected",))
        # Nothing may be closed before: it might still have been used until now.
        assert all(fd is None or not fd.closed for fd in self.vectors)
        self.vectors = [None] * 4

    def close(self) -> None:
        for fd in (self.file, *self.doorbells):
            fd.close()


class RefusingDevice(RecordingDevice):
    """Says no to everything that can be refused."""

    async def read(self, region: int, offset: int, count: int) -> bytes:
        raise OSError(errno.EBUSY, "busy")

    async def write(self, region: int, offset: int, data: bytes) -> None:
        raise OSError(errno.EBUSY, "busy")

    async def map(self, dma: DmaRange) -> None:
        raise OSError(errno.ENOMEM, "full")

    async def set_irqs(self, index: int, start: int, fds: Sequence[OwnedFd | None]) -> None:
        raise OSError(errno.ENOSPC, "none left")

    async def reset(self) -> None:
        raise OSError(errno.EOPNOTSUPP, "cannot be reset")


def trio_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return trio.socket.from_stdlib_socket(one), trio.socket.from_stdlib_socket(other)


@contextlib.asynccontextmanager
async def serving(
    device: EmulatedDevice, *, seconds: float = 30.0
) -> AsyncIterator[trio.socket.SocketType]:
    """Serve a device while the block lasts; gives the client's socket, which is the caller's."""
    ours, theirs = trio_pair()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve_connection(theirs, device, seconds=seconds)

        nursery.start_soon(run)
        try:
            yield ours
        finally:
            ours.close()
            nursery.cancel_scope.deadline = trio.current_time() + 30


@contextlib.asynccontextmanager
async def client_of(
    device: EmulatedDevice, *, seconds: float = 30.0
) -> AsyncIterator[VfioUserClient]:
    """Serve a device to a client while the block lasts."""
    async with (
        serving(device, seconds=seconds) as sock,
        over(sock, "vfio-user:test", seconds=seconds) as client,
    ):
        yield client


class RawPeer:
    """One end of a connection that says what it wants, byte by byte. Closes its socket.

    Args:
        sock: taken over.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self._held = bytearray()

    async def send(self, data: bytes, fds: Sequence[OwnedFd] = ()) -> None:
        """Write; the fds stay the caller's."""
        await send_with_fds(self.sock, data, fds)

    async def receive(self) -> tuple[Header, bytes]:
        """Read one message, whose fds are closed; raises EOFError at the end of the stream."""
        while len(self._held) < 16 or len(self._held) < Header.parse(self._held).size:
            data, fds, _ = await receive_with_fds(self.sock, 1 << 16)
            for fd in fds:
                fd.close()
            if not data:
                raise EOFError
            self._held += data
        header = Header.parse(self._held)
        payload = bytes(self._held[16 : header.size])
        del self._held[: header.size]
        return header, payload

    async def ask(
        self, command: int, payload: bytes = b"", fds: Sequence[OwnedFd] = (), *, number: int = 1
    ) -> tuple[Header, bytes]:
        """Send a command; return the answer to it, whatever comes between."""
        await self.send(message(command, payload, number=number), fds)
        while True:
            header, answer = await self.receive()
            if (header.id, header.is_reply) == (number, True):
                return header, answer

    async def ended(self) -> None:
        """Read until the other side has closed the connection."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                await self.receive()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def message(
    command: int, payload: bytes = b"", *, number: int = 1, flags: int = 0, size: int | None = None
) -> bytes:
    """Build a message of any kind.

    Args:
        command: number of the command.
        payload: all behind the header.
        number: the id.
        flags: of the header.
        size: what the header says; None: what is true.
    """
    size = 16 + len(payload) if size is None else size
    return Header(id=number, command=command, size=size, flags=flags).build() + payload


VERSION = message(1, b"\0\0\2\0" + b'{"capabilities":{"max_msg_fds":16}}\0')


@contextlib.asynccontextmanager
async def raw_client_of(
    device: EmulatedDevice, *, seconds: float = 30.0, version: bytes = VERSION
) -> AsyncIterator[RawPeer]:
    """Serve a device to a raw client that has agreed on a version."""
    async with serving(device, seconds=seconds) as sock:
        peer = RawPeer(sock)
        if version:
            await peer.send(version)
            header, _ = await peer.receive()
            assert not header.is_error
        yield peer
