"""The errors of the protocol: ours (local) and the peer's (remote).

`Connection.receive` lets nothing but `RemoteProtocolError` out for what a peer sent; errors of the
environment (OSError and its kin) do not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.errors import LocalProtocolError, ProtocolError, show_value

if TYPE_CHECKING:
    from protocol.vhost_user.framing import Outgoing

__all__ = ["LocalProtocolError", "ProtocolError", "RemoteProtocolError", "show_value"]


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule; its message was rejected, its fds closed, and nothing has changed.

    Attributes:
        answer: What to send before going on with this connection; None if the protocol leaves no
            way to report the error, and the connection is closed.
    """

    answer: Outgoing | None = None
