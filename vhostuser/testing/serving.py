"""Serves a device in this process: the real server on a real socket, while a block lasts."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import CURRENT
from vhostuser.server import ListeningEndpoint, Server, bind_unix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from protocol.vhost_user import Dialect
    from vhostuser.devices import Device

__all__ = ["serving"]


@contextlib.asynccontextmanager
async def serving(
    path: Path, device: Device, *, seconds: float = 10.0, dialect: Dialect = CURRENT
) -> AsyncIterator[Server]:
    """Serve `device` on the UNIX socket `path` for the length of the block.

    The current session, if there is one, ends with the block. Set the server's `notify` before
    anything is awaited to hear of every front-end.

    Args:
        path: where to listen; removed at the end.
        device: what to serve; it must outlive the block.
        seconds: how long a message that has begun, or an answer, may take.
        dialect: of the protocol.

    Raises:
        UsageError: the path cannot be used.
    """
    endpoint = ListeningEndpoint(bind_unix(path), path)
    with contextlib.closing(endpoint):
        async with trio.open_nursery() as nursery:
            server = Server(device=device, endpoint=endpoint, seconds=seconds, dialect=dialect)
            nursery.start_soon(server.run)
            yield server
            nursery.cancel_scope.cancel()
