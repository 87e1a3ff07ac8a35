"""The payloads that travel as replies, on either channel.

Which request is answered by which of them is a column of the table. Specification: vhost-user,
"Communication" and the message types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from protocol.vhost_user.formats import SHMEM_REGIONS
from protocol.vhost_user.messages.base import Message, RingMessage, require
from protocol.vhost_user.messages.front_end import SetMemTable
from protocol.vhost_user.messages.front_end_device import AddMemReg, CreateCryptoSession

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "U64",
    "ConfigReply",
    "CryptoSession",
    "Empty",
    "Inflight",
    "LogBaseReply",
    "MemRegReply",
    "MemTableReply",
    "SharedObjectReply",
    "ShmemConfig",
    "VringState",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class U64(Message):
    """A number: the answer itself, or an acknowledgement (0 is success).

    Attributes:
        value: The number.
    """

    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty(Message):
    """A reply without payload; what counts is that it came, or the fd that came with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBaseReply(Message):
    """The answer to SET_LOG_BASE: the new log is in use.

    Attributes:
        body: Nothing, or eight bytes without meaning that some back-ends send.
    """

    body: bytes = b""

    def __post_init__(self) -> None:
        require(
            len(self.body) in (0, 8), "the body has 0 or 8 bytes", field="body", value=self.body
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VringState(RingMessage):
    """The position at which a ring was stopped.

    Attributes:
        index: The ring's index.
        num: Split: next available index. Packed: bits 0-14 available index, 15 its wrap counter,
            16-30 used index, 31 its wrap counter.
    """

    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReply(Message):
    """A part of the configuration space; without data it reports an error.

    Attributes:
        offset: First byte of the part, as in the request.
        flags: As in the request.
        data: The bytes, as many as were asked for; none for an error.
    """

    offset: int = 0
    flags: int = 0
    data: bytes = b""

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
        """Return the reply that a parsed payload makes; no payload at all is an error too.

        Raises:
            LocalProtocolError: The size is not that of the data.
        """
        if not values:
            return cls()
        size, held = values["size"], len(values["data"])
        require(
            size == held,
            f"size is the number of bytes that follow, here {held}",
            field="size",
            value=size,
        )
        return cls(offset=values["offset"], flags=values["flags"], data=values["data"])


@dataclass(frozen=True, slots=True, kw_only=True)
class MemTableReply(SetMemTable):
    """Post-copy only: the table with the back-end's own addresses as user addresses."""

    def fd_count(self) -> int:
        """Return how many fds must come along."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemRegReply(AddMemReg):
    """Post-copy only: the region with the back-end's own address as user address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptoSession(CreateCryptoSession):
    """The request with the new session's id, negative for failure."""

    @classmethod
    def failed(cls, request: Message | None) -> CryptoSession | None:
        """Return the reply that reports a failure, None if the request is not known."""
        if not isinstance(request, CreateCryptoSession):
            return None
        return cls(op_code=request.op_code, setup=request.setup, session_id=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflight(Message):
    """The tracking area; a size of 0, without fd, means that there is none.

    Attributes:
        mmap_size: Bytes of the area.
        mmap_offset: Bytes from the start of the fd to the area.
        num_queues: Number of queues tracked.
        queue_size: Entries of each queue.
    """

    mmap_size: int = 0
    mmap_offset: int = 0
    num_queues: int = 0
    queue_size: int = 0

    def fd_count(self) -> int:
        """Return how many fds must come along."""
        return 1 if self.mmap_size else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedObjectReply(Message):
    """The answer to GET_SHARED_OBJECT; the fd that comes along is the object, none an error.

    Attributes:
        uuid: The object's UUID as in the request, or nothing.
    """

    uuid: bytes = b""

    def __post_init__(self) -> None:
        require(len(self.uuid) in (0, 16), "a UUID has 16 bytes", field="uuid", value=self.uuid)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {"uuid": self.uuid} if self.uuid else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShmemConfig(Message):
    """The device's shared memory regions.

    Attributes:
        sizes: Bytes of each of the 256 regions, by id; 0 is an unused one.
    """

    NO_REGIONS: ClassVar[tuple[int, ...]] = (0,) * SHMEM_REGIONS

    sizes: tuple[int, ...] = NO_REGIONS

    def __post_init__(self) -> None:
        require(
            len(self.sizes) == SHMEM_REGIONS,
            f"there are {SHMEM_REGIONS} sizes, one for each id",
            field="sizes",
            value=len(self.sizes),
        )

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        return {"count": sum(1 for size in self.sizes if size), "sizes": list(self.sizes)}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the reply that a parsed payload makes.

        Raises:
            LocalProtocolError: The count is not the number of sizes other than 0.
        """
        config = cls(sizes=tuple(values["sizes"]))
        used = config.to_fields()["count"]
        require(
            values["count"] == used,
            f"count is the number of sizes that are not 0, here {used}",
            field="count",
            value=values["count"],
        )
        return config
