"""Back-ends that a test plays on socket pairs: one that agrees to all, one without manners.

`scripted` joins a client to the first; `handing_over` gives the other end of its back-end channel,
too, on which anything can be said.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import trio

from protocol.vhost_user import (
    CURRENT,
    U64,
    Channel,
    ConfigReply,
    Connection,
    Dialect,
    GetConfig,
    GetFeatures,
    GetMaxMemSlots,
    GetProtocolFeatures,
    GetQueueNum,
    GetStatus,
    GetVringBase,
    Message,
    Request,
    Role,
    SetBackendReqFd,
    VringHostNotifier,
    VringNotifyArea,
    VringState,
    VringVfioGroup,
)
from protocol.virtio import VirtioFeatures
from vhostuser.fds import OwnedFd
from vhostuser.frontend import (
    PROTOCOL_FEATURES,
    QEMU,
    TRANSPORT_FEATURES,
    FrontendClient,
    GuestMemory,
    Host,
    MessageChannel,
    Order,
    RegionLayout,
)
from vhostuser.testing import NEED_REPLY, VERSION, RawFrontend, held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

__all__ = ["ScriptedBackend", "Upward", "handing_over", "memfd", "scripted"]

GPA = 0x4000_0000


class ScriptedBackend:
    """Says yes unless told otherwise.

    Args:
        sock: the connection; taken over.
        dialect: version of the protocol.
    """

    def __init__(self, sock: trio.socket.SocketType, dialect: Dialect = CURRENT) -> None:
        self.channel = MessageChannel(sock, Connection(Role.BACK_END, dialect=dialect))
        self.protocol_features = PROTOCOL_FEATURES
        self.messages: list[Message] = []
        self.need_reply: list[bool] = []
        self.refused: set[type[Message]] = set()
        self.leave_at: set[type[Message]] = set()
        self.gone = False
        self.backend_socket: OwnedFd | None = None
        self.bases = {0: 0x1234}
        self.before_answer: Callable[[Message], Any] | None = None

    def names(self) -> list[str]:
        """What was asked, with the ring where there is one."""
        rings = ((type(each).__name__, getattr(each, "index", "")) for each in self.messages)
        return [f"{name} {index}".rstrip() for name, index in rings]

    def upward(self) -> Upward:
        """Take this side's end of the back-end channel."""
        taken, self.backend_socket = self.backend_socket, None
        assert taken is not None
        dialect = self.channel.connection.dialect
        return Upward(socket.socket(fileno=taken.detach()), dialect)

    async def run(self) -> None:
        while isinstance(request := await self.channel.receive(), Request):
            if type(request.message) in self.leave_at:
                break
            self.messages.append(request.message)
            self.need_reply.append(request.need_reply)
            if self.before_answer is not None:
                await self.before_answer(request.message)
            outgoing = self._answer(request)
            for fd in request.fds:
                fd.close()
            if outgoing is not None and not self.gone:
                await self.channel.send(outgoing)
        self.channel.close()

    def _answer(self, request: Request) -> Any:
        connection = self.channel.connection
        if type(request.message) in self.refused:
            return connection.refuse(request, "told so")
        if isinstance(request.message, SetBackendReqFd):
            fd = request.fds[0]
            assert isinstance(fd, OwnedFd)
            self.backend_socket = fd.duplicate()
        return connection.accept(request, self._reply(request.message))

    def _reply(self, message: Message) -> Message | None:
        match message:
            case GetConfig(offset=offset, size=size):
                return ConfigReply(offset=offset, data=b"c" * size)
            case GetVringBase(index=index):
                return VringState(index=index, num=self.bases.get(index, 0))
            case GetProtocolFeatures():
                return U64(value=int(self.protocol_features))
            case _:
                value = _NUMBERS.get(type(message))
                return None if value is None else U64(value=value)


_NUMBERS: dict[type[Message], int] = {
    GetFeatures: int(TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED),
    GetQueueNum: 2,
    GetStatus: 0,
    GetMaxMemSlots: 509,
}


