"""The front-end's messages about features, memory and rings (numbers 1-23), one class each.

Numbers, fds, replies and gates are columns of the table, not of these classes; the numbers in the
comments only sort them. Specification: vhost-user, "Front-end message types".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from protocol.vhost_user.features import ProtocolFeatures
from protocol.vhost_user.formats import MAX_REGIONS
from protocol.vhost_user.messages.base import (
    MAX_RING_SIZE,
    FdMessage,
    MemRegion,
    Message,
    RingMessage,
    require,
    require_range,
)
from protocol.virtio.features import VirtioFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.addresses import Gpa, Iova, Uva

__all__ = [
    "GetFeatures",
    "GetProtocolFeatures",
    "GetQueueNum",
    "GetVringBase",
    "IotlbMsg",
    "NetSetMtu",
    "ResetOwner",
    "SendRarp",
    "SetBackendReqFd",
    "SetFeatures",
    "SetLogBase",
    "SetLogFd",
    "SetMemTable",
    "SetOwner",
    "SetProtocolFeatures",
    "SetVringAddr",
    "SetVringBase",
    "SetVringCall",
    "SetVringEnable",
    "SetVringEndian",
    "SetVringErr",
    "SetVringKick",
    "SetVringNum",
]

_LOG_FLAG = 1
_MAC_SIZE = 6
_MAX_MTU = 65535
_MAX_PERMISSION = 3
_IOTLB_UPDATE = 2
_IOTLB_INVALIDATE = 3


# 1-4: features and ownership


@dataclass(frozen=True, slots=True, kw_only=True)
class GetFeatures(Message):
    """Ask which virtio features the back-end offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFeatures(Message):
    """Say which virtio features are in use from now on; may come again while rings run.

    Attributes:
        features: The features; unknown bits are kept.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"features": "value"}

    features: VirtioFeatures

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", VirtioFeatures(self.features))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOwner(Message):
    """Begin the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetOwner(Message):
    """Deprecated; accepted and ignored, as the specification recommends."""


