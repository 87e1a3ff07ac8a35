"""Serves an emulated device to one vfio-user client at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

    from accel.vfio_user.emulated import EmulatedDevice
    from vhostuser.server import Endpoint

__all__ = ["serve", "serve_connection"]


async def serve(endpoint: Endpoint, device: EmulatedDevice) -> None:
    """Serve clients one after the other until there are no more.

    Cancellable: the current client is left, and the device left clean.

    Args:
        endpoint: where clients come from; stays the caller's.
        device: what to serve.

    Raises:
        OSError: the endpoint failed.
    """
    while (sock := await endpoint.accept()) is not None:
        await serve_connection(sock, device)


async def serve_connection(sock: trio.socket.SocketType, device: EmulatedDevice) -> None:
    """Serve one client until it leaves, or breaks the protocol.

    Cancellable: the device is left clean.

    Args:
        sock: taken over.
        device: what to serve.
    """
    raise NotImplementedError
