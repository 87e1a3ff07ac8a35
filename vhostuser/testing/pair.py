"""Two protocol connections joined in memory: what one sends, the other receives.

Specification: "Communication".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.vhost_user import CURRENT, Channel, Connection, Negotiated, Reply, Request, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.vhost_user import Closeable, Dialect, Message, Outgoing, ProtocolError

__all__ = ["ConnectionPair", "deliver"]


def deliver(outgoing: Outgoing, to: Connection) -> Request | Reply | None:
    """Feed a message to its receiver, as many bytes at a time as that wants.

    Args:
        outgoing: what the sender's connection gave.
        to: the receiver's connection.

    Returns:
        What the receiver made of it; None if bytes were left that it did not want.

    Raises:
        RemoteProtocolError: the receiver rejected it.
    """
    data, fds = outgoing.data, outgoing.fds
    while data and to.wanted:
        part, data = data[: to.wanted], data[to.wanted :]
        received = to.receive(part, fds)
        fds = ()
        if received is not None:
            return received
    return None


class ConnectionPair:
    """A front-end and a back-end, each a sans-I/O connection of one channel.

    Args:
        channel: whose messages the pair carries.
        dialect: version of the protocol on both sides.
        negotiated: what each side holds as negotiated at the start; None: nothing.
    """

    def __init__(
        self,
        channel: Channel = Channel.FRONT_END,
        *,
        dialect: Dialect = CURRENT,
        negotiated: Negotiated | None = None,
    ) -> None:
        agreed = negotiated or Negotiated()

        def connection(role: Role) -> Connection:
            copy = Negotiated(agreed.features, agreed.protocol_features)
            return Connection(role, channel, dialect=dialect, negotiated=copy)

        self.front_end = connection(Role.FRONT_END)
        self.back_end = connection(Role.BACK_END)
        front_asks = channel is Channel.FRONT_END
        self.requester = self.front_end if front_asks else self.back_end
        self.responder = self.back_end if front_asks else self.front_end

    def request(
        self, message: Message, *, fds: Sequence[Closeable] = (), need_reply: bool = False
    ) -> Request:
        """Send a request; return it as the responder received it.

        Raises:
            LocalProtocolError: the requester may not send it now.
            RemoteProtocolError: the responder rejected it.
        """
        outgoing = self.requester.request(message, fds=tuple(fds), need_reply=need_reply)
        received = deliver(outgoing, self.responder)
        if not isinstance(received, Request):
            raise TypeError(f"the responder did not take {message!r} for a request")
        return received

    def accept(
        self, request: Request, answer: Message | None = None, *, fds: Sequence[Closeable] = ()
    ) -> Reply | None:
        """Accept a request; return the reply as it was received, None where none is due."""
        return self._answered(self.responder.accept(request, answer, fds=tuple(fds)))

    def refuse(self, request: Request, error: ProtocolError | OSError | str) -> Reply | None:
        """Refuse a request; return the reply, or None where none is possible."""
        return self._answered(self.responder.refuse(request, error))

    def call(
        self,
        message: Message,
        answer: Message | None = None,
        *,
        fds: Sequence[Closeable] = (),
        need_reply: bool = False,
    ) -> Reply | None:
        """Send a request and accept it; return the reply, or None where none is due."""
        return self.accept(self.request(message, fds=fds, need_reply=need_reply), answer)

    def _answered(self, outgoing: Outgoing | None) -> Reply | None:
        if outgoing is None:
            return None
        received = deliver(outgoing, self.requester)
        if not isinstance(received, Reply):
            raise TypeError("the requester did not take the answer for a reply")
        return received
