"""Words for a request that is well-formed but that this session cannot accept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.vhost_user import RemoteProtocolError

if TYPE_CHECKING:
    from protocol.vhost_user import Message

__all__ = ["refusal"]


def refusal(
    message: Message, field: str, value: object, rule: str, section: str
) -> RemoteProtocolError:
    """Make the error that refuses a request.

    Args:
        message: the request.
        field: the part of it that is not acceptable.
        value: what it held.
        rule: what the specification, or this device, demands instead.
        section: where the specification says so.
    """
    return RemoteProtocolError(
        rule, message=type(message).__name__, field=field, value=value, section=section
    )
