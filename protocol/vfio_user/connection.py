"""One end of one vfio-user connection, without any input or output.

What was read goes into `receive`, in any pieces; events come out, in order. A request of the peer
is answered by `reply` or `refuse`, whenever that may be: requests of both sides cross. Nothing that
a peer sends raises: a message that breaks a rule becomes a `Rejected` event, has changed nothing,
and its fds are closed. What a command means is the business of others. Specification: vfio-user,
"Header" and "Commands".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.vfio_user import messages as m
from protocol.vfio_user.errors import LocalProtocolError
from protocol.vfio_user.exchange import Limits, Pending, Rejected, Request
from protocol.vfio_user.framing import MAX_ERRNO, NO_REPLY, REPLY, error_frame, frame
from protocol.vfio_user.handshake import Handshake
from protocol.vfio_user.legality import require_answers, require_fds, require_limits
from protocol.vfio_user.outstanding import Outstanding
from protocol.vfio_user.receiving import Receiver
from protocol.vfio_user.table import row_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.messages import Closeable, Message
    from protocol.vfio_user.exchange import Event
    from protocol.vfio_user.framing import Outgoing
    from protocol.vfio_user.handshake import Negotiated
    from protocol.vfio_user.rows import CommandRow, Role

__all__ = ["Connection"]

_DEFAULT_LIMITS = Limits()


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
        self._handshake = Handshake(role, limits, negotiated)
        self._outstanding = Outstanding(limits.max_pending)
        self._receiver = Receiver(role, limits, self._handshake, self._outstanding)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "agreed" if self.negotiated else "new"
        return f"<Connection {self.role.value}, {state}>"

    @property
    def closed(self) -> bool:
        """Whether it has ended: nothing more comes out of `receive`."""
        return self._receiver.closed

    @property
    def negotiated(self) -> Negotiated | None:
        """What was agreed in VERSION; None before."""
        return self._handshake.negotiated

    @property
    def pending(self) -> int:
        """Number of our requests that wait for their answer."""
        return self._outstanding.count

    @property
    def overdue(self) -> int:
        """Number of our requests that were forgotten before their answer came."""
        return self._outstanding.forgotten

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
        return self._receiver.receive(data, fds)

    def receive_eof(self) -> Rejected | None:
        """Note that the peer has closed its end, and close this one.

        Returns:
            A rejection if that was in the middle of a message.
        """
        return self._receiver.receive_eof()

    def close(self) -> None:
        """Close this end: drop an unfinished message with its fds, and forget what is pending."""
        self._receiver.close()

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
            self._handshake.settle(request.message, message, len(fds))
        except LocalProtocolError as error:
            raise _named(error, row) from error
        self._receiver.open.discard(request)
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
        self._receiver.open.discard(request)
        return error_frame(request.id, request.row.number, error)

    def _check_open(self, request: Request) -> None:
        if request not in self._receiver.open:
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
            self._handshake.check(row, no_reply=no_reply)
            require_fds(row.request, message, len(fds))
            self._check_limits(message, len(fds))
            payload = row.request.build(message)
            number = self._outstanding.add(None if no_reply else Pending(row, message))
        except LocalProtocolError as error:
            raise _named(error, row) from error
        self._handshake.note(message)
        flags = NO_REPLY if no_reply else 0
        return frame(number, row.number, flags, payload, tuple(fds))

    def _check_limits(self, message: Message, fds: int) -> None:
        if self.negotiated is None:
            return
        require_limits(
            message,
            fds,
            max_data_xfer_size=self.negotiated.max_data_xfer_size,
            max_msg_fds=self.negotiated.max_msg_fds,
        )

    def next_id(self) -> int:
        """Return the id that the next request will get.

        A thread that makes the messages of every access itself (see `hot`) gives them this id, so
        that `request`, called afterwards, makes the same message and `receive` knows its answer.
        """
        return self._outstanding.next()

    def forget(self, number: int) -> None:
        """Wait no more for the answer to one of our requests: drop it when it comes.

        Args:
            number: The request's id; one that is not pending is ignored.
        """
        self._outstanding.forget(number)


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


def _named(error: LocalProtocolError, row: CommandRow) -> LocalProtocolError:
    return LocalProtocolError(
        error.rule, message=row.name, field=error.field, value=error.value, section=row.section
    )