class Upward:
    """The back-end's end of its own channel, without manners.

    Args:
        sock: taken over.
        dialect: version of the protocol; it says which number hands over what.
    """

    def __init__(self, sock: socket.socket, dialect: Dialect) -> None:
        self.raw = RawFrontend(trio.socket.from_stdlib_socket(sock))
        rows = {row.message: row for row in dialect.rows(Channel.BACK_END)}
        self.area = next(rows[each] for each in AREAS if each in rows)
        self.group = rows.get(VringVfioGroup)

    async def say(
        self, number: int, payload: bytes, fds: Sequence[OwnedFd] = (), *, ack: bool = True
    ) -> int | None:
        """Send a message with these fds, which are closed; return the answer, None: there is none.

        With `ack` the answer is waited for: None means that the channel was closed.
        """
        flags = VERSION | (NEED_REPLY if ack else 0)
        await self.raw.message(number, payload, flags=flags, fds=fds)
        for fd in fds:
            fd.close()
        reply = await self.raw.reply() if ack else None
        return None if reply is None else reply.value

    async def offer(  # noqa: PLR0913 - the parts of a message
        self,
        fd: OwnedFd | None,
        *,
        index: int = 0,
        size: int = 4096,
        offset: int = 0,
        flags: int = 0,
        ack: bool = True,
    ) -> int | None:
        """Offer an area, or say that there is none: `flags` 0x100 and no fd."""
        payload = struct.pack("=QQQ", index | flags, size, offset)
        return await self.say(self.area.number, payload, [fd] if fd else [], ack=ack)

    async def remove(self, index: int = 0) -> int | None:
        return await self.offer(None, index=index, flags=0x100, size=0)

    async def offer_group(self, fd: OwnedFd | None, *, index: int = 0) -> int | None:
        payload = struct.pack("=Q", index if fd else index | 0x100)
        return await self.say(self.group.number, payload, [fd] if fd else [])

    def socket(self) -> socket.socket:
        """The same end, for blocking code; close it."""
        duplicate = socket.socket(fileno=os.dup(self.raw.sock.fileno()))
        duplicate.settimeout(None)
        return duplicate

    def close(self) -> None:
        self.raw.reset()


AREAS = (VringHostNotifier, VringNotifyArea)


def memfd(size: int = 4096, fill: bytes = b"\xff") -> OwnedFd:
    """A file to map, full of what no kick leaves behind."""
    fd = OwnedFd(os.memfd_create("area", os.MFD_CLOEXEC))
    os.pwrite(fd.fileno(), fill * size, 0)
    return fd


@contextlib.asynccontextmanager
async def scripted(
    memory: GuestMemory,
    order: Order = QEMU,
    *,
    dialect: Dialect = CURRENT,
    host: Host | None = None,
) -> AsyncIterator[tuple[FrontendClient, ScriptedBackend]]:
    """Join a client to a back-end that is played by the test."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    backend = ScriptedBackend(trio.socket.from_stdlib_socket(theirs), dialect)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.run)
        sock = trio.socket.from_stdlib_socket(ours)
        with trio.fail_after(60):
            async with FrontendClient.over(
                sock, memory, order=order, dialect=dialect, host=host or Host()
            ) as client:
                yield client, backend
    if backend.backend_socket is not None:
        backend.backend_socket.close()


@contextlib.asynccontextmanager
async def handing_over(
    dialect: Dialect = CURRENT,
    *,
    host: Host | None = None,
    start: bool = True,
    features: VirtioFeatures = TRANSPORT_FEATURES,
    queues: int = 2,
) -> AsyncIterator[tuple[FrontendClient, Upward]]:
    """Join a client with rings to a back-end that has something to hand over.

    At the end nothing of it may be open or mapped any more.
    """
    before = held()
    with GuestMemory([RegionLayout(gpa=GPA, size=1 << 20)]) as memory:
        async with scripted(memory, dialect=dialect, host=host) as (client, backend):
            backend.protocol_features |= dialect.hand_over_features
            await client.negotiate(features=features, queues=queues)
            for index in range(queues):
                client.setup_queue(index, num=8)
            if start:
                await client.start()
            with contextlib.closing(backend.upward()) as upward:
                yield client, upward
    assert not held().more_than(before)
