"""Messages in words, for logs and decoders.

Specification: none; a field keeps the name it has in the typed message.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from protocol.vfio_user.errors import show_value
from protocol.vfio_user.table import row_of

if TYPE_CHECKING:
    from protocol.vfio_user.messages import IoFd, Message

__all__ = ["describe"]

_PARTS_SHOWN = 8


def describe(message: Message) -> str:
    """Return one line that names a message and all its fields.

    Args:
        message: A request or a reply.
    """
    row = row_of(type(message))
    name = row.name if row else type(message).__name__
    if row is not None and row.request.message is not type(message):
        name += "_REPLY"
    return " ".join((name, *_fields(message)))


def _fields(value: Message | IoFd) -> list[str]:
    return [f"{field.name}={_show(getattr(value, field.name))}" for field in fields(value)]


def _show(value: object) -> str:
    match value:
        case tuple():
            shown = [f"{{{' '.join(_fields(each))}}}" for each in value[:_PARTS_SHOWN]]
            more = ["..."] if len(value) > _PARTS_SHOWN else []
            return f"[{' '.join(shown + more)}]"
        case _:
            return show_value(value)
