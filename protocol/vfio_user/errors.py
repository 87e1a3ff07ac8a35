"""The errors of vfio-user: ours (local) and the peer's (remote).

A `RemoteProtocolError` never leaves `Connection.receive` as an exception: it comes inside a
`Rejected` event, in its place among the messages around it. Specification: vfio-user, "Header".
"""

from __future__ import annotations

from protocol.errors import LocalProtocolError, ProtocolError, show_value

__all__ = ["FatalProtocolError", "LocalProtocolError", "RemoteProtocolError", "show_value"]


class FatalProtocolError(LocalProtocolError):
    """A rule without which the stream makes no sense was broken."""


class RemoteProtocolError(ProtocolError):
    """The peer broke a rule; its message was rejected, its fds closed, and nothing has changed."""
