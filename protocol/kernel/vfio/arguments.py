"""What the kernel is given: each function returns the argument of one request."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.kernel.vfio.numbers import IrqIndex

__all__ = [
    "container_argument",
    "dma_map",
    "dma_unmap",
    "dma_unmapped",
    "ioeventfd",
    "irq_eventfds",
    "irqs_off",
]

_DATA_NONE = 1 << 0
_DATA_EVENTFD = 1 << 2
_ACTION_TRIGGER = 1 << 5
_MAP_READ = 1 << 0
_MAP_WRITE = 1 << 1

_S32 = struct.Struct("=i")
_IRQ_SET = struct.Struct("=IIIII")
_IOEVENTFD = struct.Struct("=IIQQiI")
_DMA_MAP = struct.Struct("=IIQQQ")
_DMA_UNMAP = struct.Struct("=IIQQ")


def container_argument(fd: int) -> bytearray:
    """Return the argument of GROUP_SET_CONTAINER."""
    return bytearray(_S32.pack(fd))


def irq_eventfds(index: IrqIndex, start: int, fds: Sequence[int]) -> bytearray:
    """Return the argument of DEVICE_SET_IRQS that has interrupts signal eventfds.

    Args:
        index: the kind of interrupt.
        start: the first interrupt.
        fds: one for each interrupt from there on, or `NO_FD`.
    """
    size = _IRQ_SET.size + _S32.size * len(fds)
    head = _IRQ_SET.pack(size, _DATA_EVENTFD | _ACTION_TRIGGER, index, start, len(fds))
    return bytearray(head + struct.pack(f"={len(fds)}i", *fds))


def irqs_off(index: IrqIndex) -> bytearray:
    """Return the argument of DEVICE_SET_IRQS that turns a kind of interrupt off."""
    return bytearray(_IRQ_SET.pack(_IRQ_SET.size, _DATA_NONE | _ACTION_TRIGGER, index, 0, 0))


def ioeventfd(offset: int, width: int, value: int, fd: int) -> bytearray:
    """Return the argument of DEVICE_IOEVENTFD: a write that an eventfd stands for.

    Args:
        offset: in the device's file.
        width: bytes: 1, 2, 4 or 8. The kernel's flag of a width is that width.
        value: what is written.
        fd: the eventfd, or `NO_FD` to end it.
    """
    return bytearray(_IOEVENTFD.pack(_IOEVENTFD.size, width, offset, value, fd, 0))


def dma_map(*, iova: int, address: int, size: int) -> bytearray:
    """Return the argument of IOMMU_MAP_DMA: let devices read and write memory of this process.

    Args:
        iova: where devices find it.
        address: where it is in this process.
        size: bytes.
    """
    flags = _MAP_READ | _MAP_WRITE
    return bytearray(_DMA_MAP.pack(_DMA_MAP.size, flags, address, iova, size))


def dma_unmap(*, iova: int, size: int) -> bytearray:
    """Return the argument of IOMMU_UNMAP_DMA; the kernel writes into it, see `dma_unmapped`."""
    return bytearray(_DMA_UNMAP.pack(_DMA_UNMAP.size, 0, iova, size))


def dma_unmapped(answer: bytes | bytearray) -> int:
    """Return how many bytes IOMMU_UNMAP_DMA took away."""
    size: int = _DMA_UNMAP.unpack_from(answer)[3]
    return size
