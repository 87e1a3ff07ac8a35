"""The queues of a device: programmed, enabled, suspended, reset.

Specification: VIRTIO 1.2, 4.1.5.1.3 "Virtqueue Configuration", 2.6 "Virtqueues".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from accel.virtio_pci.structure import eventually
from protocol.virtio import RingArea, VirtioFeatures, is_ring_size, ring_area_alignment
from protocol.virtio.pci import CommonRegister
from vhostuser.errors import AcceleratorError

if TYPE_CHECKING:
    from accel.virtio_pci.discovery import Offer
    from accel.virtio_pci.negotiation import Negotiation
    from accel.virtio_pci.queue_state import QueueStates
    from accel.virtio_pci.structure import CommonConfig
    from vhostuser.datapath import QueueAddresses
    from vhostuser.virtqueue import RingState

__all__ = ["Queues"]

_ADDRESS_LIMIT = 1 << 64


class Queues:
    """All queues of a device.

    Args:
        common: the device's common configuration.
        offer: how many queues there are, and how large.
        negotiation: the device's status and features.
        states: suspends queues; None: the device cannot.
    """

    def __init__(
        self,
        common: CommonConfig,
        offer: Offer,
        negotiation: Negotiation,
        states: QueueStates | None,
    ) -> None:
        self._common = common
        self._offer = offer
        self._negotiation = negotiation
        self._states = states
        self._name = negotiation.name
        self._enabled: dict[int, int] = {}
        self._were_reset: set[int] = set()

    def forget(self) -> None:
        """Note that the device was reset."""
        self._enabled.clear()
        self._were_reset.clear()

    async def start(
        self, index: int, vector: int, addresses: QueueAddresses, state: RingState | None
    ) -> None:
        """Program a queue and enable it.

        Args:
            index: queue.
            vector: what it interrupts with.
            addresses: where its areas are.
            state: where to go on; None: at the beginning.

        Raises:
            OSError: it cannot have that, or the device refused or is gone.
        """
        self._check(index, addresses, state)
        await self._negotiation.require_ready()
        await self._common.write(CommonRegister.QUEUE_SELECT, index)
        if await self._common.read(CommonRegister.QUEUE_ENABLE):
            raise AcceleratorError(
                f"queue {index} of {self._name} runs; it must be stopped first", number=errno.EBUSY
            )
        for register, value in (
            (CommonRegister.QUEUE_SIZE, addresses.num),
            (CommonRegister.QUEUE_MSIX_VECTOR, vector),
        ):
            await self._write_checked(index, register, value)
        await self._common.write(CommonRegister.QUEUE_DESC, addresses.desc)
        await self._common.write(CommonRegister.QUEUE_DRIVER, addresses.driver)
        await self._common.write(CommonRegister.QUEUE_DEVICE, addresses.device)
        if self._states is not None:
            await self._states.write(index, state, packed=self._negotiation.packed)
        await self._write_checked(index, CommonRegister.QUEUE_ENABLE, 1)
        self._enabled[index] = addresses.num

    async def _write_checked(self, index: int, register: CommonRegister, value: int) -> None:
        if not await self._common.write_checked(register, value):
            raise AcceleratorError(
                f"queue {index} of {self._name} does not take {value} as its "
                f"{register.name.lower()}"
            )

    def _check(self, index: int, addresses: QueueAddresses, state: RingState | None) -> None:
        if not 0 <= index < len(self._offer.queue_sizes):
            raise AcceleratorError(f"{self._name} has no queue {index}", number=errno.EINVAL)
        if state is not None and self._states is None:
            raise AcceleratorError(
                f"{self._name} can start queues at the beginning only", number=errno.ENOTSUP
            )
        late = self._states is not None or index in self._were_reset
        if self._negotiation.running and not late:
            raise AcceleratorError(
                f"{self._name} runs, and its queues can be started before that only",
                number=errno.EBUSY,
            )
        packed = self._negotiation.packed
        largest = self._offer.queue_sizes[index]
        if addresses.num > largest or not is_ring_size(addresses.num, packed=packed):
            raise AcceleratorError(
                f"queue {index} of {self._name} has up to {largest} descriptors, a split ring a "
                f"power of two, not {addresses.num}",
                number=errno.EINVAL,
            )
        areas = (addresses.desc, addresses.driver, addresses.device)
        for area, address in zip(RingArea, areas, strict=True):
            alignment = ring_area_alignment(area, packed=packed)
            if not 0 <= address < _ADDRESS_LIMIT or address % alignment:
                raise AcceleratorError(
                    f"the {area.name.lower()} area of a queue is at a multiple of {alignment}, "
                    f"not at {address:#x}",
                    number=errno.EINVAL,
                )

    async def suspend(self, index: int) -> RingState | None:
        """Stop a queue; return where it stands. None: it cannot be stopped so.

        Raises:
            OSError: it does not stop, or the device is gone.
        """
        if self._states is None or index not in self._enabled:
            return None
        packed = self._negotiation.packed
        state = await self._states.suspend(index, self._enabled[index], packed=packed)
        del self._enabled[index]
        return state

    async def reset(self, index: int) -> bool:
        """Reset a queue, by RING_RESET; return whether the device can do that.

        Raises:
            OSError: it does not do it in time, or is gone.
        """
        if not self._negotiation.has(VirtioFeatures.RING_RESET) or index not in self._enabled:
            return False
        common = self._common
        await common.write(CommonRegister.QUEUE_SELECT, index)
        await common.write(CommonRegister.QUEUE_RESET, 1)

        async def is_reset() -> bool:
            return (
                await common.read(CommonRegister.QUEUE_RESET) == 0
                and await common.read(CommonRegister.QUEUE_ENABLE) == 0
            )

        if not await eventually(is_reset, self._negotiation.patience):
            raise AcceleratorError(
                f"queue {index} of {self._name} does not reset",
                number=errno.ETIMEDOUT,
            )
        del self._enabled[index]
        self._were_reset.add(index)
        return True
