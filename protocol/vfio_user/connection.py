"""One end of one vfio-user connection, without any input or output.

What was read goes into `receive`, in any pieces; events come out, in order. A request of the peer
is answered by `reply` or `refuse`, whenever that may be: requests of both sides cross. Nothing that
a peer sends raises: a message that breaks a rule becomes a `Rejected` event, has changed nothing,
and its fds are closed. What a command means is the business of others. Specification: vfio-user,
"Header" and "Commands".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from protocol.vfio_user import formats as f
from protocol.vfio_user import messages as m
from protocol.vfio_user.errors import (
    FatalProtocolError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocol.vfio_user.exchange import (
    Limits,
    Negotiated,
    Pending,
    Rejected,
    Reply,
    Request,
    agree,
)
from protocol.vfio_user.framing import (
    ERROR,
    HEADER_SIZE,
    MAX_ERRNO,
    NO_REPLY,
    REPLY,
    SECTION,
    Header,
    error_frame,
    frame,
)
from protocol.vfio_user.intake import Intake, close_all
from protocol.vfio_user.legality import require_answers, require_fds, require_limits
from protocol.vfio_user.outstanding import Outstanding
from protocol.vfio_user.table import COMMANDS, row_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.messages import Closeable, Message
    from protocol.vfio_user.exchange import Event
    from protocol.vfio_user.framing import Outgoing
    from protocol.vfio_user.intake import Arrived
    from protocol.vfio_user.rows import CommandRow, Part, Role

__all__ = ["Connection"]

_DEFAULT_LIMITS = Limits()
_HEAD = 32  # the longest fixed part in front of data
_PLAIN = (0, NO_REPLY, REPLY)


class Connection:
    """One end of one connection.

    Args:
        role: Which side we are.
        limits: What to accept of the peer at most.
        negotiated: For the twin socket: what was agreed on the first one. None: nothing yet, and
            VERSION comes first.

    Attributes:
        role: Which side we are.
        limits: What to accept of the peer at most.
        negotiated: What was agreed; None before.
        closed: Whether it has ended: nothing more comes out of `receive`.
    """

    def __init__(
        self,
        role: Role,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        negotiated: Negotiated | None = None,
    ) -> None:
        self.role = role
        self.limits = limits
        self.negotiated = negotiated
        self.closed = False
        largest = max(f.MAX_JSON, f.MAX_INFO, limits.max_data_xfer_size * 3)
        self._intake = Intake(HEADER_SIZE + _HEAD + largest, _brings_fds)
        self._outstanding = Outstanding(limits.max_pending)
        self._open: set[Request] = set()
        self._proposed = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "agreed" if self.negotiated else "new"
        return f"<Connection {self.role.value}, {state}>"

    @property
    def pending(self) -> int:
        """Number of our requests that wait for their answer."""
        return self._outstanding.count

    # Receiving

    def receive(self, data: bytes, fds: Sequence[Closeable] = ()) -> list[Event]:
        """Take what one read of the socket returned.

        Args:
            data: The bytes, cut anywhere.
            fds: The descriptors that this read returned; they are the connection's from here on.

        Returns:
            What is complete now, in the order in which it came. After a fatal `Rejected`, which is
            always the last, the connection is closed.
        """
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
        """Note that the peer has closed its end, and close this one.

        Returns:
            A rejection if that was in the middle of a message.
        """
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
        """Close this end: drop an unfinished message with its fds, and forget what is pending."""
        self.closed = True
        self._intake.close()
        self._outstanding.clear()
        self._open.clear()

    def _take(self, arrived: Arrived) -> Event | None:
        flags = arrived.flags
        row = COMMANDS.get(arrived.command)
        try:
            if flags not in _PLAIN:
                _header_of(arrived).check_flags()
            if flags & (REPLY | ERROR):
                return self._take_reply(arrived)
            return self._take_request(arrived, row)
        except LocalProtocolError as error:
            return self._reject(arrived, row, error)

    def _take_request(self, arrived: Arrived, row: CommandRow | None) -> Request:
        if row is None or row.sender is self.role:
            raise LocalProtocolError(
                f"the command is one that the {self.role.other.value} sends",
                field="command",
                value=arrived.command,
            )
        self._check_turn(row, no_reply=bool(arrived.flags & NO_REPLY))
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
        if isinstance(message, m.Version):
            self._proposed = True
        if not request.no_reply:
            self._open.add(request)
        return request

    def _check_turn(self, row: CommandRow, *, no_reply: bool) -> None:
        is_version = row.request.message is m.Version
        if is_version and (self._proposed or self.negotiated):
            raise LocalProtocolError("VERSION comes once", field="command", value=row.number)
        if is_version and no_reply:
            raise LocalProtocolError("VERSION wants an answer", field="flags", value=NO_REPLY)
        if not is_version and self.negotiated is None:
            raise LocalProtocolError(
                "VERSION comes first, and is answered", field="command", value=row.number
            )
        if row.request.message is m.RegionWriteMulti and not (
            self.negotiated and self.negotiated.write_multiple
        ):
            raise LocalProtocolError(
                "write_multiple is agreed in VERSION before it is used",
                field="command",
                value=row.number,
            )

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
        if isinstance(message, m.VersionReply) and isinstance(pending.message, m.Version):
            self.negotiated = agree(pending.message, message, len(arrived.fds))
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
            max_data_xfer_size=self.limits.max_data_xfer_size,
            max_msg_fds=self.limits.max_msg_fds,
        )
        return message

    def _reject(
        self, arrived: Arrived, row: CommandRow | None, error: LocalProtocolError
    ) -> Rejected:
        close_all(arrived.fds)
        is_reply = bool(arrived.flags & (REPLY | ERROR))
        fatal = is_reply or self.negotiated is None or isinstance(error, FatalProtocolError)
        remote = RemoteProtocolError(
            error.rule,
            message=row.name if row else f"number-{arrived.command}",
            field=error.field,
            value=error.value,
            section=row.section if row else SECTION,
        )
        answer = None
        if not is_reply and not arrived.flags & NO_REPLY:
            answer = error_frame(arrived.id, arrived.command, errno.EINVAL)
        if fatal:
            self.close()
        return Rejected(error=remote, answer=answer, fatal=fatal)

    # Answering

    def reply(
        self, request: Request, message: Message | None = None, *, fds: Sequence[Closeable] = ()
    ) -> Outgoing | None:
        """Answer a request that was carried out.

        A reply that does not fit into the room that the peer has is cut to its fixed part; its fds
        do not go along then.

        Args:
            request: One that `receive` returned and that was not answered yet.
            message: The reply, for a command that has one.
            fds: Descriptors to pass along; they remain the caller's.

        Returns:
            What to send; None if the peer wants no answer, or the connection is closed.

        Raises:
            LocalProtocolError: The reply does not fit the request; nothing has changed.
        """
        if request.no_reply or self.closed:
            return None
        self._check_open(request)
        row = request.row
        try:
            message, fds = _fit(request.message, message, tuple(fds))
            self._check_reply(request, message, len(fds))
            payload = row.reply.build(message)
            agreed = self.negotiated
            if isinstance(message, m.VersionReply) and isinstance(request.message, m.Version):
                agreed = agree(request.message, message, len(fds))
        except LocalProtocolError as error:
            raise _named(error, row) from error
        self.negotiated = agreed
        self._open.discard(request)
        return frame(request.id, row.number, REPLY, payload, fds)

    def _check_reply(self, request: Request, message: Message | None, fds: int) -> None:
        part = request.row.reply
        expected = part.message or type(None)
        if type(message) is not expected:
            raise LocalProtocolError(
                f"the reply is {expected.__name__}", field="message", value=type(message).__name__
            )
        require_fds(part, message, fds)
        require_answers(request.message, message, fds)
        if self.negotiated is not None and fds > self.negotiated.max_msg_fds:
            raise LocalProtocolError(
                f"the peer takes {self.negotiated.max_msg_fds} file descriptors at most",
                field="fds",
                value=fds,
            )

    def refuse(self, request: Request, error: int) -> Outgoing | None:
        """Answer a request that failed and has changed nothing.

        Args:
            request: One that `receive` returned and that was not answered yet.
            error: Why: an error number.

        Returns:
            What to send; None if the peer wants no answer, or the connection is closed. If the
            request was VERSION, close the connection when that was sent.

        Raises:
            LocalProtocolError: The request is not open, or this is no error number.
        """
        if not 1 <= error <= MAX_ERRNO:
            raise LocalProtocolError(
                f"an error number is 1 to {MAX_ERRNO}", field="error", value=error
            )
        if request.no_reply or self.closed:
            return None
        self._check_open(request)
        self._open.discard(request)
        return error_frame(request.id, request.row.number, error)

    def _check_open(self, request: Request) -> None:
        if request not in self._open:
            raise LocalProtocolError(
                "answer each request once, and only those that receive() returned",
                message=request.row.name,
                section=request.row.section,
            )

    # Asking

    def request(
        self, message: Message, *, fds: Sequence[Closeable] = (), no_reply: bool = False
    ) -> Outgoing:
        """Make a request of our own.

        Args:
            message: The message.
            fds: Descriptors to pass along; they remain the caller's.
            no_reply: Whether no answer is wanted; the request is posted then.

        Returns:
            What to send. Unless it is posted, `receive` will return a `Reply` with its id.

        Raises:
            LocalProtocolError: The request is not legal here and now, or too many are pending;
                nothing has changed.
        """
        row = row_of(type(message))
        if row is None or row.request.message is not type(message) or row.sender is not self.role:
            raise LocalProtocolError(
                f"the {self.role.value} sends commands of its own",
                message=row.name if row else "",
                field="message",
                value=type(message).__name__,
            )
        try:
            if self.closed:
                raise LocalProtocolError("a closed connection carries no more requests")  # noqa: TRY301
            self._check_turn(row, no_reply=no_reply)
            require_fds(row.request, message, len(fds))
            if self.negotiated is not None:
                require_limits(
                    message,
                    len(fds),
                    max_data_xfer_size=self.negotiated.max_data_xfer_size,
                    max_msg_fds=self.negotiated.max_msg_fds,
                )
            payload = row.request.build(message)
            number = self._outstanding.add(None if no_reply else Pending(row, message))
        except LocalProtocolError as error:
            raise _named(error, row) from error
        if isinstance(message, m.Version):
            self._proposed = True
        flags = NO_REPLY if no_reply else 0
        return frame(number, row.number, flags, payload, tuple(fds))

    def forget(self, number: int) -> None:
        """Wait no more for the answer to one of our requests: drop it when it comes.

        Args:
            number: The request's id; one that is not pending is ignored.
        """
        self._outstanding.forget(number)


def _brings_fds(command: int, flags: int) -> bool:
    row = COMMANDS.get(command)
    if row is None or flags & ERROR:
        return False
    part = row.reply if flags & REPLY else row.request
    return part.fds[1] > 0


def _fit(
    request: Message, reply: Message | None, fds: tuple[Closeable, ...]
) -> tuple[Message | None, tuple[Closeable, ...]]:
    """Cut a reply to its fixed part if the peer has no room for all of it."""
    if (
        isinstance(reply, m.Described)
        and isinstance(request, m.Query)
        and reply.needed > request.argsz
    ):
        return reply.cut(), ()
    return reply, fds


def _header_of(arrived: Arrived) -> Header:
    return Header(
        id=arrived.id,
        command=arrived.command,
        size=HEADER_SIZE + len(arrived.payload),
        flags=arrived.flags,
        error=arrived.error,
    )


def _named(error: LocalProtocolError, row: CommandRow) -> LocalProtocolError:
    return LocalProtocolError(
        error.rule, message=row.name, field=error.field, value=error.value, section=row.section
    )