# 5-7: memory and log


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemTable(Message):
    """Replace the whole table of guest memory; one fd a region, in order.

    Attributes:
        regions: One to eight regions; none only as the acknowledgement in post-copy mode.
    """

    regions: tuple[MemRegion, ...]

    def __post_init__(self) -> None:
        count = len(self.regions)
        require(
            count <= MAX_REGIONS,
            f"a memory table has at most {MAX_REGIONS} regions",
            field="count",
            value=count,
        )

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the payload's layout, by name."""
        regions = [region.to_fields() for region in self.regions]
        return {"count": len(regions), "regions": regions}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """Return the message that a parsed payload makes.

        Raises:
            LocalProtocolError: The payload has no room for that many regions, or one is illegal.
        """
        count, regions = values["count"], values["regions"]
        # User-mode Linux always sends room for two regions, whether it has one or two.
        require(
            count <= len(regions),
            f"count is the number of regions, 1 to {MAX_REGIONS}, and the payload holds them all",
            field="count",
            value=count,
        )
        return cls(regions=tuple(MemRegion(**region) for region in regions[:count]))

    def fd_count(self) -> int:
        """Return how many fds must come along."""
        return len(self.regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLogBase(Message):
    """Hand over the area in which dirty pages are marked.

    Attributes:
        size: Bytes of the area.
        offset: Bytes from the start of the fd to the area.
    """

    size: int
    offset: int

    def __post_init__(self) -> None:
        require_range(self.offset, self.size, field="offset")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLogFd(Message):
    """Hand over an eventfd that tells the front-end that the log has changed."""


# 8-14: rings


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringNum(RingMessage):
    """Set the size of a stopped ring.

    Attributes:
        index: The ring's index.
        num: Entries of the ring.
    """

    num: int

    def __post_init__(self) -> None:
        require(
            1 <= self.num <= MAX_RING_SIZE,
            f"a ring has 1 to {MAX_RING_SIZE} entries",
            field="num",
            value=self.num,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringAddr(RingMessage):
    """Set where a ring lies; on a running ring only to switch logging.

    Attributes:
        index: The ring's index.
        flags: Bit 0: writes to the used ring are logged.
        desc: Descriptor table, as a user address or IOVA (GPA with GPA_ADDRESSES).
        used: Used ring (packed: device event area), likewise.
        avail: Available ring (packed: driver event area), likewise.
        log: Guest physical address at which the used ring is logged.
    """

    flags: int
    desc: Uva
    used: Uva
    avail: Uva
    log: Gpa

    def __post_init__(self) -> None:
        require(
            not self.flags & ~_LOG_FLAG,
            "flag bits 1-31 are reserved and zero",
            field="flags",
            value=self.flags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringBase(RingMessage):
    """Set at which position a stopped ring resumes.

    Attributes:
        index: The ring's index.
        base: Split: next available index. Packed: bits 0-14 available index, 15 its wrap counter,
            16-30 used index, 31 its wrap counter.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"base": "num"}

    base: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetVringBase(RingMessage):
    """Stop a ring and ask for its position.

    Attributes:
        index: The ring's index.
        num: Reserved; front-ends leave anything in it, so it is not looked at.
    """

    num: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringKick(FdMessage):
    """Set the fd by which the driver says that there are buffers, and start the ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringCall(FdMessage):
    """Set the fd by which the driver learns of used buffers; may be swapped at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringErr(FdMessage):
    """Set the fd by which the front-end learns that a ring is broken."""


# 15-18: protocol features and queues


@dataclass(frozen=True, slots=True, kw_only=True)
class GetProtocolFeatures(Message):
    """Ask which protocol features the back-end offers; legal before SET_FEATURES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetProtocolFeatures(Message):
    """Say which protocol features are in use from now on.

    Attributes:
        features: The features; unknown bits are kept.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"features": "value"}

    features: ProtocolFeatures

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", ProtocolFeatures(self.features))


@dataclass(frozen=True, slots=True, kw_only=True)
class GetQueueNum(Message):
    """Ask how many queues the back-end has (net: in practice, queue pairs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringEnable(RingMessage):
    """Enable or disable a ring; legal for any ring at any time.

    Attributes:
        index: The ring's index.
        enable: 1 or 0.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"enable": "num"}

    enable: int

    def __post_init__(self) -> None:
        require(self.enable in (0, 1), "enable is 0 or 1", field="enable", value=self.enable)


# 19-23: net, the back-end channel, IOTLB, byte order


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRarp(Message):
    """Ask for a broadcast RARP, as a guest after migration would send.

    Attributes:
        mac: The guest's MAC address, six bytes.
    """

    mac: bytes

    def __post_init__(self) -> None:
        require(
            len(self.mac) == _MAC_SIZE, "a MAC address has 6 bytes", field="mac", value=self.mac
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NetSetMtu(Message):
    """Set the host's MTU as the guest sees it.

    Attributes:
        mtu: Bytes.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"mtu": "value"}

    mtu: int

    def __post_init__(self) -> None:
        require(0 <= self.mtu <= _MAX_MTU, "an MTU has 16 bits", field="mtu", value=self.mtu)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBackendReqFd(Message):
    """Hand over the socket of the back-end channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IotlbMsg(Message):
    """Update or invalidate a translation.

    Attributes:
        iova: First address of the range.
        size: Bytes of the range.
        uva: What the range translates to (update only).
        perm: 0 none, 1 read, 2 write, 3 both (update only).
        type: 2 update, 3 invalidate.
    """

    iova: Iova
    size: int
    uva: Uva
    perm: int
    type: int

    def __post_init__(self) -> None:
        require(
            self.type in (_IOTLB_UPDATE, _IOTLB_INVALIDATE),
            "a front-end sends type 2 (update) or 3 (invalidate)",
            field="type",
            value=self.type,
        )
        require(
            0 <= self.perm <= _MAX_PERMISSION,
            "perm is 0 (none), 1 (read), 2 (write) or 3 (both)",
            field="perm",
            value=self.perm,
        )
        require_range(self.iova, self.size, field="iova")
        if self.type == _IOTLB_UPDATE:
            require_range(self.uva, self.size, field="uva")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVringEndian(RingMessage):
    """Set the byte order of a legacy ring.

    Attributes:
        index: The ring's index.
        endian: 0 little, 1 big.
    """

    WIRE: ClassVar[Mapping[str, str]] = {"endian": "num"}

    endian: int

    def __post_init__(self) -> None:
        require(
            self.endian in (0, 1),
            "endian is 0 (little) or 1 (big)",
            field="endian",
            value=self.endian,
        )
