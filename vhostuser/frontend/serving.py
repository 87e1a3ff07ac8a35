"""Requests of the back-end to the front-end: answered one at a time, or refused.

A front-end may leave them unanswered while a request of its own is under way, and so does this one:
the lock that it is given is held during each of those. Specification: "Back-end message types".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from protocol.vhost_user import ConfigChange, RemoteProtocolError, ReplyKind, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vhostuser.frontend.channel import MessageChannel

__all__ = ["accept_config_change", "serve_backend_channel"]


def accept_config_change(request: Request) -> bool:
    """Accept news of a changed configuration space, and nothing else."""
    return isinstance(request.message, ConfigChange)


async def serve_backend_channel(
    channel: MessageChannel,
    between_requests: trio.Lock,
    accept: Callable[[Request], Awaitable[bool]],
) -> None:
    """Answer the back-end's requests until it closes the channel or breaks the protocol.

    Args:
        channel: the back-end channel, closed in the end.
        between_requests: held by whoever waits for an answer on the main channel.
        accept: told of each request; False: it is refused. The request's fds are closed afterwards,
            those that it did not take over.
    """
    try:
        while True:
            try:
                received = await channel.receive()
            except RemoteProtocolError as error:
                if error.answer is None:
                    return
                await channel.send(error.answer)
                continue
            if not isinstance(received, Request):
                return
            async with between_requests:
                await _answer(channel, received, accept)
    except trio.ClosedResourceError:
        return
    finally:
        channel.close()


async def _answer(
    channel: MessageChannel, request: Request, accept: Callable[[Request], Awaitable[bool]]
) -> None:
    try:
        accepted = await accept(request)
        # Whoever asked for no acknowledgement hears of no refusal either, and may go on.
        if accepted or (request.row.reply.kind is ReplyKind.NONE and not request.ack):
            outgoing = channel.connection.accept(request)
        else:
            outgoing = channel.connection.refuse(request, "this front-end does not serve it")
    finally:
        for fd in request.fds:
            fd.close()
    if outgoing is not None:
        await channel.send(outgoing)
