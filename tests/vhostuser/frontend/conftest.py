"""A back-end that says yes to everything and remembers what it was asked, on a socket pair."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from protocol.vhost_user import (
    U64,
    ConfigReply,
    Connection,
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
    VringState,
)
from protocol.virtio import VirtioFeatures
from vhostuser.fds import OwnedFd
from vhostuser.frontend import (
    PROTOCOL_FEATURES,
    QEMU,
    TRANSPORT_FEATURES,
    FrontendClient,
    GuestMemory,
    MessageChannel,
    Order,
    RegionLayout,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

GPA = 0x4000_0000


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory([RegionLayout(gpa=GPA, size=1 << 20)]) as memory:
        yield memory


class ScriptedBackend:
    """Says yes unless told otherwise.

    Args:
        sock: the connection; taken over.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.channel = MessageChannel(sock, Connection(Role.BACK_END))
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
            case _:
                value = _NUMBERS.get(type(message))
                return None if value is None else U64(value=value)


_NUMBERS: dict[type[Message], int] = {
    GetFeatures: int(TRANSPORT_FEATURES | VirtioFeatures.RING_PACKED),
    GetProtocolFeatures: int(PROTOCOL_FEATURES),
    GetQueueNum: 2,
    GetStatus: 0,
    GetMaxMemSlots: 509,
}


@contextlib.asynccontextmanager
async def scripted(
    memory: GuestMemory, order: Order = QEMU
) -> AsyncIterator[tuple[FrontendClient, ScriptedBackend]]:
    """Join a client to a back-end that is played by the test."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    backend = ScriptedBackend(trio.socket.from_stdlib_socket(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.run)
        sock = trio.socket.from_stdlib_socket(ours)
        with trio.fail_after(20):
            async with FrontendClient.over(sock, memory, order=order) as client:
                yield client, backend
    if backend.backend_socket is not None:
        backend.backend_socket.close()


@pytest.fixture
def join() -> Callable[..., Any]:
    return scripted
