"""The control socket: QMP for people and scripts that look after a running server.

A client that sends too much, or does not read, loses its connection; the server does not notice.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from vhostuser.monitor import qmp
from vhostuser.monitor.qmp import CommandError
from vhostuser.monitor.table import execute
from vhostuser.server import OwnPath, bind_unix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vhostuser.monitor.table import AnySet, CommandRow

__all__ = ["Monitor"]

_log = logging.getLogger(__name__)
_MODE = 0o600
_MOST_CLIENTS = 16
_MOST_EVENTS = 256
_SEND_SECONDS = 10.0
"""A client that reads nothing of an answer for so long gives up its place."""


class Monitor:
    """Serves the control socket of a set of disks or ports.

    Args:
        path: where to listen.
        served: what the commands look at and change.
        quit_server: called when a client says `quit`.
        commands: what clients can do with it.

    Attributes:
        made: the socket.

    Raises:
        UsageError: the path cannot be used.
    """

    def __init__(
        self,
        path: Path,
        served: AnySet,
        quit_server: Callable[[], None],
        commands: Mapping[str, CommandRow],
    ) -> None:
        self._served = served
        self._commands = commands
        self._quit = quit_server
        self._listener = trio.SocketListener(
            trio.socket.from_stdlib_socket(bind_unix(path, mode=_MODE))
        )
        self.made = OwnPath(path)
        self._clients: set[_Client] = set()

    def emit(self, name: str, data: Mapping[str, object]) -> None:
        """Send an event to every client that has negotiated."""
        line = qmp.encode_event(name, data)
        for client in self._clients:
            client.post(line)

    async def run(self) -> None:
        """Serve clients until cancelled; the socket path is removed then."""
        try:
            await trio.serve_listeners(self._serve, [self._listener])
        finally:
            self.made.remove()

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            if len(self._clients) >= _MOST_CLIENTS:
                _log.warning("control: refused a client: %d are connected", _MOST_CLIENTS)
                return
            client = _Client(stream, self._served, self._commands)
            self._clients.add(client)
            try:
                await client.run()
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                _log.debug("control: a client left in the middle of an answer")
            except* trio.TooSlowError:
                _log.warning("control: closed a client: it reads no answer")
            except* Exception:  # noqa: BLE001 - our bug: the client goes, the server goes on
                _log.exception("control: a client was left over a bug of this program")
            finally:
                self._clients.discard(client)
        if client.quitting:
            _log.info("quit by the control socket: ending")
            self._quit()


class _Client:
    """One connection to the control socket.

    Attributes:
        quitting: it said `quit`, and has its answer.
    """

    def __init__(
        self, stream: trio.SocketStream, served: AnySet, commands: Mapping[str, CommandRow]
    ) -> None:
        self.quitting = False
        self._stream = stream
        self._served = served
        self._commands = commands
        self._negotiated = False
        self._leaving = False
        self._send, self._lines = trio.open_memory_channel[bytes](_MOST_EVENTS)

    def post(self, line: bytes) -> None:
        """Queue an event; a client that does not read, or is leaving, misses it."""
        if self._negotiated and not self._leaving:
            try:
                self._send.send_nowait(line)
            except trio.WouldBlock:
                _log.warning("control: a client does not read and missed an event")

    async def run(self) -> None:
        """Greet, then answer commands until the client leaves."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            await self._send.send(qmp.greeting())
            await self._read()
            self._leaving = True  # what is queued may take a while yet
            self._send.close()

    async def _write(self) -> None:
        async for line in self._lines:
            with trio.fail_after(_SEND_SECONDS):
                await self._stream.send_all(line)

    async def _read(self) -> None:
        splitter = qmp.Splitter()
        async for data in self._stream:
            for text in splitter.feed(bytes(data)):
                if not await self._answer(text):
                    return
            if splitter.held > qmp.LONGEST_COMMAND:
                _log.warning(
                    "control: closed a client: a command of over %d bytes", qmp.LONGEST_COMMAND
                )
                return

    async def _answer(self, text: bytes) -> bool:
        """Answer one command; return whether to go on."""
        try:
            command = qmp.parse(text)
        except CommandError as error:
            await self._send.send(qmp.encode_error(error))
            return True
        try:
            answer = await self._execute(command)
        except CommandError as error:
            error.identity = command.identity
            await self._send.send(qmp.encode_error(error))
            return True
        await self._send.send(qmp.encode_return(answer, command.identity))
        self.quitting = command.name == "quit"
        return not self.quitting

    async def _execute(self, command: qmp.Command) -> object:
        if command.name == "qmp_capabilities":
            if self._negotiated:
                raise CommandError("capabilities were negotiated already", kind="CommandNotFound")
            self._negotiated = True
            return {}
        if not self._negotiated:
            raise CommandError(
                "expecting capabilities negotiation with 'qmp_capabilities'", kind="CommandNotFound"
            )
        if command.name == "quit":
            return {}
        return await execute(self._commands, self._served, command.name, command.arguments)
