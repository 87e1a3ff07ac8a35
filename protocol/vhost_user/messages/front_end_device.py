"""The front-end's messages about the device and its state (numbers 24-45), one class each.

Numbers, fds, replies and gates are columns of the table, not of these classes; the numbers in the
comments only sort them. Specification: vhost-user, "Front-end message types".
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from protocol.vhost_user.formats import CONFIG_HEAD, MAX_CONFIG
from protocol.vhost_user.messages.base import (
    MemRegion,
    Message,
    RingMessage,
    require,
    require_range,
    require_uuid,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AddMemReg",
    "CheckDeviceState",
    "CloseCryptoSession",
    "CreateCryptoSession",
    "GetConfig",
    "GetInflightFd",
    "GetMaxMemSlots",
    "GetSharedObject",
    "GetShmemConfig",
    "GetStatus",
    "GetVringBaseSkipDrain",
    "GpuSetSocket",
    "PostcopyAdvise",
    "PostcopyEnd",
    "PostcopyListen",
    "RemMemReg",
    "ResetDevice",
    "SetConfig",
    "SetDeviceStateFd",
    "SetInflightFd",
    "SetStatus",
    "VringKick",
]

_ID_SIZE = 8
_MAX_CONFIG_FLAGS = 1
_MAX_STATUS = 0xFF


# 24-27: configuration space and crypto sessions


def _require_config(offset: int, size: int) -> None:
    require(
        1 <= size <= MAX_CONFIG,
        f"1 to {MAX_CONFIG} bytes of configuration space travel in one message",
        field="size",
        value=size,
    )
    require(
        offset >= 0 and offset + size <= 1 << 32,
        f"offset + size ({size}) does not pass 2^32",
        field="offset",
        value=offset,
    )


def _require_config_size(values: Mapping[str, Any]) -> None:
    size, held = values["size"], len(values["data"])
    require(
        size == held,
        f"size is the number of bytes that follow the first {CONFIG_HEAD}, here {held}",
        field="size",
        value=size,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GetConfig(Message):
    """Ask for a part of the device's configuration space.

    Attributes:
        offset: First byte of the part.
        size: Bytes of the part.
        flags: Without meaning in this request; front-ends differ in what they put there.
        data: As many bytes as asked for, without meaning; zeros if left out.
    """

    offset: int
    size: int
    flags: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        _require_config(self.offset, self.size)
        if not self.data:
            object.__setattr__(self, "data", bytes(self.size))
        require(
            len(self.data) == self.size,
            "data has as many bytes as size says",
            field="data",
            value=self.data,
        )

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: A value breaks a rule.
        """
        _require_config_size(values)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfig(Message):
    """Write a part of the device's configuration space.

    Attributes:
        offset: First byte of the part.
        flags: 0 writable fields, 1 migration: read-only fields may then be written too.
        data: The bytes to write.
    """

    offset: int
    flags: int = 0
    data: bytes

    def __post_init__(self) -> None:
        _require_config(self.offset, len(self.data))
        require(
            0 <= self.flags <= _MAX_CONFIG_FLAGS,
            "flags is 0 (writable fields) or 1 (migration)",
            field="flags",
            value=self.flags,
        )

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {
            "offset": self.offset,
            "size": len(self.data),
            "flags": self.flags,
            "data": self.data,
        }

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: A value breaks a rule.
        """
        _require_config_size(values)
        return cls(offset=values["offset"], flags=values["flags"], data=values["data"])


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCryptoSession(Message):
    """Create a crypto session; the reply has the same layout.

    Attributes:
        op_code: What the session is for, as virtio-crypto numbers it.
        setup: Setup block and keys; their layout depends on the peer's version and is not
            described by the specification.
        session_id: Reply: the session, or negative for failure.
    """

    op_code: int
    setup: bytes = b""
    session_id: int = 0

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        session = self.session_id.to_bytes(_ID_SIZE, sys.byteorder, signed=True)
        return {"op_code": self.op_code, "setup_and_id": self.setup + session}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes."""
        rest: bytes = values["setup_and_id"]
        session = int.from_bytes(rest[-_ID_SIZE:], sys.byteorder, signed=True)
        return cls(op_code=values["op_code"], setup=rest[:-_ID_SIZE], session_id=session)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseCryptoSession(Message):
    """Close a crypto session.

    Attributes:
        session_id: The session.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"session_id": "value"}

    session_id: int


# 28-30: post-copy migration


@dataclass(frozen=True, slots=True, kw_only=True)
class PostcopyAdvise(Message):
    """Announce a migration with post-copy and ask for a userfaultfd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostcopyListen(Message):
    """Begin post-copy: memory tables are answered with the back-end's own addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostcopyEnd(Message):
    """End post-copy."""


# 31-35: in-flight tracking, GPU, reset, in-band kick


@dataclass(frozen=True, slots=True, kw_only=True)
class GetInflightFd(Message):
    """Ask for a shared area in which in-flight requests are tracked.

    Attributes:
        mmap_size: Without meaning in the request.
        mmap_offset: Without meaning in the request.
        num_queues: Number of queues to track.
        queue_size: Entries of each queue.
    """

    mmap_size: int = 0
    mmap_offset: int = 0
    num_queues: int
    queue_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInflightFd(Message):
    """Hand the tracking area back, after a reconnection or before a start.

    Attributes:
        mmap_size: Bytes of the area.
        mmap_offset: Bytes from the start of the fd to the area.
        num_queues: Number of queues tracked.
        queue_size: Entries of each queue.
    """

    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int

    def __post_init__(self) -> None:
        require_range(self.mmap_offset, self.mmap_size, field="mmap_offset")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSetSocket(Message):
    """Hand over the socket of the separate GPU protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetDevice(Message):
    """Disable all rings and put the device back to its initial state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VringKick(RingMessage):
    """Say in-band that there are buffers, and start the ring.

    Attributes:
        index: The ring's index.
        num: Reserved, zero.
    """

    num: int = 0

    def __post_init__(self) -> None:
        require(self.num == 0, "num is reserved and zero", field="num", value=self.num)


# 36-40: memory slots and device status


@dataclass(frozen=True, slots=True, kw_only=True)
class GetMaxMemSlots(Message):
    """Ask how many memory regions the back-end can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMemReg(Message):
    """Add one region of guest memory, with its fd.

    Attributes:
        region: The region.
    """

    region: MemRegion

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return self.region.to_fields()

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The region is illegal.
        """
        return cls(region=MemRegion(**values))


@dataclass(frozen=True, slots=True, kw_only=True)
class RemMemReg(Message):
    """Remove the region with this guest address, user address and size.

    Attributes:
        region: The region; its offset is ignored.
    """

    region: MemRegion

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return self.region.to_fields()

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The region is illegal.
        """
        return cls(region=MemRegion(**values))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStatus(Message):
    """Tell the virtio device status.

    Attributes:
        status: The status bits; 0 resets.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"status": "value"}

    status: int

    def __post_init__(self) -> None:
        require(
            0 <= self.status <= _MAX_STATUS,
            "a device status has 8 bits",
            field="status",
            value=self.status,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStatus(Message):
    """Ask for the virtio device status."""


# 41-45: shared objects, device state, shared memory, stop without draining


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSharedObject(Message):
    """Ask the exporter of a shared object for its dma-buf.

    Attributes:
        uuid: The object's UUID, 16 bytes as on the wire.
    """

    uuid: bytes

    def __post_init__(self) -> None:
        require_uuid(self.uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDeviceStateFd(Message):
    """Begin a transfer of the device's internal state; legal while all rings are stopped.

    Attributes:
        direction: 0 save (the back-end writes), 1 load (the back-end reads).
        phase: 0, the device is stopped.
    """

    direction: int
    phase: int = 0

    def __post_init__(self) -> None:
        require(
            self.direction in (0, 1),
            "direction is 0 (save) or 1 (load)",
            field="direction",
            value=self.direction,
        )
        require(self.phase == 0, "phase is 0 (stopped)", field="phase", value=self.phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDeviceState(Message):
    """Ask whether the transfer of the device's state went well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetShmemConfig(Message):
    """Ask which shared memory regions the device has, and how large they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetVringBaseSkipDrain(RingMessage):
    """Stop a ring at once, its requests recorded as in flight, and ask for its position.

    Attributes:
        index: The ring's index.
        num: Reserved; not looked at.
    """

    num: int = 0
