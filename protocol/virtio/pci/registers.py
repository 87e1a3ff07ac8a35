"""The common configuration structure as a table, and what its fields hold.

One row a field: offset, width, access. A field is accessed at its own width, aligned; one of 64
bits as two halves of 32. Specification: VIRTIO 1.2, 4.1.4.3 "Common configuration structure
layout", 4.1.4.4 "Notification structure layout", 2.1 "Device Status Field".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    class _Row(Protocol):
        @property
        def value(self) -> Register: ...


__all__ = [
    "COMMON_SIZE",
    "COMMON_SIZE_WITH_RESET",
    "DOORBELL_WIDTH",
    "FEATURE_WORDS",
    "GONE",
    "MSI_NO_VECTOR",
    "CommonRegister",
    "DeviceStatus",
    "IsrStatus",
    "Register",
    "find_register",
    "notify_offset",
]

MSI_NO_VECTOR = 0xFFFF
"""What a vector field holds when no vector is assigned, or the device refused the one written."""
FEATURE_WORDS = 2
"""Words of 32 feature bits that mean something today, chosen by the select fields."""
DOORBELL_WIDTH = 2
"""Bytes of a notification without NOTIFICATION_DATA: the queue's index."""
_HALF = 4


@dataclass(frozen=True, slots=True)
class Register:
    """One field of a structure in a BAR.

    Attributes:
        offset: bytes from the structure's beginning.
        width: bytes.
        writable: whether the driver may write it.
        per_queue: whether it shows the queue that the select field chooses.
    """

    offset: int
    width: int
    writable: bool = False
    per_queue: bool = False

    @property
    def end(self) -> int:
        """Bytes that a structure must have to hold this field."""
        return self.offset + self.width


class CommonRegister(enum.Enum):
    """The fields of the common configuration structure."""

    DEVICE_FEATURE_SELECT = Register(0, 4, writable=True)
    DEVICE_FEATURE = Register(4, 4)
    DRIVER_FEATURE_SELECT = Register(8, 4, writable=True)
    DRIVER_FEATURE = Register(12, 4, writable=True)
    CONFIG_MSIX_VECTOR = Register(16, 2, writable=True)
    NUM_QUEUES = Register(18, 2)
    DEVICE_STATUS = Register(20, 1, writable=True)
    CONFIG_GENERATION = Register(21, 1)
    """Changes whenever a driver could have read half of an old device configuration."""
    QUEUE_SELECT = Register(22, 2, writable=True)
    QUEUE_SIZE = Register(24, 2, writable=True, per_queue=True)
    """The largest size after a reset, 0: there is no such queue; then the size in use."""
    QUEUE_MSIX_VECTOR = Register(26, 2, writable=True, per_queue=True)
    QUEUE_ENABLE = Register(28, 2, writable=True, per_queue=True)
    QUEUE_NOTIFY_OFF = Register(30, 2, per_queue=True)
    QUEUE_DESC = Register(32, 8, writable=True, per_queue=True)
    QUEUE_DRIVER = Register(40, 8, writable=True, per_queue=True)
    QUEUE_DEVICE = Register(48, 8, writable=True, per_queue=True)
    QUEUE_NOTIF_CONFIG_DATA = Register(56, 2, per_queue=True)
    """Only with NOTIF_CONFIG_DATA."""
    QUEUE_RESET = Register(58, 2, writable=True, per_queue=True)
    """Only with RING_RESET: 1 is written to reset the queue, and reads as 1 until that is done."""


COMMON_SIZE = CommonRegister.QUEUE_DEVICE.value.end
"""Bytes that every common configuration structure has."""
COMMON_SIZE_WITH_RESET = CommonRegister.QUEUE_RESET.value.end
"""Bytes up to and with the fields that need a feature of their own."""


class DeviceStatus(enum.IntFlag, boundary=enum.KEEP):
    """How far a driver has come with a device; 0 resets it."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    """The device met an error from which only a reset helps."""
    FAILED = 128
    """The driver gave up."""


GONE = 0xFF
"""The status of a device that is not there any more: reads of it give all ones."""


class IsrStatus(enum.IntFlag, boundary=enum.KEEP):
    """The ISR structure's one byte; reading clears it. Of use only without MSI-X."""

    QUEUE = 1
    CONFIG = 2


def find_register(table: Iterable[_Row], offset: int, width: int) -> tuple[_Row, int] | None:
    """Find the row of a table that an access is meant for; None: it fits none.

    Args:
        table: such as `CommonRegister`.
        offset: bytes from the structure's beginning.
        width: bytes.

    Returns:
        The row, and the first bit of the field that is accessed: 32 for the upper half of one of 64
        bits, else 0.
    """
    for row in table:
        register = row.value
        if (offset, width) == (register.offset, register.width):
            return row, 0
        if register.width == 2 * _HALF and width == _HALF:
            half = offset - register.offset
            if half in {0, _HALF}:
                return row, 8 * half
    return None


def notify_offset(queue_notify_off: int, multiplier: int, length: int) -> int:
    """Return where in the notification structure a queue's doorbell is, in bytes.

    Args:
        queue_notify_off: as the common configuration says for that queue.
        multiplier: as the capability says: a power of two, at least 2, or 0.
        length: bytes of the structure.

    Raises:
        ValueError: the doorbell would not lie inside the structure.
    """
    offset = queue_notify_off * multiplier
    if offset + DOORBELL_WIDTH > length:
        raise ValueError(
            f"queue_notify_off {queue_notify_off} times {multiplier} lies beyond the notification "
            f"structure's {length} bytes"
        )
    return offset
