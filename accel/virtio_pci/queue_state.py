"""A device's queue state structure: suspending a queue, and where it stands.

What it means: `protocol.virtio.pci.queue_state`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from accel.virtio_pci.structure import Structure, eventually
from protocol.virtio.pci import (
    QueueCommand,
    QueueStateRegister,
    QueueStatus,
    decode_position,
    encode_position,
)
from vhostuser.errors import AcceleratorError
from vhostuser.virtqueue import RingState

if TYPE_CHECKING:
    from accel.pci import PciDevice
    from protocol.virtio.pci import QueueStateCapability

__all__ = ["QueueStates"]

_BEGINNING = RingState(avail=0, used=0)


class QueueStates:
    """The queue state structure of a device.

    Args:
        device: whose it is.
        place: where it is.
        patience: how long a queue may take to finish what it has taken, in seconds.
    """

    def __init__(self, device: PciDevice, place: QueueStateCapability, patience: float) -> None:
        self._structure = Structure(device, place)
        self._patience = patience

    async def write(self, index: int, state: RingState | None, *, packed: bool) -> None:
        """Say where a queue is to start; None: at the beginning.

        Raises:
            OSError: that is no position, or the device is gone.
        """
        position = state or _BEGINNING
        try:
            avail = encode_position(position.avail, wrap=position.avail_wrap, packed=packed)
            used = encode_position(position.used, wrap=position.used_wrap, packed=packed)
        except ValueError as error:
            raise AcceleratorError(f"queue {index}: {error}", number=errno.EINVAL) from error
        await self._structure.write(QueueStateRegister.QUEUE_SELECT, index)
        await self._structure.write(QueueStateRegister.AVAIL, avail)
        await self._structure.write(QueueStateRegister.USED, used)

    async def suspend(self, index: int, num: int, *, packed: bool) -> RingState:
        """Stop a queue; return where it stands.

        Args:
            index: queue.
            num: its size in descriptors.
            packed: its layout.

        Raises:
            OSError: it does not stop, says where it cannot be, or the device is gone.
        """
        structure = self._structure
        await structure.write(QueueStateRegister.QUEUE_SELECT, index)
        await structure.write(QueueStateRegister.COMMAND, QueueCommand.SUSPEND)
        status = QueueStatus.SUSPENDING.value

        async def settled() -> bool:
            nonlocal status
            status = await structure.read(QueueStateRegister.STATUS)
            return status not in {QueueStatus.ENABLED, QueueStatus.SUSPENDING}

        if not await eventually(settled, self._patience):
            raise AcceleratorError(
                f"queue {index} has not stopped within {self._patience:g} s", number=errno.ETIMEDOUT
            )
        if status != QueueStatus.SUSPENDED:
            raise AcceleratorError(f"queue {index} does not stop, its status is {status}")
        avail = await structure.read(QueueStateRegister.AVAIL)
        used = await structure.read(QueueStateRegister.USED)
        return _checked(avail, used, index, num, packed=packed)


def _checked(avail: int, used: int, index: int, num: int, *, packed: bool) -> RingState:
    """Return the position that registers hold, if a ring of `num` descriptors can be there."""
    offset, wrap = decode_position(avail, packed=packed)
    if avail != used or (packed and offset >= num):  # apart: something of it is in flight
        raise AcceleratorError(
            f"queue {index} of {num} descriptors says that it stands at {avail:#x}, {used:#x}"
        )
    return RingState(avail=offset, used=offset, avail_wrap=wrap, used_wrap=wrap)
