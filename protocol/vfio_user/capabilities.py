"""The JSON text in VERSION: what each side can do, and how much of it.

Every value is checked for type and range; names that are not known are ignored, as they may come
from a newer version. Specification: vfio-user, "VERSION", capabilities.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from protocol.messages import require
from protocol.vfio_user.errors import LocalProtocolError

__all__ = [
    "DEFAULT_DATA_XFER_SIZE",
    "DEFAULT_DMA_MAPS",
    "DEFAULT_MSG_FDS",
    "DEFAULT_PGSIZES",
    "Capabilities",
    "MigrationCapability",
    "TwinSocket",
    "build_capabilities",
    "parse_capabilities",
]

DEFAULT_MSG_FDS = 1
DEFAULT_DATA_XFER_SIZE = 1 << 20
DEFAULT_DMA_MAPS = 65535
DEFAULT_PGSIZES = 4096

_MOST_FDS = 1024
_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinSocket:
    """The second socket, which carries the server's commands.

    Attributes:
        supported: Client: whether it wants one. Server: whether it gives one.
        fd_index: Server: which of the reply's fds it is.
    """

    supported: bool
    fd_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationCapability:
    """How dirty pages are reported; None where the sender does not say.

    Attributes:
        pgsize: Bytes that one bit of a bitmap stands for.
        max_bitmap_size: Bytes of the largest bitmap.
    """

    pgsize: int | None = None
    max_bitmap_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one side says of itself; None where it does not say, and the default holds.

    Attributes:
        max_msg_fds: Fds that one message may bring to it.
        max_data_xfer_size: Bytes of data that one message may move.
        max_dma_maps: Mappings that it keeps at a time.
        pgsizes: Page sizes of its mappings, one bit each.
        twin_socket: Of the second socket.
        write_multiple: Whether it understands REGION_WRITE_MULTI.
        migration: How dirty pages are reported.
    """

    max_msg_fds: int | None = None
    max_data_xfer_size: int | None = None
    max_dma_maps: int | None = None
    pgsizes: int | None = None
    twin_socket: TwinSocket | None = None
    write_multiple: bool | None = None
    migration: MigrationCapability | None = None


def parse_capabilities(data: bytes) -> Capabilities:
    """Return what the JSON text says, its NUL included; no bytes at all say nothing.

    Raises:
        LocalProtocolError: It is no JSON object, or a value has the wrong type or range.
    """
    if not data:
        return Capabilities()
    require(
        data.find(0) == len(data) - 1, "the JSON text ends in one NUL", field="data", value=data
    )
    try:
        parsed = json.loads(data[:-1].decode())
    except (ValueError, RecursionError) as error:
        raise LocalProtocolError(
            "the capabilities are JSON in UTF-8", field="data", value=data
        ) from error
    values = _object(_object(parsed, "data").get("capabilities", {}), "capabilities")
    return Capabilities(
        max_msg_fds=_number(values, "max_msg_fds", 0, _MOST_FDS),
        max_data_xfer_size=_number(values, "max_data_xfer_size", 1, _U64),
        max_dma_maps=_number(values, "max_dma_maps", 0, _U64),
        pgsizes=_number(values, "pgsizes", 1, _U64),
        twin_socket=_twin_socket(values),
        write_multiple=_truth(values, "write_multiple"),
        migration=_migration(values),
    )


def build_capabilities(capabilities: Capabilities) -> bytes:
    """Return the JSON text with its NUL; values that are None are left out."""
    values: dict[str, Any] = {}
    for name in ("max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes", "write_multiple"):
        _put(values, name, getattr(capabilities, name))
    if (twin := capabilities.twin_socket) is not None:
        _put(inner := {"supported": twin.supported}, "fd_index", twin.fd_index)
        values["twin_socket"] = inner
    if (migration := capabilities.migration) is not None:
        inner = {}
        _put(inner, "pgsize", migration.pgsize)
        _put(inner, "max_bitmap_size", migration.max_bitmap_size)
        values["migration"] = inner
    return json.dumps({"capabilities": values}).encode() + b"\0"


def _put(values: dict[str, Any], name: str, value: int | None) -> None:
    if value is not None:
        values[name] = value


def _object(value: object, field: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise LocalProtocolError(f"{field} is a JSON object", field=field, value=_shown(value))
    return value


def _number(values: dict[str, object], name: str, low: int, high: int) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise LocalProtocolError(
            f"{name} is a whole number from {low} to {high:#x}", field=name, value=_shown(value)
        )
    return value


def _truth(values: dict[str, object], name: str) -> bool | None:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise LocalProtocolError(f"{name} is true or false", field=name, value=_shown(value))
    return value


def _twin_socket(values: dict[str, object]) -> TwinSocket | None:
    if (value := values.get("twin_socket")) is None:
        return None
    inner = _object(value, "twin_socket")
    return TwinSocket(
        supported=bool(_truth(inner, "supported")),
        fd_index=_number(inner, "fd_index", 0, _MOST_FDS),
    )


def _migration(values: dict[str, object]) -> MigrationCapability | None:
    if (value := values.get("migration")) is None:
        return None
    inner = _object(value, "migration")
    return MigrationCapability(
        pgsize=_number(inner, "pgsize", 1, _U64),
        max_bitmap_size=_number(inner, "max_bitmap_size", 0, _U64),
    )


def _shown(value: object) -> str:
    # A number of thousands of digits is slow to print, and its printing may be refused.
    return "a number" if isinstance(value, int) and not 0 <= value <= _U64 else repr(value)[:40]
