"""A client of the control socket, and a guest at a port's socket."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import trio

from vhostuser.frontend import TRANSPORT_FEATURES, FrontendClient, GuestMemory, NetDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from protocol.virtio import VirtioFeatures

__all__ = ["ControlClient", "controlling", "guest_at"]


class ControlClient:
    """A client of the control socket.

    Args:
        stream: connected to it.

    Attributes:
        events: those that came while an answer was waited for.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.events: list[dict[str, Any]] = []
        self._buffer = b""

    async def read(self) -> Any:
        """Return the next object; None at the end."""
        while b"\n" not in self._buffer:
            more = await self.stream.receive_some()
            if not more:
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    async def execute(self, name: str, **members: Any) -> Any:
        """Give a command; return the whole answer."""
        await self.stream.send_all(json.dumps({"execute": name, **members}).encode())
        while "event" in (answer := await self.read()):
            self.events.append(answer)
        return answer

    async def ask(self, name: str, **arguments: Any) -> Any:
        """Give a command with these arguments ("_" stands for "-"); return what it returned."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        answer = await self.execute(name, arguments=named)
        assert "return" in answer, answer
        return answer["return"]


@contextlib.asynccontextmanager
async def controlling(path: Path, *, negotiate: bool = True) -> AsyncIterator[ControlClient]:
    """Be connected to a control socket."""
    async with await trio.open_unix_socket(os.fspath(path)) as stream:
        client = ControlClient(stream)
        assert "QMP" in await client.read()
        if negotiate:
            assert await client.execute("qmp_capabilities") == {"return": {}}
        yield client


@contextlib.asynccontextmanager
async def guest_at(
    path: Path, features: VirtioFeatures = TRANSPORT_FEATURES
) -> AsyncIterator[NetDriver]:
    """Have a guest whose card is at a socket, with one pair of queues that run."""
    with GuestMemory() as memory:
        async with FrontendClient.connect(path, memory) as client:
            await client.negotiate(features=features, queues=2)
            receives, sends = client.setup_queue(0), client.setup_queue(1)
            await client.start()
            yield NetDriver([(receives, sends)], buffers=16)
