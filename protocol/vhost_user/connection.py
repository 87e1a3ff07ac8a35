"""One end of one vhost-user channel, without any input or output.

A strict pull parser: `wanted` says how many bytes to read now, a header first (its fds with it),
then exactly its payload, so that fds belong to one message. A request pauses reading (`wanted` 0)
until it was accepted or refused; that keeps order without a queue. Only `RemoteProtocolError` comes
out of `receive` for what a peer sent, a rejected message changes nothing and its fds are closed.
What a message means is the session's business. Specification: vhost-user, "Communication".
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from protocol.vhost_user import messages as m
from protocol.vhost_user.dialect import CURRENT
from protocol.vhost_user.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from protocol.vhost_user.exchange import Incoming, Pending, Reply, Request, Role
from protocol.vhost_user.features import Negotiated, ProtocolFeature, ProtocolFeatures
from protocol.vhost_user.framing import HEADER_SIZE, REPLY_FLAGS, SECTION, Header, frame
from protocol.vhost_user.legality import (
    FatalProtocolError,
    Limits,
    event_of,
    reply_rule,
    require_fds,
    require_legal,
    require_matching,
    require_unlocked,
)
from protocol.vhost_user.rows import Channel, MessageRow, ReplyRule
from protocol.vhost_user.states import (
    CONNECTION,
    ConnectionEvent,
    ConnectionState,
    DeviceTracker,
    RingEvent,
)
from protocol.vhost_user.table import ACK
from protocol.virtio.features import VirtioFeatures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from protocol.messages import Closeable
    from protocol.vhost_user.dialect import Dialect
    from protocol.vhost_user.framing import Outgoing
    from protocol.vhost_user.states import DeviceRun, Postcopy, RingState

__all__ = ["Connection"]

_DEFAULT_LIMITS = Limits()


class Connection:
    """One end of one channel.

    Args:
        role: Which side we are.
        channel: Whose messages the channel carries; the other side answers.
        dialect: The message table to speak by.
        limits: What to accept at most.
        negotiated: For the back-end channel: the front-end channel's, to be shared.
    """

    def __init__(
        self,
        role: Role,
        channel: Channel = Channel.FRONT_END,
        *,
        dialect: Dialect = CURRENT,
        limits: Limits = _DEFAULT_LIMITS,
        negotiated: Negotiated | None = None,
    ) -> None:
        self.role = role
        self.channel = channel
        self.dialect = dialect
        self.limits = limits
        self.negotiated = Negotiated() if negotiated is None else negotiated
        self._asks = role.value == channel.value
        self._state = ConnectionState.IDLE
        self._tracker = DeviceTracker()
        self._incoming: Incoming | None = None
        self._current: Request | None = None
        self._pending: deque[Pending] = deque()

    def __repr__(self) -> str:
        return (
            f"<Connection {self.role.value} on the {self.channel.value} channel, "
            f"{self._state.value}>"
        )

    @property
    def state(self) -> ConnectionState:
        """What this end waits for."""
        return self._state

    @property
    def wanted(self) -> int:
        """Bytes to read and feed next; 0 while a request is carried out, and once closed."""
        match self._state:
            case ConnectionState.IDLE:
                return HEADER_SIZE
            case ConnectionState.PAYLOAD if self._incoming is not None:
                return self._incoming.header.size
            case _:
                return 0

    @property
    def pending(self) -> int:
        """Number of our requests that wait for their answer."""
        return len(self._pending)

    @property
    def run(self) -> DeviceRun:
        """Whether any ring is started."""
        return self._tracker.run

    @property
    def postcopy(self) -> Postcopy:
        """How far post-copy migration has come."""
        return self._tracker.postcopy

    def ring(self, index: int) -> RingState:
        """Return the state of a ring as the accepted messages have made it."""
        return self._tracker.ring(index)

    def ring_broken(self, index: int) -> None:
        """Note that a ring broke the rules; it stays broken until it is stopped."""
        self._tracker.apply(RingEvent.FAULT, index)

    # Receiving

    def receive(self, data: bytes, fds: Sequence[Closeable] = ()) -> Request | Reply | None:
        """Take exactly `wanted` bytes and the fds that came with them.

        Args:
            data: The bytes.
            fds: The descriptors; they are the connection's from here on.

        Returns:
            The request or reply that is now complete, None if its payload is still wanted.

        Raises:
            RemoteProtocolError: The peer broke a rule. Its fds are closed. If `answer` is set, it
                must be sent and the connection goes on; otherwise the connection is closed.
            LocalProtocolError: Another number of bytes was wanted; nothing was taken.
        """
        wanted = self.wanted
        if not wanted or len(data) != wanted:
            raise LocalProtocolError(
                f"feed exactly the {wanted} bytes wanted (state {self._state.value})",
                field="data",
                value=len(data),
            )
        try:
            if self._incoming is None:
                return self._take_header(data, tuple(fds))
            return self._take_payload(self._incoming, data, fds)
        except LocalProtocolError as error:
            raise self._reject(error) from error

    def receive_eof(self, held: int = 0) -> None:
        """Note that the peer has closed its end.

        Args:
            held: Bytes of an unfinished read that were not fed.

        Raises:
            RemoteProtocolError: The end came in the middle of a message.
        """
        incoming = self._incoming
        unfinished = self._state is ConnectionState.PAYLOAD or held > 0
        wanted = self.wanted
        self.close()
        if unfinished:
            row = incoming.row if incoming else None
            raise RemoteProtocolError(
                f"a message is complete before the end of file ({wanted} bytes wanted)",
                message=_name_of(incoming),
                field="size",
                value=held,
                section=row.section if row else SECTION,
            )

    def close(self) -> None:
        """Close this end: drop an unfinished message with its fds; nothing more is wanted."""
        self._move(ConnectionEvent.END)
        self._drop_incoming()

    def _take_header(self, data: bytes, fds: tuple[Closeable, ...]) -> Request | Reply | None:
        try:
            header = Header.parse(data)
        except LocalProtocolError as error:
            _close_all(fds)
            raise _fatal(error) from error
        row = None if self._asks else self.dialect.row(self.channel, header.number)
        incoming = self._incoming = Incoming(header=header, fds=fds, row=row)
        if header.size > self.limits.payload:
            raise FatalProtocolError(
                f"a payload has at most {self.limits.payload} bytes",
                field="size",
                value=header.size,
            )
        if self._asks:
            self._check_reply_header(incoming)
        else:
            self._check_request_header(incoming)
        if header.size:
            self._move(ConnectionEvent.HEADER)
            return None
        return self._complete(incoming, b"")

    def _check_request_header(self, incoming: Incoming) -> None:
        header = incoming.header
        if header.is_reply:
            raise FatalProtocolError(
                "the reply bit is clear in a request", field="flags", value=header.flags
            )
        try:
            self._check_known(incoming)
        except LocalProtocolError as problem:
            if not header.size or self._failure_of(incoming) is None:
                raise
            incoming.problem = problem

    def _check_known(self, incoming: Incoming) -> None:
        header, row = incoming.header, incoming.row
        if row is None:
            raise LocalProtocolError(
                f"the number is one of the {self.dialect.name} message table",
                field="request",
                value=header.number,
            )
        require_unlocked(row, self.negotiated)
        _require_size(header.size, row.payload.accepts(header.size), row.payload.size_rule)
        if len(incoming.fds) > row.fds[1]:
            raise LocalProtocolError(
                f"at most {row.fds[1]} file descriptors come with this message",
                field="fds",
                value=len(incoming.fds),
            )

    def _check_reply_header(self, incoming: Incoming) -> None:
        header = incoming.header
        if not self._pending:
            raise LocalProtocolError(
                "a reply follows a request that asks for one", field="request", value=header.number
            )
        pending = self._pending[0]
        incoming.row = pending.row
        if header.flags != REPLY_FLAGS:
            raise LocalProtocolError(
                f"the flags of a reply are {REPLY_FLAGS:#x}", field="flags", value=header.flags
            )
        if header.number != pending.row.number:
            raise LocalProtocolError(
                f"replies come in the order of their requests, {pending.row.number} is next",
                field="request",
                value=header.number,
            )
        layout = pending.rule.payload
        _require_size(header.size, layout.accepts(header.size), layout.size_rule)

    def _take_payload(
        self, incoming: Incoming, data: bytes, fds: Sequence[Closeable]
    ) -> Request | Reply:
        if fds:
            _close_all(fds)
            raise FatalProtocolError(
                "file descriptors come with the header, not with the payload",
                field="fds",
                value=len(fds),
            )
        if incoming.problem is not None:
            raise incoming.problem
        return self._complete(incoming, data)

    def _complete(self, incoming: Incoming, data: bytes) -> Request | Reply:
        if self._asks:
            return self._complete_reply(incoming, data)
        return self._complete_request(incoming, data)

    def _complete_request(self, incoming: Incoming, data: bytes) -> Request:
        row = incoming.row
        if row is None:  # pragma: no cover - an unknown number was rejected with the header
            raise FatalProtocolError("a number of the message table", field="request")
        message = incoming.message = row.message.from_fields(row.payload.parse(data))
        if not row.drop_fds:
            require_fds(row, message, len(incoming.fds))
        require_legal(row, message, self.limits, self._tracker)
        fds = incoming.fds
        self._incoming = None
        if row.drop_fds:
            _close_all(fds)
            fds = ()
        self._move(ConnectionEvent.REQUEST)
        self._current = Request(
            message=message,
            fds=fds,
            need_reply=incoming.header.need_reply,
            row=row,
            ack=self._ack_asked(incoming.header, message),
        )
        return self._current

    def _complete_reply(self, incoming: Incoming, data: bytes) -> Reply:
        pending = self._pending[0]
        rule = pending.rule
        message = rule.message.from_fields(rule.payload.parse(data))
        require_matching(pending.message, message, rule, len(incoming.fds))
        self._pending.popleft()
        self._incoming = None
        self._move(ConnectionEvent.REPLY)
        if rule is not ACK or message == m.U64(value=0):
            self._commit(pending.row, pending.message)
        return Reply(request_message=pending.message, message=message, fds=incoming.fds)

    def _reject(self, error: LocalProtocolError) -> RemoteProtocolError:
        incoming = self._incoming
        row = incoming.row if incoming else None
        answer = None
        if incoming is not None and not self._asks and not isinstance(error, FatalProtocolError):
            answer = self._failure_of(incoming)
        self._move(ConnectionEvent.REJECTED if answer else ConnectionEvent.FATAL)
        self._drop_incoming()
        remote = RemoteProtocolError(
            error.rule,
            message=_name_of(incoming),
            field=error.field,
            value=error.value,
            section=row.section if row else SECTION,
        )
        remote.answer = answer
        return remote

    def _failure_of(self, incoming: Incoming) -> Outgoing | None:
        ack = self._ack_asked(incoming.header, incoming.message)
        if incoming.row is None:
            return frame(incoming.header.number, _NACK, reply=True) if ack else None
        return self._failure(incoming.row, incoming.message, ack=ack)

    def _failure(self, row: MessageRow, message: m.Message | None, *, ack: bool) -> Outgoing | None:
        rule = reply_rule(row, message, ack=ack, postcopy=self._tracker.postcopy)
        if rule is None or rule.failure is None:
            return None
        failure = rule.failure(message)
        if failure is None:
            return None
        return frame(row.number, rule.payload.build(failure.to_fields()), reply=True)

    def _ack_asked(self, header: Header, message: m.Message | None) -> bool:
        # The message that negotiates REPLY_ACK may itself ask: user-mode Linux does, and waits.
        agreed = self.negotiated.has(ProtocolFeature.REPLY_ACK) or (
            isinstance(message, m.SetProtocolFeatures)
            and ProtocolFeatures.REPLY_ACK in message.features
        )
        return header.need_reply and agreed

    def _drop_incoming(self) -> None:
        if self._incoming is not None:
            fds, self._incoming = self._incoming.fds, None
            _close_all(fds)

    # Answering

    def accept(
        self,
        request: Request,
        answer: m.Message | None = None,
        fds: Sequence[Closeable] = (),
    ) -> Outgoing | None:
        """Answer a request that was carried out, and go on reading.

        Args:
            request: The request that `receive` returned last.
            answer: The reply, for a message that has one of its own with a payload.
            fds: Descriptors to pass along; they remain the caller's.

        Returns:
            What to send: the reply that the table demands, or the acknowledgement asked for. None
            if the request gets no answer, or if the connection was closed meanwhile.

        Raises:
            LocalProtocolError: The answer does not fit the request; nothing has changed.
        """
        self._check_current(request)
        row = request.row
        rule = reply_rule(row, request.message, ack=request.ack, postcopy=self._tracker.postcopy)
        try:
            outgoing = self._success(request, rule, answer, tuple(fds))
        except LocalProtocolError as error:
            raise _named(error, row) from error
        if self._state is ConnectionState.CLOSED:
            self._current = None
            return None
        self._current = None
        self._commit(row, request.message)
        self._move(ConnectionEvent.ANSWERED)
        return outgoing

    def refuse(self, request: Request, error: ProtocolError | OSError | str) -> Outgoing | None:
        """Answer a request that failed and has changed nothing, and go on reading if possible.

        Args:
            request: The request that `receive` returned last.
            error: Why; for the caller's log, the protocol carries no reason.

        Returns:
            What to send: a reply or acknowledgement that reports the failure. None if there is
            none, and the connection is closed then.

        Raises:
            LocalProtocolError: This is not the request that is being carried out.
        """
        self._check_current(request)
        self._current = None
        if self._state is ConnectionState.CLOSED:
            return None
        outgoing = None
        if not isinstance(error, FatalProtocolError):
            outgoing = self._failure(request.row, request.message, ack=request.ack)
        self._move(ConnectionEvent.ANSWERED if outgoing else ConnectionEvent.FATAL)
        return outgoing

    def _check_current(self, request: Request) -> None:
        if request is not self._current:
            raise LocalProtocolError(
                "answer each request once, and only the one that receive() returned last",
                message=request.row.name,
                section=request.row.section,
            )

    def _success(
        self,
        request: Request,
        rule: ReplyRule | None,
        answer: m.Message | None,
        fds: tuple[Closeable, ...],
    ) -> Outgoing | None:
        if rule is None or rule is ACK:
            if answer is not None or fds:
                raise LocalProtocolError(
                    "this message has no reply of its own: accept it without an answer",
                    field="answer",
                    value=answer or len(fds),
                )
            return frame(request.row.number, _ACK, reply=True) if rule else None
        if answer is None and rule.payload.accepts(0):
            answer = rule.message()
        if type(answer) is not rule.message:
            raise LocalProtocolError(
                f"the answer is a {rule.message.__name__}",
                field="answer",
                value=type(answer).__name__,
            )
        require_matching(request.message, answer, rule, len(fds))
        payload = rule.payload.build(answer.to_fields())
        return frame(request.row.number, payload, reply=True, fds=fds)

    # Asking

    def request(
        self, message: m.Message, *, fds: Sequence[Closeable] = (), need_reply: bool = False
    ) -> Outgoing:
        """Make a request of our own.

        Args:
            message: The message.
            fds: Descriptors to pass along; they remain the caller's.
            need_reply: Whether to ask for an acknowledgement; needs REPLY_ACK.

        Returns:
            What to send. If an answer is due, `receive` will return it as a `Reply`.

        Raises:
            LocalProtocolError: The request is not legal here and now; nothing has changed.
        """
        row = self.dialect.row_of(type(message))
        if row is None or not self._asks or row.channel is not self.channel:
            raise LocalProtocolError(
                f"the {self.role.value} sends messages of its own channel as requests",
                message=row.name if row else "",
                field="message",
                value=type(message).__name__,
            )
        try:
            self._check_request(row, message, len(fds), need_reply=need_reply)
            payload = row.payload.build(message.to_fields())
        except LocalProtocolError as error:
            raise _named(error, row) from error
        rule = reply_rule(row, message, ack=need_reply, postcopy=self._tracker.postcopy)
        if rule is None:
            self._commit(row, message)
        else:
            self._pending.append(Pending(row=row, message=message, rule=rule))
        return frame(row.number, payload, need_reply=need_reply, fds=tuple(fds))

    def _check_request(
        self, row: MessageRow, message: m.Message, fds: int, *, need_reply: bool
    ) -> None:
        if self._state is ConnectionState.CLOSED:
            raise LocalProtocolError("a closed connection carries no more requests")
        require_unlocked(row, self.negotiated)
        require_fds(row, message, fds)
        require_legal(row, message, self.limits, self._tracker)
        if need_reply and not self.negotiated.has(ProtocolFeature.REPLY_ACK):
            raise LocalProtocolError(
                "negotiate REPLY_ACK (bit 3) before asking for acknowledgements",
                field="need_reply",
                value=need_reply,
            )

    # Both

    def _commit(self, row: MessageRow, message: m.Message) -> None:
        match message:
            case m.SetFeatures():
                self.negotiated.features = message.features
                if not message.features & VirtioFeatures.PROTOCOL_FEATURES:
                    self._tracker.enable_all()
            case m.SetProtocolFeatures():
                self.negotiated.protocol_features = message.features
            case _:
                event = event_of(row, message)
                index = message.index if isinstance(message, m.RingMessage) else 0
                if event is not None:
                    self._tracker.apply(event, index)

    def _move(self, event: ConnectionEvent) -> None:
        self._state = CONNECTION[self._state][event]


_ACK = ACK.payload.build({"value": 0})
_NACK = ACK.payload.build({"value": 1})


def _require_size(size: int, fits: bool, rule: str) -> None:  # noqa: FBT001
    if not fits:
        raise LocalProtocolError(rule, field="size", value=size)


def _name_of(incoming: Incoming | None) -> str:
    if incoming is None:
        return "header"
    return incoming.row.name if incoming.row else f"number-{incoming.header.number}"


def _fatal(error: LocalProtocolError) -> FatalProtocolError:
    return FatalProtocolError(error.rule, field=error.field, value=error.value)


def _named(error: LocalProtocolError, row: MessageRow) -> LocalProtocolError:
    return LocalProtocolError(
        error.rule, message=row.name, field=error.field, value=error.value, section=row.section
    )


def _close_all(fds: Iterable[Closeable]) -> None:
    for fd in fds:
        fd.close()
