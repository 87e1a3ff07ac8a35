"""Queue state: how a driver stops one queue, learns where it stands, and starts it anywhere.

Virtio knows no such thing, so this is a vendor capability (cfg_type 9) of our own. Drivers that do
not know it need not care: without it a device behaves as the specification has it.

**Finding it.** `QueueStateCapability` gives vendor id, magic, version, and the place of a structure
of `QUEUE_STATE_SIZE` bytes in a BAR, aligned to 4. A driver checks vendor id, magic and version,
and passes over anything else.

**The registers** (`QueueStateRegister`), each accessed at its own width:

=============  ======  =====  ======  =========================================================
field          offset  bytes  access  meaning
=============  ======  =====  ======  =========================================================
queue_select   0       2      rw      which queue the others are about; independent of the common
                                      configuration's field
command        2       2      w       a `QueueCommand` for the selected queue; reads as 0
status         4       2      r       the selected queue's `QueueStatus`; IDLE beyond the last queue
avail          8       2      rw      position in the available ring
used           10      2      rw      position in the used ring
=============  ======  =====  ======  =========================================================

**A position** is 16 bits. Split ring: the free-running index of the next entry. Packed ring: the
offset of the next descriptor in bits 0 to 14, below the queue's size, and the wrap counter in bit
15.

**Starting.** A queue is enabled as ever, by `queue_enable` of the common configuration, with one
addition: if `avail` and `used` were written since the last reset, or the queue was suspended since,
it starts there; otherwise at the beginning (both 0; packed: both 0x8000). A position that the ring
cannot have (packed: an offset at or above the size; split: more than the ring's size between `used`
and `avail`) breaks the queue: FAILED. Writes to both are ignored unless the status is IDLE or
SUSPENDED. Queues may be enabled while the device runs (DRIVER_OK).

**Suspending.** SUSPEND makes an ENABLED queue SUSPENDING: the device takes no more requests from it
and finishes those that it took, used entries and interrupts included. A buffer that waits for
something to arrive (a receive queue's) was not taken. Then the queue is SUSPENDED: the device does
not touch its memory, `avail` and `used` say where it stands, `queue_enable` reads as 0, its
doorbell is ignored. Its size, addresses and vector stay as they were and can be written anew;
writing 1 to `queue_enable` goes on from `avail` and `used`. In any other status SUSPEND does
nothing. Before DRIVER_OK an enabled queue has taken nothing and is SUSPENDED at once.

**Resetting** the device, or that queue by RING_RESET, makes it IDLE and forgets its position.
"""

from __future__ import annotations

import enum

from protocol.virtio.pci.registers import Register

__all__ = [
    "QUEUE_STATE_SIZE",
    "QueueCommand",
    "QueueStateRegister",
    "QueueStatus",
    "decode_position",
    "encode_position",
]

_WRAP = 1 << 15


class QueueStateRegister(enum.Enum):
    """The fields of the queue state structure."""

    QUEUE_SELECT = Register(0, 2, writable=True)
    COMMAND = Register(2, 2, writable=True, per_queue=True)
    STATUS = Register(4, 2, per_queue=True)
    AVAIL = Register(8, 2, writable=True, per_queue=True)
    USED = Register(10, 2, writable=True, per_queue=True)


QUEUE_STATE_SIZE = 16
"""Bytes of the structure; what has no name reads as 0."""


class QueueCommand(enum.IntEnum):
    """What a driver can ask of a queue."""

    SUSPEND = 1


class QueueStatus(enum.IntEnum):
    """What a queue is doing."""

    IDLE = 0
    """Not enabled since the last reset."""
    ENABLED = 1
    SUSPENDING = 2
    SUSPENDED = 3
    FAILED = 4
    """The driver broke the ring's rules; its position means nothing, only a reset helps."""


def encode_position(index: int, *, wrap: bool, packed: bool) -> int:
    """Return a position as the registers hold it.

    Args:
        index: of the next entry; packed: offset of the next descriptor.
        wrap: packed: the wrap counter.
        packed: the ring's layout.

    Raises:
        ValueError: it does not fit.
    """
    if not 0 <= index < (_WRAP if packed else 2 * _WRAP):
        raise ValueError(f"no ring has a position {index}")
    return index | _WRAP if packed and wrap else index


def decode_position(value: int, *, packed: bool) -> tuple[int, bool]:
    """Return index (packed: offset) and wrap counter of a register's 16 bits; split: it is True."""
    return (value & (_WRAP - 1), bool(value & _WRAP)) if packed else (value, True)
