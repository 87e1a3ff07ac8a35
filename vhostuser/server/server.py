"""The trio shell: takes one front-end after the other and runs each one's session on the device.

Bytes become requests (`Connection`), requests become plans (`Session`), plans are carried out
(`Carrier`), outcomes become answers. Whatever goes wrong with one front-end ends its session only,
and the next begins when the device has forgotten the last.
"""

from __future__ import annotations

import itertools
import logging
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import (
    CURRENT,
    Connection,
    GetQueueNum,
    Limits,
    RemoteProtocolError,
    Reply,
    Role,
    SetVringNum,
    describe,
)
from vhostuser import log
from vhostuser.errors import RequestError
from vhostuser.server.carry import Carrier
from vhostuser.server.channel import BackendChannel
from vhostuser.server.handover import AreaOffers
from vhostuser.server.silence import kicked_in_vain
from vhostuser.server.turned_down import TurnedDown, queues_offered
from vhostuser.session import Session, StartRing, StopRing
from vhostuser.stream import MessageStream
from vhostuser.virtqueue import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from protocol.vhost_user import Dialect, Request
    from vhostuser.devices import Device
    from vhostuser.fds import OwnedFd
    from vhostuser.server.endpoint import Endpoint
    from vhostuser.session import Plan

__all__ = ["ServedConnection", "Server"]

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)
_CREDENTIALS = struct.Struct("3i")


