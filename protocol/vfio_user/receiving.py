"""The receiving half of a connection: from what arrived to events.

Everything that a peer sends is checked here; what breaks a rule becomes a `Rejected`.
Specification: vfio-user, "Header" and "Commands".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from protocol.vfio_user import formats as f
from protocol.vfio_user.errors import (
    FatalProtocolError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocol.vfio_user.exchange import Rejected, Reply, Request
from protocol.vfio_user.framing import (
    ERROR,
    HEADER_SIZE,
    MAX_ERRNO,
    NO_REPLY,
    REPLY,
    SECTION,
    Header,
    error_frame,
    is_reply,
)
from protocol.vfio_user.intake import Intake, close_all
from protocol.vfio_user.legality import require_answers, require_fds, require_limits
from protocol.vfio_user.table import COMMANDS, ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.messages import Closeable, Message
    from protocol.vfio_user.exchange import Event, Limits, Pending
    from protocol.vfio_user.handshake import Handshake
    from protocol.vfio_user.intake import Arrived
    from protocol.vfio_user.outstanding import Outstanding
    from protocol.vfio_user.rows import CommandRow, Part, Role

__all__ = ["Receiver"]

_HEAD = 32  # bytes: the longest fixed part in front of data whose size was agreed
_LARGEST = max(
    part.payload.max_size
    for row in ROWS
    for part in (row.request, row.reply)
    if part.payload.max_size < f.MAX_TRANSFER
)
_PLAIN = (0, NO_REPLY, REPLY)


class Receiver:
    """Makes events of what arrives.

    Args:
        role: Which side we are.
        limits: What to accept of the peer at most.
        handshake: What was agreed; shared with the sending half.
        outstanding: Our own requests; shared with the sending half.

    Attributes:
        closed: Whether it has ended: nothing more comes out.
        open: The peer's requests that wait for our answer.
    """

    def __init__(
        self, role: Role, limits: Limits, handshake: Handshake, outstanding: Outstanding
    ) -> None:
        self._role = role
        self._limits = limits
        self._handshake = handshake
        self._outstanding = outstanding
        largest = max(_LARGEST, _HEAD + limits.max_data_xfer_size)
        self._intake = Intake(HEADER_SIZE + largest)
        self.closed = False
        self.open: set[Request] = set()

    def receive(self, data: bytes, fds: Sequence[Closeable]) -> list[Event]:
        """Take what one read of the socket returned; see `Connection.receive`."""
        if self.closed:
            close_all(fds)
            return []
        events: list[Event] = []
        for arrived in self._intake.feed(data, fds):
            self._collect(arrived, events)
        broken = self._intake.take_broken()
        if broken is not None:
            self._collect_broken(*broken, events)
        return events

    def _collect(self, arrived: Arrived, events: list[Event]) -> None:
        if self.closed:
            close_all(arrived.fds)
            return
        event = self._take(arrived)
        if event is not None:
            events.append(event)

    def _collect_broken(
        self, arrived: Arrived, error: FatalProtocolError, events: list[Event]
    ) -> None:
        if self.closed:
            close_all(arrived.fds)
            return
        events.append(self._reject(arrived, COMMANDS.get(arrived.command), error))

    def receive_eof(self) -> Rejected | None:
        """Note the end of the stream; see `Connection.receive_eof`."""
        unfinished = 0 if self.closed else self._intake.unfinished
        self.close()
        if not unfinished:
            return None
        error = RemoteProtocolError(
            "a message is complete before the end of file",
            message="header" if unfinished < HEADER_SIZE else "payload",
            field="size",
            value=unfinished,
            section=SECTION,
        )
        return Rejected(error=error, answer=None, fatal=True)

    def close(self) -> None:
        """Close: drop an unfinished message with its fds, and forget what is pending."""
        self.closed = True
        self._intake.close()
        self._outstanding.clear()
        self.open.clear()

    def _take(self, arrived: Arrived) -> Event | None:
        flags = arrived.flags
        row = COMMANDS.get(arrived.command)
        try:
            if flags not in _PLAIN:
                _header_of(arrived).check_flags()
            if is_reply(flags):
                return self._take_reply(arrived)
            return self._take_request(arrived, row)
        except LocalProtocolError as error:
            return self._reject(arrived, row, error)

    def _take_request(self, arrived: Arrived, row: CommandRow | None) -> Request:
        if row is None or row.sender is self._role:
            raise LocalProtocolError(
                f"the command is one that the {self._role.other.value} sends",
                field="command",
                value=arrived.command,
            )
        self._handshake.check(row, no_reply=bool(arrived.flags & NO_REPLY))
        message = self._decode(arrived, row.request)
        if message is None:  # pragma: no cover - every request has a class
            raise LocalProtocolError("a request", field="command", value=row.number)
        request = Request(
            id=arrived.id,
            message=message,
            no_reply=bool(arrived.flags & NO_REPLY),
            fds=arrived.fds,
            size=HEADER_SIZE + len(arrived.payload),
            row=row,
        )
        self._handshake.note(message)
        if not request.no_reply:
            self.open.add(request)
        return request

    def _take_reply(self, arrived: Arrived) -> Reply | None:
        pending = self._outstanding.settle(arrived.id)
        if pending is None:
            close_all(arrived.fds)
            return None
        row = pending.row
        if arrived.command != row.number:
            raise LocalProtocolError(
                f"a reply repeats the command of its request, {row.number}",
                field="command",
                value=arrived.command,
            )
        if arrived.flags & ERROR:
            # Some peers send a body with it, which means nothing.
            return self._failure(arrived, pending)
        message = self._decode(arrived, row.reply)
        require_answers(pending.message, message, len(arrived.fds))
        self._handshake.settle(pending.message, message, len(arrived.fds))
        return Reply(
            id=arrived.id,
            request_message=pending.message,
            message=message,
            error=None,
            fds=arrived.fds,
        )

    def _failure(self, arrived: Arrived, pending: Pending) -> Reply:
        if arrived.error > MAX_ERRNO:
            raise LocalProtocolError(
                f"an error number is 0 to {MAX_ERRNO}", field="error", value=arrived.error
            )
        if arrived.fds or arrived.stray:
            raise LocalProtocolError(
                "no file descriptors come with an error", field="fds", value=len(arrived.fds)
            )
        return Reply(
            id=arrived.id,
            request_message=pending.message,
            message=None,
            error=arrived.error,
            fds=(),
        )

    def _decode(self, arrived: Arrived, part: Part) -> Message | None:
        if arrived.stray:
            raise LocalProtocolError(
                "file descriptors come with a message's first byte",
                field="fds",
                value=arrived.stray,
            )
        payload, size = part.payload, len(arrived.payload)
        if not payload.accepts(size):
            raise LocalProtocolError(payload.size_rule, field="size", value=size)
        message = part.parse(arrived.payload)
        fds = len(arrived.fds)
        require_fds(part, message, fds)
        require_limits(
            message,
            fds,
            max_data_xfer_size=self._limits.max_data_xfer_size,
            max_msg_fds=self._limits.max_msg_fds,
        )
        return message

    def _reject(
        self, arrived: Arrived, row: CommandRow | None, error: LocalProtocolError
    ) -> Rejected:
        close_all(arrived.fds)
        answers = is_reply(arrived.flags)
        fatal = (
            answers or self._handshake.negotiated is None or isinstance(error, FatalProtocolError)
        )
        remote = RemoteProtocolError(
            error.rule,
            message=row.name if row else f"number-{arrived.command}",
            field=error.field,
            value=error.value,
            section=row.section if row else SECTION,
        )
        answer = None
        if not answers and not arrived.flags & NO_REPLY:
            answer = error_frame(arrived.id, arrived.command, errno.EINVAL)
        if fatal:
            self.close()
        return Rejected(error=remote, answer=answer, fatal=fatal)


def _header_of(arrived: Arrived) -> Header:
    return Header(
        id=arrived.id,
        command=arrived.command,
        size=HEADER_SIZE + len(arrived.payload),
        flags=arrived.flags,
        error=arrived.error,
    )
