"""What the handlers of a client's commands work on, and what they answer.

Data only. Specification: vfio-user, "Commands".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accel.vfio_user.dma import DmaTable
    from accel.vfio_user.emulated import DmaRange, EmulatedDevice
    from accel.vfio_user.interrupts import Interrupts
    from protocol.messages import Message
    from vhostuser.fds import OwnedFd

__all__ = ["PCI_IRQS", "PCI_REGIONS", "Answer", "Served"]

PCI_REGIONS = 9
"""Region indices that every PCI device has, be they empty: six BARs, ROM, configuration, VGA."""

PCI_IRQS = 5
"""Interrupt indices that every PCI device has: INTx, MSI, MSI-X, error, request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A device and what its client has given it.

    Attributes:
        device: the device.
        table: what the client has mapped.
        interrupts: what the client wants signalled.
        most_fds: tells how many fds the client takes with one message.
    """

    device: EmulatedDevice
    table: DmaTable[DmaRange]
    interrupts: Interrupts
    most_fds: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client.

    Attributes:
        message: the payload; None: the header alone.
        fds: sent along; they stay their owner's.
    """

    message: Message | None = None
    fds: Sequence[OwnedFd] = ()