class ServedConnection:
    """One front-end while it is served.

    Args:
        sock: its socket; taken over.
        device: what it is served with.
        dialect: of the protocol.
        seconds: how long a message that has begun, or an answer, may take.

    Attributes:
        number: counts the connections of this process, from 1.
        process: the front-end's process id when it connected.
        session: what it negotiated.
        carrier: what was done for it, with its memory table.
        areas: notify areas of its rings, once it runs.
        asked_queues: whether it asked how many queues there are.
        set_up: whether it has set up a ring.
    """

    def __init__(
        self, sock: trio.socket.SocketType, device: Device, *, dialect: Dialect, seconds: float
    ) -> None:
        self.number = next(_numbers)
        self.process = _peer_process(sock)
        limits = Limits(queues=device.profile.queues)
        connection = Connection(Role.BACK_END, dialect=dialect, limits=limits)
        self.session = Session(connection, device.profile)
        self.carrier = Carrier(device, self._open_channel)
        self.requests = 0
        self.asked_queues = self.set_up = False
        self._stream = MessageStream(sock, seconds=seconds)
        self._seconds = seconds
        self._device = device
        self._dialect = dialect
        self._channel: BackendChannel | None = None
        self._nursery: trio.Nursery | None = None
        self.areas: AreaOffers | None = None
        self._left = False

    async def run(self, another_waits: Callable[[], Awaitable[None]]) -> None:
        """Serve until the front-end leaves or must be left.

        Args:
            another_waits: async function that returns when a further front-end waits.

        Cancellable: the session is ended and the device left clean in every case.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.areas = AreaOffers(self.session, self._device.datapath, nursery)
                nursery.start_soon(self._note_waiting, another_waits)
                nursery.start_soon(self._note_silence)
                try:
                    await self._serve()
                finally:
                    self.areas.close()
                nursery.cancel_scope.cancel()
        finally:
            self._stream.close()
            self.session.connection.close()  # it may hold fds of a message that never came whole
            await self.carrier.leave()

    async def _note_waiting(self, another_waits: Callable[[], Awaitable[None]]) -> None:
        await another_waits()
        _log.info("another front-end waits until this one leaves the device")

    async def _note_silence(self) -> None:
        profile = self._device.profile
        receiving = range(0, profile.queues, 2) if profile.kind == "net" else ()
        ring = await kicked_in_vain(self._device.datapath, receiving)
        if ring is not None:
            _log.warning(
                "ring %d is kicked, but no request was served yet: if the guest hangs, its memory "
                "is not shared (QEMU: a memory-backend with share=on)",
                ring,
            )

    async def _serve(self) -> None:
        connection = self.session.connection
        begun = False
        try:
            while wanted := connection.wanted:
                data, fds = await self._stream.receive(wanted, begun=begun)
                if len(data) < wanted:
                    for fd in fds:
                        fd.close()
                    connection.receive_eof(len(data))
                    _log.info("the front-end left")
                    return
                begun = await self._received(data, fds)
        except RemoteProtocolError as error:
            _log.warning("closed: %s", error, extra=_fields(error))
        except ConnectionError as error:
            _log.info("the front-end is gone: %s", error)

    async def _received(self, data: bytes, fds: tuple[OwnedFd, ...]) -> bool:
        """Handle what came; return whether a message has begun and its rest must follow."""
        try:
            event = self.session.connection.receive(data, fds)
        except RemoteProtocolError as error:
            if error.answer is None:
                raise
            _log.warning("refused: %s", error, extra=_fields(error))
            await self._stream.send(error.answer)
            return False
        if event is None:
            return True
        assert not isinstance(event, Reply)  # the back-end asks nothing on this channel
        self.requests += 1
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s", describe(event.message, self._dialect))
        try:
            await self._handle(event)
        finally:
            for fd in event.fds:
                fd.close()
        return False

    async def _handle(self, request: Request) -> None:
        session = self.session
        try:
            plan = session.begin(request)
            results = await self.carrier.carry(plan)
        except (RemoteProtocolError, OSError) as error:
            answer = session.refuse(request, error)
            outcome = "refused" if answer is not None else "closed"
            reason = _reason(request, error)
            _log.warning("%s: %s", outcome, reason, extra=_fields(reason))
        else:
            answer = session.finish(request, plan, results)
            self.asked_queues |= isinstance(request.message, GetQueueNum)
            self.set_up |= isinstance(request.message, SetVringNum)
            self._note_rings(plan)
        if answer is not None:
            await self._stream.send(answer)

    def _note_rings(self, plan: Plan) -> None:
        """Offer areas of rings that run now, and forget those of rings that do not."""
        assert self.areas is not None  # plans are only carried out inside run()
        for step in plan.steps:
            if isinstance(step, StartRing):
                self.areas.started(step.index)
            elif isinstance(step, StopRing):
                self.areas.stopped(step.index)

    def _open_channel(self, fd: OwnedFd) -> None:
        assert self._nursery is not None  # plans are only carried out inside run()
        if self._channel is not None:
            self._channel.close()
        connection = self.session.connection
        self._channel = BackendChannel(
            fd, dialect=self._dialect, negotiated=connection.negotiated, seconds=self._seconds
        )
        self._nursery.start_soon(self._channel.run)
        assert self.areas is not None
        self.areas.use_channel(self._channel)

    def ring_broken(self, index: int, fault: Fault, value: int) -> None:
        """Note that a ring broke a rule; who takes guest memory away is left at once."""
        self.session.ring_broken(index)
        if self._left:
            return
        self._left = fault is Fault.MEMORY
        with log.bound(connection=self.number):  # who calls this belongs to the device
            prefix = "closed: " if self._left else ""
            text = "%sring %d stopped: %s = %#x: %s"
            _log.warning(text, prefix, index, fault.name, value, fault.rule)
        if self._left and self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def ring_failed(self, index: int, reason: str) -> None:
        """Note that nobody serves a ring any more; its err fd is signalled."""
        self.session.ring_failed(index)
        with log.bound(connection=self.number):
            _log.error("ring %d is served no longer: %s", index, reason)

    def area_ended(self, index: int, reason: str) -> None:
        """Take a notify area back."""
        if self.areas is not None:
            with log.bound(connection=self.number):
                _log.info("ring %d: its notify area ends: %s", index, reason)
            self.areas.end(index)

    def config_changed(self) -> None:
        """Tell the front-end to read the configuration space again."""
        message = self.session.config_changed()
        if message is not None and self._channel is not None:
            with log.bound(connection=self.number):
                self._channel.post(message)


@dataclass(slots=True, kw_only=True)
class Server:
    """Serves one device to one front-end at a time.

    Attributes:
        device: what is served.
        endpoint: where front-ends come from.
        dialect: of the protocol.
        seconds: how long a message that has begun, or an answer, may take.
        notify: called with the name and data of each event (CONNECTED, DISCONNECTED,
            RING_BROKEN, RING_FAILED).
        connection: the front-end being served now.
    """

    device: Device
    endpoint: Endpoint
    dialect: Dialect = CURRENT
    seconds: float = 10.0
    notify: Callable[[str, Mapping[str, object]], None] = lambda _name, _data: None
    connection: ServedConnection | None = None
    _turned_down: TurnedDown = field(default_factory=TurnedDown)

    async def run(self) -> None:
        """Serve until there are no more front-ends. Cancellable: the current session ends cleanly.

        Raises:
            OSError: the endpoint failed.
        """
        self.device.datapath.report_to(self)
        while (sock := await self.endpoint.accept()) is not None:
            await self._serve(sock)

    async def _serve(self, sock: trio.socket.SocketType) -> None:
        served = ServedConnection(sock, self.device, dialect=self.dialect, seconds=self.seconds)
        self.connection = served
        with log.bound(connection=served.number):
            _log.info("front-end process %s", served.process)
            self.notify("CONNECTED", {"connection": served.number})
            try:
                await served.run(self.endpoint.another_waits)
            except Exception:  # noqa: BLE001 - our bug: the session ends, the server goes on
                _log.exception("ended by a bug of this program")
            finally:
                self.connection = None
                self.notify("DISCONNECTED", {"connection": served.number})
            if self._turned_down.left(asked=served.asked_queues, set_up=served.set_up):
                _log.warning(
                    "front-ends ask how many queues there are (%s) and leave, time after time: "
                    "if one says that it wants more, offer more here, or ask for fewer there "
                    "(QEMU: queues= of a network, num-queues= of a disk)",
                    queues_offered(self.device.profile),
                )

    def ring_broken(self, index: int, fault: Fault, value: int) -> None:
        """Pass on that a ring broke a rule. See `DatapathEvents`."""
        if self.connection is not None:
            self.connection.ring_broken(index, fault, value)
            number = self.connection.number
            self.notify(
                "RING_BROKEN",
                {"connection": number, "ring": index, "rule": fault.rule, "value": value},
            )

    def ring_failed(self, index: int, reason: str) -> None:
        """Pass on that nobody serves a ring any more. See `DatapathEvents`."""
        if self.connection is not None:
            self.connection.ring_failed(index, reason)
            number = self.connection.number
            self.notify("RING_FAILED", {"connection": number, "ring": index, "reason": reason})

    def area_ended(self, index: int, reason: str) -> None:
        """Pass on that a notify area must not be used any more. See `DatapathEvents`."""
        if self.connection is not None:
            self.connection.area_ended(index, reason)

    def config_changed(self) -> None:
        """Pass on that the configuration changed. See `DatapathEvents`."""
        if self.connection is not None:
            self.connection.config_changed()


def _reason(request: Request, error: RemoteProtocolError | OSError) -> RemoteProtocolError:
    """Say in one line why a request was not served."""
    if isinstance(error, RemoteProtocolError):
        return error
    field, value = "fd", None
    if isinstance(error, RequestError):
        field, value = error.field, error.value
    return RemoteProtocolError(
        error.strerror or str(error),
        message=request.row.name,
        field=field,
        value=value,
        section=request.row.section,
    )


def _fields(error: RemoteProtocolError) -> dict[str, object]:
    """Return an error's parts for a structured log."""
    parts = {
        "message": error.message,
        "field": error.field,
        "value": error.value if isinstance(error.value, int | None) else str(error.value),
        "rule": error.rule,
        "section": error.section,
    }
    return {"fields": parts}


def _peer_process(sock: trio.socket.SocketType) -> int:
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[0])
