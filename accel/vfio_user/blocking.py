"""A vfio-user client without an event loop: for a thread of its own, a script, a console in a lab.

    with BlockingClient.connect("/tmp/disk.sock") as client:
        status = client.read(0, 0x14, 1)

It asks one thing at a time and gives the device no memory. Accesses to registers go by prepared
messages; whatever is not the plain answer to one is judged by the protocol's connection, as for
`accel.vfio_user.client`. Specification: vfio-user, "Commands".
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, NoReturn

from accel.vfio_user.channel import refusal
from accel.vfio_user.client import SECONDS
from protocol import vfio_user as wire
from protocol.vfio_user import hot
from vhostuser.errors import AcceleratorError, UsageError
from vhostuser.fds import Closing, OwnedFd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from protocol.messages import Message

__all__ = ["BlockingClient"]

_MOST_FDS = 64
_ROOM = 4096
"""Bytes of an access whose answer comes in one piece, as a rule; longer ones go the longer way."""

_HEAD = hot.REGION_MESSAGE.size
_MOST_PREPARED = 1024


class BlockingClient(Closing):
    """One connection to a server, used by one thread at a time. Close it.

    The server's own commands are refused when they are found, which is while an answer is awaited.

    Args:
        sock: a connected UNIX stream socket; taken over.
        name: of the device, for messages to people.
        seconds: how long an answer, or the server's reading of a message, may take.

    Raises:
        AcceleratorError: as all methods: the server refused, is gone, or is too slow.
    """

    def __init__(self, sock: socket.socket, name: str, *, seconds: float = SECONDS) -> None:
        self.name = name
        self._socket = sock
        self._seconds = seconds
        self._ended: str | None = None
        self._connection = wire.Connection(
            wire.Role.CLIENT, limits=wire.Limits(max_msg_fds=_MOST_FDS)
        )
        self._send = sock.sendall
        self._receive = sock.recv
        self._reads: dict[tuple[int, int, int], tuple[bytes, bytes, int]] = {}
        try:
            self._set_deadlines()
            self._agree()
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, path: str | os.PathLike[str], *, seconds: float = SECONDS) -> Self:
        """Connect to a server and agree with it.

        Args:
            path: the server's socket.
            seconds: how long each answer may take.

        Raises:
            UsageError: nobody serves a device there; the text says what to do.
            AcceleratorError: the server does not agree.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(os.fspath(path))
        except OSError as error:
            sock.close()
            raise UsageError(
                f"no vfio-user device at {path}: {error.strerror or error}; start its server "
                f"first, for example: vhostuser simulate blk --socket-path={path}"
            ) from error
        return cls(sock, f"vfio-user:{path}", seconds=seconds)

    def _agree(self) -> None:
        self._close_fds(self.ask(wire.Version.offering(wire.Capabilities())))
        agreed = self._connection.negotiated
        assert agreed is not None  # by the answer
        self._most = agreed.max_data_xfer_size
        self._most_plain = min(_ROOM, self._most)

    def _set_deadlines(self) -> None:
        # By the kernel: a socket that Python times asks before each call whether it would wait.
        self._socket.settimeout(None)
        whole = int(self._seconds)
        length = struct.pack("@ll", whole, int((self._seconds - whole) * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, length)

    # Accesses

    def read(self, region: int, offset: int, count: int) -> bytes:
        """Read from a region, in as many messages as it takes. Raises as the class."""
        prepared = self._reads.get((region, offset, count)) or self._prepare(region, offset, count)
        if prepared is None:
            return self._read_long(region, offset, count)
        command, plain, size = prepared
        try:
            self._send(command)
            answer = self._receive(size)
        except OSError as error:
            self._fail(error)
        if len(answer) == size and answer.startswith(plain):
            return answer[_HEAD:]
        message = wire.RegionRead(region=region, offset=offset, count=count)
        return self._data_of(self._take_over(message, command, answer))

    def _prepare(self, region: int, offset: int, count: int) -> tuple[bytes, bytes, int] | None:
        """Make a command, and what its plain answer begins with and how long that is.

        All accesses have one id: there is one at a time, and none is asked twice. They are made
        anew once the connection has given that id to something else, or has ended.
        """
        if not 0 <= count <= self._most_plain or self._ended is not None:
            return None
        if len(self._reads) >= _MOST_PREPARED:
            self._reads.clear()
        number = self._connection.next_id()
        try:
            command = hot.pack_region_read(number, region, offset, count)
            plain = hot.pack_region_read_answer(number, region, offset, count)
        except struct.error:
            return None
        prepared = command, plain, _HEAD + count
        self._reads[region, offset, count] = prepared
        return prepared

    def _read_long(self, region: int, offset: int, count: int) -> bytes:
        parts = []
        for done in range(0, count, self._most) or (0,):
            part = min(self._most, count - done)
            message = wire.RegionRead(region=region, offset=offset + done, count=part)
            parts.append(self._data_of(self.ask(message)))
        return b"".join(parts)

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region, in as many messages as it takes. Raises as the class."""
        if len(data) > self._most_plain or self._ended is not None:
            self._write_long(region, offset, data)
            return
        number = self._connection.next_id()
        try:
            command = hot.pack_region_write(number, region, offset, data)
            plain = hot.pack_region_write_answer(number, region, offset, len(data))
        except struct.error:
            self._write_long(region, offset, data)  # which says what is wrong
            return
        answer = self._exchange(command)
        if answer != plain:
            message = wire.RegionWrite(region=region, offset=offset, data=data)
            self._close_fds(self._take_over(message, command, answer))

    def _write_long(self, region: int, offset: int, data: bytes) -> None:
        for done in range(0, len(data), self._most) or (0,):
            part = data[done : done + self._most]
            message = wire.RegionWrite(region=region, offset=offset + done, data=part)
            self._close_fds(self.ask(message))

    def post(self, region: int, offset: int, data: bytes) -> None:
        """Write to a region without waiting; whether it was carried out is not known.

        What is asked afterwards is carried out afterwards. Raises as the class.
        """
        message = wire.RegionWrite(region=region, offset=offset, data=data)
        self._transmit(self._make(message, posted=True).data)

    # Everything else

    def ask(self, message: Message) -> wire.Reply:
        """Send any command; return the answer, whose fds are the caller's. Raises as the class."""
        outgoing = self._make(message)
        self._transmit(outgoing.data)
        return self._await(message)

    def _make(self, message: Message, *, posted: bool = False) -> wire.Outgoing:
        if self._ended is not None:
            raise AcceleratorError(self._ended, errno.ENODEV)
        self._reads.clear()
        try:
            return self._connection.request(message, no_reply=posted)
        except wire.LocalProtocolError as error:
            raise AcceleratorError(f"{self.name} cannot be asked: {error}", errno.EINVAL) from error

    def _exchange(self, command: bytes) -> bytes:
        """Send a whole command; return what came next, in one piece as a rule."""
        try:
            self._send(command)
            return self._receive(_HEAD)
        except OSError as error:
            self._fail(error)

    def _take_over(self, message: Message, sent: bytes, answer: bytes) -> wire.Reply:
        """Let the connection go on with a command that was sent past it, and what came then."""
        outgoing = self._make(message)
        assert outgoing.data == sent
        return self._await(message, answer)

    def _await(self, message: Message, begun: bytes = b"") -> wire.Reply:
        """Take in what comes until the answer is there."""
        reply: wire.Reply | None = None
        end = time.monotonic() + self._seconds
        events = self._take(begun, ()) if begun else []
        while True:
            for event in events:
                reply = self._settle(event) or reply
            if reply is not None:
                break
            if time.monotonic() > end:
                self._end(f"{self.name} did not answer within {self._seconds:g} s")
                raise AcceleratorError(self._ended or "", errno.ETIMEDOUT)
            events = self._take(*self._hear())
        if reply.error is not None:
            raise refusal(self.name, type(message).__name__, reply.error)
        return reply

    def _hear(self) -> tuple[bytes, list[OwnedFd]]:
        try:
            data, numbers, flags, _ = socket.recv_fds(
                self._socket, wire.DEFAULT_DATA_XFER_SIZE, _MOST_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            self._fail(error)
        fds = [OwnedFd(number) for number in numbers]
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                fd.close()
            self._end("file descriptors were lost: raise the limit of open files (ulimit -n)")
            raise AcceleratorError(self._ended or "", errno.EMFILE)
        return data, fds

    def _take(self, data: bytes, fds: Sequence[OwnedFd]) -> list[wire.Event]:
        if not data:
            self._connection.receive_eof()
            self._end(f"{self.name} closed the connection")
            raise AcceleratorError(self._ended or "", errno.ENODEV)
        return self._connection.receive(data, fds)

    def _settle(self, event: wire.Event) -> wire.Reply | None:
        """Return the answer, if this is it; refuse commands of the server."""
        if isinstance(event, wire.Reply):
            return event
        if isinstance(event, wire.Request):
            for fd in event.fds:
                fd.close()
            answer = self._connection.refuse(event, errno.EFAULT)
        else:
            answer = event.answer
        if answer is not None:
            self._transmit(answer.data)
        if isinstance(event, wire.Rejected) and event.fatal:
            self._end(f"{self.name} broke the protocol: {event.error}")
            raise AcceleratorError(self._ended or "", errno.EPROTO)
        return None

    def _transmit(self, data: bytes) -> None:
        try:
            self._send(data)
        except OSError as error:
            self._fail(error)

    def _data_of(self, reply: wire.Reply) -> bytes:
        self._close_fds(reply)
        assert isinstance(reply.message, wire.RegionReadReply)  # the protocol has seen to it
        return bytes(reply.message.data)

    @staticmethod
    def _close_fds(reply: wire.Reply) -> None:
        for fd in reply.fds:
            fd.close()

    def _fail(self, error: OSError) -> NoReturn:
        """End the connection: half a message would put the server out of step."""
        late = error.errno == errno.EAGAIN
        self._end(
            f"{self.name} did not answer within {self._seconds:g} s"
            if late
            else f"{self.name} is gone: {error.strerror or error}"
        )
        number = errno.ETIMEDOUT if late else errno.ENODEV
        raise AcceleratorError(self._ended or "", number) from error

    def _end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = reason
            self._connection.close()
            self._reads.clear()

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._end("the connection was closed here")
        self._socket.close()
