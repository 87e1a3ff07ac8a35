"""Messages in words, for logs, decoders and the control socket.

Specification: none; a field keeps the name it has in the typed message.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from protocol.vhost_user.dialect import CURRENT
from protocol.vhost_user.errors import show_value
from protocol.vhost_user.features import ProtocolFeatures, feature_names
from protocol.vhost_user.messages import MemRegion, Message
from protocol.virtio.features import VirtioFeature, VirtioFeatures

if TYPE_CHECKING:
    from protocol.vhost_user.dialect import Dialect

__all__ = ["describe", "name_protocol_features", "name_virtio_features"]

_VIRTIO_NAMES = {each.value: each.name for each in VirtioFeature}


def name_protocol_features(bits: int, dialect: Dialect = CURRENT) -> str:
    """Return the protocol features in a mask by name, as in "MQ|REPLY_ACK|bit40"."""
    return feature_names(bits, dialect.feature_names)


def name_virtio_features(bits: int) -> str:
    """Return the device-independent virtio features in a mask by name, others as "bit<n>"."""
    return feature_names(bits, _VIRTIO_NAMES)


def describe(message: Message, dialect: Dialect = CURRENT) -> str:
    """Return one line that names a message and all its fields.

    Args:
        message: A request or a reply.
        dialect: The message table from which the name is taken.
    """
    row = dialect.row_of(type(message))
    name = row.name if row else type(message).__name__
    shown = (
        f"{field.name}={_show(getattr(message, field.name), dialect)}" for field in fields(message)
    )
    return " ".join((name, *shown))


def _show(value: object, dialect: Dialect) -> str:
    match value:
        case ProtocolFeatures():
            return name_protocol_features(int(value), dialect)
        case VirtioFeatures():
            return name_virtio_features(int(value))
        case MemRegion():
            return (
                f"{{gpa={value.gpa:#x} size={value.size:#x} "
                f"uva={value.uva:#x} offset={value.offset:#x}}}"
            )
        case tuple():
            return f"[{' '.join(_show(each, dialect) for each in value)}]"
        case _:
            return show_value(value)
