"""What all typed messages share: the base class and the checks of values.

A message object that breaks a rule on its own values cannot be built: the constructor raises
`LocalProtocolError`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from protocol.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Closeable", "Message", "require", "require_range"]

_SPACE = 1 << 64


class Closeable(Protocol):
    """A file descriptor as an object that somebody owns; the protocols know no more of it."""

    def close(self) -> None:
        """Give the descriptor back to the system."""


def require(holds: bool, rule: str, *, field: str, value: object) -> None:  # noqa: FBT001
    """Raise an error that names field, value and rule unless the rule holds.

    Raises:
        LocalProtocolError: The rule does not hold.
    """
    if not holds:
        raise LocalProtocolError(rule, field=field, value=value)


def require_range(start: int, size: int, *, field: str) -> None:
    """Check that a range is not empty and does not pass the end of a 64-bit space, in bytes.

    Raises:
        LocalProtocolError: It is or does.
    """
    require(size > 0, "a range has at least one byte", field="size", value=size)
    require(
        0 <= start < _SPACE and start + size <= _SPACE,
        f"{field} + size ({size:#x}) does not pass 2^64",
        field=field,
        value=start,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Anything that travels as the payload of one message, request or reply."""

    WIRE: ClassVar[Mapping[str, str]] = {}
    """Attributes whose name in the payload's layout is another one."""

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {
            self.WIRE.get(field.name, field.name): getattr(self, field.name)
            for field in fields(self)
        }

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: A value breaks a rule.
        """
        names = {wire: name for name, wire in cls.WIRE.items()}
        return cls(**{names.get(wire, wire): value for wire, value in values.items()})

    def fd_count(self) -> int | None:
        """Return how many fds must come along; None if only the table's limits apply."""
        return None
