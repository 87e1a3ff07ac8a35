"""The messages of every access from and to their payloads, by the structs of `hot`.

They do what the messages' layouts and constructors do; tests hold the two equal. Specification:
vfio-user, REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from protocol.addresses import Iova
from protocol.vfio_user import messages as m
from protocol.vfio_user.errors import LocalProtocolError
from protocol.vfio_user.hot import DMA, REGION

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.messages import Message

__all__ = ["BUILDERS", "PARSERS"]


def _region_access(kind: Any) -> Callable[[bytes], Message]:  # noqa: ANN401 - one of two classes
    def parse(data: bytes) -> Message:
        offset, region, count = REGION.unpack(data)
        return kind(offset=offset, region=region, count=count)  # type: ignore[no-any-return]

    return parse


def _region_data(kind: Any) -> Callable[[bytes], Message]:  # noqa: ANN401 - one of two classes
    def parse(data: bytes) -> Message:
        offset, region, count = REGION.unpack_from(data)
        _check_count(count, len(data) - REGION.size)
        return kind(offset=offset, region=region, data=data[REGION.size :])  # type: ignore[no-any-return]

    return parse


def _dma_access(kind: Any) -> Callable[[bytes], Message]:  # noqa: ANN401 - one of two classes
    def parse(data: bytes) -> Message:
        address, count = DMA.unpack(data)
        return kind(address=Iova(address), count=count)  # type: ignore[no-any-return]

    return parse


def _dma_data(kind: Any) -> Callable[[bytes], Message]:  # noqa: ANN401 - one of two classes
    def parse(data: bytes) -> Message:
        address, count = DMA.unpack_from(data)
        _check_count(count, len(data) - DMA.size)
        return kind(address=Iova(address), data=data[DMA.size :])  # type: ignore[no-any-return]

    return parse


def _check_count(count: int, held: int) -> None:
    if count != held:
        raise LocalProtocolError(
            f"count is the number of bytes that follow, here {held}", field="count", value=count
        )


PARSERS: dict[type[Message], Callable[[bytes], Message]] = {
    m.RegionRead: _region_access(m.RegionRead),
    m.RegionReadReply: _region_data(m.RegionReadReply),
    m.RegionWrite: _region_data(m.RegionWrite),
    m.RegionWriteReply: _region_access(m.RegionWriteReply),
    m.DmaRead: _dma_access(m.DmaRead),
    m.DmaReadReply: _dma_data(m.DmaReadReply),
    m.DmaWrite: _dma_data(m.DmaWrite),
    m.DmaWriteReply: _dma_access(m.DmaWriteReply),
}
"""By message: what makes it of a payload of legal size."""


def _pack(layout: struct.Struct, *values: int) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise LocalProtocolError(
            f"each value fits its field: {error}", field="payload", value=values
        ) from error


def _build_region_access(message: Any) -> bytes:  # noqa: ANN401 - one of two classes
    return _pack(REGION, message.offset, message.region, message.count)


def _build_region_data(message: Any) -> bytes:  # noqa: ANN401 - one of two classes
    return _pack(REGION, message.offset, message.region, len(message.data)) + bytes(message.data)


def _build_dma_access(message: Any) -> bytes:  # noqa: ANN401 - one of two classes
    return _pack(DMA, message.address, message.count)


def _build_dma_data(message: Any) -> bytes:  # noqa: ANN401 - one of two classes
    return _pack(DMA, message.address, len(message.data)) + bytes(message.data)


BUILDERS: dict[type[Message], Callable[[Any], bytes]] = {
    m.RegionRead: _build_region_access,
    m.RegionReadReply: _build_region_data,
    m.RegionWrite: _build_region_data,
    m.RegionWriteReply: _build_region_access,
    m.DmaRead: _build_dma_access,
    m.DmaReadReply: _build_dma_data,
    m.DmaWrite: _build_dma_data,
    m.DmaWriteReply: _build_dma_access,
}
"""By message: what makes a payload of it."""
