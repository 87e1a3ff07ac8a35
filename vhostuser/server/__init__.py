"""The server: endpoints, exact reads with fds, and plans carried out, under trio."""

from vhostuser.server.endpoint import (
    ConnectedEndpoint,
    ConnectingEndpoint,
    Endpoint,
    ListeningEndpoint,
    bind_unix,
    endpoint_from_fd,
    systemd_fd,
)
from vhostuser.server.server import ServedConnection, Server
from vhostuser.stream import MessageStream

__all__ = [
    "ConnectedEndpoint",
    "ConnectingEndpoint",
    "Endpoint",
    "ListeningEndpoint",
    "MessageStream",
    "ServedConnection",
    "Server",
    "bind_unix",
    "endpoint_from_fd",
    "systemd_fd",
]
