"""The doorbells of a device: rung by a store, by an eventfd, by a write; or handed to a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.virtio.pci import DOORBELL_WIDTH
from vhostuser.datapath import EventfdDoorbell, MappedDoorbell
from vhostuser.errors import AcceleratorError
from vhostuser.fds import Closing

if TYPE_CHECKING:
    from accel.pci import MappedArea, PciDevice
    from accel.virtio_pci.discovery import Layout, Offer
    from vhostuser.datapath import NotifyArea
    from vhostuser.fds import OwnedFd

__all__ = ["Doorbells"]


class Doorbells(Closing):
    """Every queue's doorbell. What is stored there is the queue's index, in 16 bits.

    Args:
        device: whose they are; close this before it.
        layout: where its structures are.
        offer: where in the notification structure they are.
    """

    def __init__(self, device: PciDevice, layout: Layout, offer: Offer) -> None:
        self._device = device
        self._layout = layout
        self._bar = layout.notify.bar
        self._places = tuple(layout.notify.offset + offset for offset in offer.doorbells)
        self._whole: MappedArea | None = None
        self._mapped: dict[int, tuple[MappedArea, int]] = {}
        self._eventfds: dict[int, OwnedFd] = {}

    def map(self) -> None:
        """Map all doorbells in one piece, if the device allows: one map costs one descriptor.

        Raises:
            OSError: the host refused.
        """
        first = min(self._places)
        size = max(self._places) + DOORBELL_WIDTH - first
        self._whole = self._device.map_area(self._bar, first, size)
        if self._whole is not None:
            self._mapped = {
                index: (self._whole, place - first) for index, place in enumerate(self._places)
            }

    async def prepare(self, index: int) -> None:
        """Find the quickest way to ring a queue's doorbell.

        Raises:
            OSError: the device is gone, or the host is out of file descriptors.
        """
        if index in self._mapped or index in self._eventfds:
            return
        place = self._places[index]
        area = self._device.map_area(self._bar, place, DOORBELL_WIDTH)
        if area is not None:
            self._mapped[index] = (area, 0)
            return
        eventfd = await self._device.doorbell_fd(self._bar, place, DOORBELL_WIDTH, index)
        if eventfd is not None:
            self._eventfds[index] = eventfd

    def doorbell(self, index: int) -> MappedDoorbell | EventfdDoorbell | None:
        """How the engine rings it, once it is prepared. See `Accelerator.doorbell`."""
        if index in self._mapped:
            area, offset = self._mapped[index]
            address = area.address(offset, DOORBELL_WIDTH)
            return MappedDoorbell(address=address, width=DOORBELL_WIDTH, value=index)
        if index in self._eventfds:
            return EventfdDoorbell(fd=self._eventfds[index].duplicate())
        return None

    async def ring(self, index: int) -> None:
        """Ring it. Raises OSError: the device is gone."""
        await self._device.write(self._bar, self._places[index], DOORBELL_WIDTH, index)

    def notify_area(self, index: int, page_size: int) -> NotifyArea:
        """Return the page that holds a queue's doorbell and nothing else of the device.

        Raises:
            AcceleratorError: there is none, in words.
        """
        place = self._places[index]
        self._require_own_page(index, place, page_size)
        return self._device.share_area(self._bar, place, page_size)

    def _require_own_page(self, index: int, place: int, page_size: int) -> None:
        notify = self._layout.notify
        end = place + page_size
        if len(self._places) > 1 and notify.multiplier < page_size:
            raise AcceleratorError(
                f"page-per-vq=off: doorbells are {notify.multiplier} bytes apart, so that a page "
                f"of {page_size} bytes holds those of other queues too (QEMU puts them 4096 bytes "
                "apart with page-per-vq=on)"
            )
        for other, at in enumerate(self._places):
            if other != index and place <= at + DOORBELL_WIDTH - 1 and at < end:
                raise AcceleratorError(f"queue {other} has its doorbell in the same page")
        if place % page_size:
            raise AcceleratorError(
                f"the doorbell is at byte {place % page_size} of a page of {page_size}, and a "
                "driver would write to byte 0"
            )
        if end > notify.end:
            raise AcceleratorError(
                f"the notification structure ends within the doorbell's page of {page_size} bytes"
            )
        for name, bar, offset, size in self._layout.others():
            if bar == self._bar and offset < end and place < offset + size:
                raise AcceleratorError(f"the device's {name} lies in the doorbell's page")

    def close(self) -> None:
        """Unmap and close them all; no `MappedDoorbell` may be rung any more."""
        areas = {area for area, _ in self._mapped.values()}
        self._mapped.clear()
        for area in areas:
            area.close()
        while self._eventfds:
            self._eventfds.popitem()[1].close()
