"""A virtio-net driver on driver queues: sends frames and receives them.

Receive buffers lie in guest memory for as long as the driver is open, and go back to the device
when the frame that came in them was taken. Specification: VIRTIO 1.2, section 5.1.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from protocol.virtio import (
    NET_HEADER_SIZE,
    NetFeatures,
    NetHeader,
    VirtioFeatures,
    net_header_size,
)
from vhostuser.frontend.errors import RingError
from vhostuser.frontend.parts import allocate, free, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.frontend.memory import GuestBuffer
    from vhostuser.frontend.queue import DriverQueue

__all__ = ["NET_DRIVER_FEATURES", "NetDriver", "NetFrame"]

NET_DRIVER_FEATURES = VirtioFeatures(
    NetFeatures.MAC
    | NetFeatures.STATUS
    | NetFeatures.MTU
    | NetFeatures.SPEED_DUPLEX
    | NetFeatures.MRG_RXBUF
    | NetFeatures.CTRL_VQ
    | NetFeatures.CTRL_RX
    | NetFeatures.CTRL_RX_EXTRA
    | NetFeatures.CTRL_VLAN
    | NetFeatures.CTRL_MAC_ADDR
    | NetFeatures.GUEST_ANNOUNCE
    | NetFeatures.MQ
)
"""Network features that this driver understands: negotiate them beside the transport's.

Offloads may be negotiated, too: what a header says is for the caller to write and to read."""

_NO_OFFLOADS = NetHeader()
_MERGES = VirtioFeatures(NetFeatures.MRG_RXBUF)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetFrame:
    """A frame that was received.

    Attributes:
        header: what the device wrote before it.
        data: the frame, from the destination's address on.
        buffers: receive buffers that it took.
    """

    header: NetHeader
    data: bytes
    buffers: int


class NetDriver:
    """The driver of one network device. All queues must share one guest memory.

    Close it when the back-end has stopped the rings.

    Args:
        pairs: rings that run, of each pair the one that receives, then the one that sends.
        buffers: receive buffers of each pair; 0: none yet, see `offer`.
        buffer_size: bytes of each.

    Raises:
        MemoryError: guest memory is full.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[DriverQueue, DriverQueue]],
        *,
        buffers: int = 64,
        buffer_size: int = 2048,
    ) -> None:
        self.pairs = tuple(pairs)
        receives, _ = self.pairs[0]
        self._memory = receives.memory
        self._header_size = net_header_size(receives.features)
        self._merges = _MERGES in receives.features
        self._offered: list[dict[int, list[GuestBuffer]]] = [{} for _ in self.pairs]
        for pair in range(len(self.pairs)):
            self.offer(buffers, buffer_size, pair=pair)

    def close(self) -> None:
        """Free the receive buffers; the back-end has stopped the rings."""
        for offered in self._offered:
            for parts in offered.values():
                free(self._memory, parts)
            offered.clear()

    def offer(self, count: int, *sizes: int, pair: int = 0) -> int:
        """Give the device receive buffers.

        Args:
            count: how many, or as many as the ring takes.
            sizes: bytes of each; of more than one: of the parts that each is made of.
            pair: whose.

        Returns:
            How many the ring took.

        Raises:
            RingError: the ring has failed.
            MemoryError: guest memory is full.
        """
        for number in range(count):
            if not self._offer(pair, allocate(self._memory, sizes)):
                return number
        return count

    def _offer(self, pair: int, parts: list[GuestBuffer]) -> bool:
        """Give the device one receive buffer, or free it: there is no room in the ring."""
        receives, _ = self.pairs[pair]
        identity = receives.add([], parts)
        if identity is None:
            free(self._memory, parts)
            return False
        self._offered[pair][identity] = parts
        return True

    async def send(
        self,
        frame: bytes,
        header: NetHeader = _NO_OFFLOADS,
        *,
        pair: int = 0,
        sizes: Sequence[int] = (),
    ) -> None:
        """Send a frame; return when the device has given its buffers back.

        Args:
            frame: from the destination's address on.
            header: what stands before it.
            pair: by which to send it.
            sizes: of buffers that header and frame are cut into; what is left is one more.

        Raises:
            RingError: the ring has failed.
            MemoryError: guest memory is full.
        """
        await self.send_raw(bytes(header)[: self._header_size] + frame, pair=pair, sizes=sizes)

    async def send_raw(self, data: bytes, *, pair: int = 0, sizes: Sequence[int] = ()) -> None:
        """Send bytes, legal or not, in place of a header and a frame. As `send`."""
        _, sends = self.pairs[pair]
        memory = self._memory
        parts = place(memory, data, sizes)
        await sends.lend(parts, [], lambda: free(memory, parts))
        free(memory, parts)

    async def receive(self, *, pair: int = 0) -> NetFrame:
        """Wait for a frame and take it; its buffers are offered anew.

        Cancellation: none was taken, unless it came in several buffers.

        Args:
            pair: by which to receive it.

        Raises:
            RingError: the ring has failed, or what the device wrote is no frame.
        """
        data = await self._take(pair)
        if len(data) < self._header_size:
            index = self.pairs[pair][0].index
            raise RingError(f"ring {index}: {len(data)} bytes are not even a header")
        header = NetHeader.parse(data[: self._header_size].ljust(NET_HEADER_SIZE, b"\0"))
        if self._header_size < NET_HEADER_SIZE:
            header = replace(header, num_buffers=1)  # there is no such field
        frame = [data[self._header_size :]]
        while self._merges and len(frame) < header.num_buffers:
            frame.append(await self._take(pair))
        return NetFrame(header=header, data=b"".join(frame), buffers=len(frame))

    async def _take(self, pair: int) -> bytes:
        """Wait for a receive buffer that the device has filled; return what it wrote there."""
        receives, _ = self.pairs[pair]
        identity, written = await receives.complete_any()
        parts = self._offered[pair].pop(identity)
        data = b"".join(self._memory.read(part.gpa, part.length) for part in parts)
        self._offer(pair, parts)
        if written > len(data):
            raise RingError(
                f"ring {receives.index}: used length {written} of a buffer of {len(data)}"
            )
        return data[:written]
