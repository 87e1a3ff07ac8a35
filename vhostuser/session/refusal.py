"""Why a request that is well-formed cannot be accepted by this session."""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):  # noqa: N818 - it is an answer, and becomes a RemoteProtocolError
    """A handler's "no"; the session adds the message and the specification's section.

    Args:
        field: the part of the request that is not acceptable.
        value: what it held.
        rule: what the specification, or this device, demands instead.
    """

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(rule)
        self.field = field
        self.value = value
        self.rule = rule
