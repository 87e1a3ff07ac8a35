"""Serves an emulated device to vfio-user clients, one at a time.

Three tasks a client: the reader (`accel.vfio_user.channel`) never waits for the device, the device
task carries out commands in their order, and both write. So a device may reach the client's memory
by messages while a command of the client is being served; a server that stops reading meanwhile
hangs QEMU, which answers only between its own commands. Specification: vfio-user, "VERSION".
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import socket
from typing import TYPE_CHECKING

import trio

from accel.vfio_user.channel import Channel
from accel.vfio_user.dma import DmaTable
from accel.vfio_user.emulated import DmaRange
from accel.vfio_user.handlers import HANDLERS
from accel.vfio_user.handlers.memory import unmap_all
from accel.vfio_user.interrupts import Interrupts
from accel.vfio_user.reach import ReachedMemory
from accel.vfio_user.served import Answer, Served
from protocol import vfio_user as wire
from vhostuser.errors import AcceleratorError
from vhostuser.fds import OwnedFd
from vhostuser.memory import MAX_SLOTS

if TYPE_CHECKING:
    from accel.vfio_user.emulated import EmulatedDevice
    from vhostuser.server import Endpoint

__all__ = ["serve", "serve_connection"]

_log = logging.getLogger(__name__)
_LIMITS = wire.Limits()
_CLIENT = "the client"


async def serve(endpoint: Endpoint, device: EmulatedDevice, *, seconds: float = 5.0) -> None:
    """Serve clients one after the other until there are no more.

    Cancellable: the current client is left, and the device left clean.

    Args:
        endpoint: where clients come from; stays the caller's.
        device: what to serve.
        seconds: how long an answer of a client may take.

    Raises:
        OSError: the endpoint failed.
    """
    while (sock := await endpoint.accept()) is not None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note_waiting, endpoint)
            await serve_connection(sock, device, seconds=seconds)
            nursery.cancel_scope.cancel()


async def _note_waiting(endpoint: Endpoint) -> None:
    await endpoint.another_waits()
    _log.info("another client waits until this one leaves the device")


async def serve_connection(
    sock: trio.socket.SocketType, device: EmulatedDevice, *, seconds: float = 5.0
) -> None:
    """Serve one client until it leaves, or breaks the protocol.

    Cancellable: the device is left clean.

    Args:
        sock: taken over.
        device: what to serve.
        seconds: how long an answer of the client may take.
    """
    session = _Session(sock, device, seconds=seconds)
    try:
        await session.run()
    except Exception:  # noqa: BLE001 - our bug, or the device's: this client only has to go
        _log.exception("ended by a bug of this program")
    finally:
        with trio.CancelScope(shield=True):
            await session.leave()


class _Session:
    """One client while it is served.

    Args:
        sock: taken over.
        device: what to serve.
        seconds: how long an answer of the client may take.
    """

    def __init__(
        self, sock: trio.socket.SocketType, device: EmulatedDevice, *, seconds: float
    ) -> None:
        self._device = device
        self._seconds = seconds
        self._connection = wire.Connection(wire.Role.SERVER, limits=_LIMITS)
        self._channel = Channel(sock, self._connection, peer=_CLIENT, seconds=seconds)
        self._twin: Channel | None = None
        self._served = Served(
            device=device,
            table=DmaTable[DmaRange](most=MAX_SLOTS),
            interrupts=Interrupts(device.irqs),
            most_fds=lambda: self._negotiated.max_msg_fds,
        )

    @property
    def _negotiated(self) -> wire.Negotiated:
        agreed = self._connection.negotiated
        assert agreed is not None  # no command comes before VERSION
        return agreed

    async def run(self) -> None:
        """Serve until the client leaves. Cancellable."""
        memory = ReachedMemory(
            self._served.table,
            lambda: self._twin or self._channel,
            lambda: self._negotiated.max_data_xfer_size,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._channel.run)
            await self._device.connected(memory)
            with trio.CancelScope() as scope:
                nursery.start_soon(self._hurry, scope)
                await self._work(nursery)
            nursery.cancel_scope.cancel()
        _log.info("%s left: %s", _CLIENT, self._channel.ended)

    async def _hurry(self, scope: trio.CancelScope) -> None:
        """Let a device that is stuck in a command go when its client has left long ago."""
        await self._channel.wait_ended()
        scope.deadline = trio.current_time() + self._seconds

    async def _work(self, nursery: trio.Nursery) -> None:
        while (command := await self._channel.commands.get()) is not None:
            with contextlib.suppress(AcceleratorError):  # it left before it had its answer
                if isinstance(command, wire.Rejected):
                    await self._channel.refuse(command)
                elif isinstance(command.message, wire.Version):
                    await self._agree(command, command.message, nursery)
                else:
                    await self._carry_out(command)

    async def _carry_out(self, request: wire.Request) -> None:
        fds = [fd for fd in request.fds if isinstance(fd, OwnedFd)]
        try:
            answer = await self._handle(request, fds)
        except OSError as error:
            _log.warning("%s refused: %s", request.row.name, error.strerror or error)
            await self._channel.refuse(request, error.errno or errno.EIO)
        else:
            await self._channel.answer(request, answer.message, answer.fds)
        finally:
            for fd in fds:
                fd.close()

    async def _handle(self, request: wire.Request, fds: list[OwnedFd]) -> Answer:
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s", wire.describe(request.message))
        handler = HANDLERS.get(type(request.message))
        if handler is None:
            raise AcceleratorError("this device has no such thing", errno.EINVAL)
        return await handler(self._served, request.message, fds)

    async def _agree(
        self, request: wire.Request, proposal: wire.Version, nursery: trio.Nursery
    ) -> None:
        """Answer VERSION, with a socket for our own commands where the client asks for one."""
        theirs = proposal.capabilities
        twin_wanted = theirs.twin_socket is not None and theirs.twin_socket.supported
        reply = wire.VersionReply.offering(
            wire.Capabilities(
                max_msg_fds=_LIMITS.max_msg_fds,
                max_data_xfer_size=_LIMITS.max_data_xfer_size,
                max_dma_maps=MAX_SLOTS,
                pgsizes=mmap.PAGESIZE,
                write_multiple=theirs.write_multiple,
                twin_socket=wire.TwinSocket(supported=True, fd_index=0) if twin_wanted else None,
            ),
            minor=min(proposal.minor, wire.MINOR),
        )
        if not twin_wanted:
            await self._channel.answer(request, reply)
            return
        ours, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(ours), OwnedFd(given.detach()) as fd:
            await self._channel.answer(request, reply, [fd])
            sock = trio.socket.from_stdlib_socket(ours.dup())
        connection = wire.Connection(
            wire.Role.SERVER, limits=_LIMITS, negotiated=self._connection.negotiated
        )
        self._twin = Channel(sock, connection, peer=_CLIENT, seconds=self._seconds)
        nursery.start_soon(self._serve_twin, self._twin)

    async def _serve_twin(self, twin: Channel) -> None:
        """Read answers; only we give commands there."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(twin.run)
            command = await twin.commands.get()
            if command is not None:
                twin.end(f"{_CLIENT} sent a command on the socket that is for ours")
        self._channel.end(twin.ended or "the twin socket is closed")

    async def leave(self) -> None:
        """Let the device forget this client. Not cancellable."""
        self._channel.end("the connection was closed here")
        if self._twin is not None:
            self._twin.end("the connection was closed here")
        for step in (self._device.disconnected, lambda: unmap_all(self._served)):
            try:
                await step()
            except Exception:  # noqa: BLE001 - the device's bug; the rest must be given back
                _log.exception("not undone, by a bug of this program")
        for dma in self._served.table:
            if dma.fd is not None:
                dma.fd.close()
        self._served.interrupts.close()
        self._channel.close()
        if self._twin is not None:
            self._twin.close()
