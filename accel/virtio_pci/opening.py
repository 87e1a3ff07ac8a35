"""Opening a virtio PCI device: look at all that it says, and refuse early and in words."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import trio

from accel.virtio_pci.accelerator import Parts, VirtioPciAccelerator
from accel.virtio_pci.config import DeviceConfig
from accel.virtio_pci.discovery import read_layout, read_offer
from accel.virtio_pci.doorbells import Doorbells
from accel.virtio_pci.negotiation import Negotiation
from accel.virtio_pci.queue_state import QueueStates
from accel.virtio_pci.queues import Queues
from accel.virtio_pci.structure import CommonConfig
from accel.virtio_pci.vectors import Vectors
from protocol.virtio import VirtioFeatures
from vhostuser.datapath import AcceleratorIdentity
from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from accel.pci import PciDevice
    from accel.virtio_pci.discovery import Offer

__all__ = ["open_virtio"]

_log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def open_virtio(
    device: PciDevice, *, name: str | None = None, patience: float = 5.0
) -> AsyncIterator[VirtioPciAccelerator]:
    """Drive a virtio PCI device for the length of the block: reset before and after.

    Args:
        device: stays the caller's, open until the block has ended. Nothing of it is mapped, and
            none of its vectors is bound, after that.
        name: for messages to people; the device's own unless given.
        patience: how long the device may take to reset or to stop a queue, in seconds.

    Raises (on entering):
        UsageError: it is no virtio device, or one that cannot be driven; the text says why.
        OSError: the device is gone, or breaks the rules of virtio.
    """
    name = name or device.name
    layout = await read_layout(device, name)
    common = CommonConfig(device, layout.common)
    negotiation = Negotiation(device, common, name=name, patience=patience)
    await negotiation.reset()
    await negotiation.acknowledge()
    offer = await read_offer(common, layout, name)
    _require_iommu(device, offer, name)
    place = layout.function.queue_state
    states = None if place is None else QueueStates(device, place, patience)
    async with contextlib.AsyncExitStack() as undo:
        doorbells = undo.enter_context(Doorbells(device, layout, offer))
        doorbells.map()
        vectors = Vectors(device, len(offer.queue_sizes))
        undo.push_async_callback(vectors.close)
        await vectors.open()
        undo.push_async_callback(_leave, negotiation, name)
        accelerator = VirtioPciAccelerator(
            AcceleratorIdentity(device_id=layout.function.device_type, name=name),
            negotiation.offer(offer.features, layout),
            offer.queue_sizes,
            has_states=states is not None,
            parts=Parts(
                device=device,
                common=common,
                negotiation=negotiation,
                queues=Queues(common, offer, negotiation, states),
                doorbells=doorbells,
                vectors=vectors,
                config=DeviceConfig(device, common, layout.function.device),
            ),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accelerator.watch_presence)
            nursery.start_soon(accelerator.watch_config)
            try:
                yield accelerator
            finally:
                nursery.cancel_scope.cancel()


def _require_iommu(device: PciDevice, offer: Offer, name: str) -> None:
    """Refuse a device that would pass by the IOMMU of the host.

    Without ACCESS_PLATFORM a device takes the guest's addresses for the host's.
    """
    group = device.group()
    if group is None:
        return
    group.close()
    if not offer.features & VirtioFeatures.ACCESS_PLATFORM:
        raise UsageError(
            f"{name} does not offer ACCESS_PLATFORM: it would reach the host's memory past the "
            "IOMMU (QEMU: iommu_platform=on)"
        )


async def _leave(negotiation: Negotiation, name: str) -> None:
    """Leave the device touching no memory."""
    with trio.CancelScope(shield=True):
        try:
            await negotiation.reset()
        except OSError as error:
            _log.warning("%s was left as it is: %s", name, error)
