"""TUN and TAP devices of the Linux kernel as data: request numbers, flags, one structure.

Use it by the module's name (`tun.Request.SETIFF`). Numbers are in native byte order. Specification:
Linux, Documentation/networking/tuntap.rst and <linux/if_tun.h>.
"""

from __future__ import annotations

import enum
import struct

__all__ = [
    "NAME_BYTES",
    "InterfaceFlags",
    "Offloads",
    "Request",
    "interface_name",
    "interface_request",
    "number_argument",
]

NAME_BYTES = 15
"""Of the longest name that an interface can have."""

_IFREQ = struct.Struct("=16sH22x")
_INT = struct.Struct("=i")


class Request(enum.IntEnum):
    """The number of an ioctl; as `_IOW` makes it everywhere but on Alpha, MIPS, PowerPC, SPARC."""

    SETIFF = 0x400454CA
    """Make a queue of an interface of the open file; the argument comes back with its name."""
    SETOFFLOAD = 0x400454D0
    """What the kernel may leave to who reads; the argument is the number itself."""
    SETVNETHDRSZ = 0x400454D8
    SETVNETLE = 0x400454DC
    SETCARRIER = 0x400454E2


class InterfaceFlags(enum.IntFlag, boundary=enum.KEEP):
    """What a queue is to be, in the argument of SETIFF."""

    TUN = 0x0001
    TAP = 0x0002
    MULTI_QUEUE = 0x0100
    NO_PI = 0x1000
    """No protocol number before each frame."""
    VNET_HDR = 0x4000
    """A virtio-net header before each frame."""


class Offloads(enum.IntFlag, boundary=enum.KEEP):
    """What the kernel may leave to who reads, in the argument of SETOFFLOAD."""

    CSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    TSO_ECN = 0x08
    USO4 = 0x20
    """With USO6 or not at all; since Linux 6.2."""
    USO6 = 0x40


def interface_request(name: str, flags: InterfaceFlags) -> bytearray:
    """Return the argument of SETIFF, which the kernel fills in.

    Args:
        name: of the interface; "" or one with %d in it: the kernel finds one that is free.
        flags: what the queue is to be.
    """
    return bytearray(_IFREQ.pack(name.encode(), flags))


def interface_name(request: bytes | bytearray) -> str:
    """Return the name in an argument that the kernel has filled in."""
    name: bytes = _IFREQ.unpack(request)[0]
    return name.partition(b"\0")[0].decode(errors="replace")


def number_argument(number: int) -> bytes:
    """Return the argument of the requests that take a pointer to a number."""
    return _INT.pack(number)
