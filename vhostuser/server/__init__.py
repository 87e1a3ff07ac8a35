"""The server: endpoints, exact reads with fds, and plans carried out, under trio."""

from vhostuser.server.endpoint import (
    ConnectedEndpoint,
    ConnectingEndpoint,
    Endpoint,
    ListeningEndpoint,
    OwnPath,
    bind_unix,
    endpoint_from_fd,
    group_number,
    is_live,
    require_socket_path,
)
from vhostuser.server.server import ServedConnection, Server
from vhostuser.server.systemd import systemd_notify, systemd_sockets
from vhostuser.stream import MessageStream

__all__ = [
    "ConnectedEndpoint",
    "ConnectingEndpoint",
    "Endpoint",
    "ListeningEndpoint",
    "MessageStream",
    "OwnPath",
    "ServedConnection",
    "Server",
    "bind_unix",
    "endpoint_from_fd",
    "group_number",
    "is_live",
    "require_socket_path",
    "systemd_notify",
    "systemd_sockets",
]
