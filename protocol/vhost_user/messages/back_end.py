"""The messages that the back-end sends on its own channel, one class each.

The two classes at the end belong to the RFC dialects alone. Numbers, fds, replies and gates are
columns of the table. Specification: vhost-user, "Back-end message types".
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.addresses import Iova, Uva
from protocol.vhost_user.messages.base import (
    FdMessage,
    Message,
    RingMessage,
    require,
    require_range,
    require_uuid,
)

__all__ = [
    "BackendIotlbMsg",
    "BackendVringCall",
    "BackendVringErr",
    "ConfigChange",
    "SharedObjectAdd",
    "SharedObjectLookup",
    "SharedObjectRemove",
    "ShmemMap",
    "ShmemUnmap",
    "VringHostNotifier",
    "VringNotifyArea",
    "VringVfioGroup",
]

_NO_ADDRESS = Uva(0)
_IOTLB_MISS = 1
_IOTLB_ACCESS_FAIL = 4
_MAX_PERMISSION = 3
_MAX_SHMID = 255
_MAP_WRITABLE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendIotlbMsg(Message):
    """Report a missing translation or a refused access.

    Attributes:
        iova: The address.
        size: Without meaning here, as a rule 0.
        uva: Without meaning here, as a rule 0.
        perm: The access wanted: 0 none, 1 read, 2 write, 3 both.
        type: 1 miss, 4 access fail.
    """

    iova: Iova
    size: int = 0
    uva: Uva = _NO_ADDRESS
    perm: int
    type: int

    def __post_init__(self) -> None:
        require(
            self.type in (_IOTLB_MISS, _IOTLB_ACCESS_FAIL),
            "a back-end sends type 1 (miss) or 4 (access fail)",
            field="type",
            value=self.type,
        )
        require(
            0 <= self.perm <= _MAX_PERMISSION,
            "perm is 0 (none), 1 (read), 2 (write) or 3 (both)",
            field="perm",
            value=self.perm,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange(Message):
    """Say that the device's configuration space has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VringHostNotifier(FdMessage):
    """Offer the page into which the guest writes its kicks, or take it back.

    Attributes:
        index: The ring's index, 0 to 255.
        no_fd: Whether the page is taken back.
        size: Bytes to map: the page size of the host.
        offset: Bytes from the start of the fd to the page.
    """

    size: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendVringCall(RingMessage):
    """Say in-band that buffers were used.

    Attributes:
        index: The ring's index.
        num: Reserved, zero.
    """

    num: int = 0

    def __post_init__(self) -> None:
        require(self.num == 0, "num is reserved and zero", field="num", value=self.num)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendVringErr(RingMessage):
    """Say in-band that a ring is broken.

    Attributes:
        index: The ring's index.
        num: Reserved, zero.
    """

    num: int = 0

    def __post_init__(self) -> None:
        require(self.num == 0, "num is reserved and zero", field="num", value=self.num)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedObjectAdd(Message):
    """Announce a shared object that this back-end exports.

    Attributes:
        uuid: The object's UUID, 16 bytes as on the wire.
    """

    uuid: bytes

    def __post_init__(self) -> None:
        require_uuid(self.uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedObjectRemove(Message):
    """Withdraw a shared object; only its exporter can.

    Attributes:
        uuid: The object's UUID, 16 bytes as on the wire.
    """

    uuid: bytes

    def __post_init__(self) -> None:
        require_uuid(self.uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedObjectLookup(Message):
    """Ask for the fd of a shared object of any back-end.

    Attributes:
        uuid: The object's UUID, 16 bytes as on the wire.
    """

    uuid: bytes

    def __post_init__(self) -> None:
        require_uuid(self.uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShmemRange(Message):
    shmid: int
    fd_offset: int = 0
    shm_offset: int
    length: int
    flags: int = 0

    def __post_init__(self) -> None:
        require(
            0 <= self.shmid <= _MAX_SHMID,
            "a shared memory region's id is 0 to 255",
            field="shmid",
            value=self.shmid,
        )
        require(
            not self.flags & ~_MAP_WRITABLE,
            "flag bits 1-63 are reserved and zero",
            field="flags",
            value=self.flags,
        )
        require_range(self.shm_offset, self.length, field="shm_offset")
        require_range(self.fd_offset, self.length, field="fd_offset")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShmemMap(_ShmemRange):
    """Ask for a file to be mapped into a shared memory region.

    Attributes:
        shmid: The region.
        fd_offset: Bytes from the start of the fd to the range.
        shm_offset: Bytes from the start of the region to the range.
        length: Bytes of the range.
        flags: Bit 0: writable.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ShmemUnmap(_ShmemRange):
    """Take a mapping back; the range is exactly that of an earlier mapping.

    Attributes:
        shmid: The region.
        fd_offset: Without meaning here.
        shm_offset: Bytes from the start of the region to the range.
        length: Bytes of the range.
        flags: Without meaning here.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class VringVfioGroup(FdMessage):
    """RFC dialects: hand over the VFIO group of a ring's accelerator, or take it back.

    Attributes:
        index: The ring's index, 0 to 255.
        no_fd: Whether the group is taken back.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class VringNotifyArea(FdMessage):
    """RFC dialects: offer the area into which the guest writes its kicks, or take it back.

    Attributes:
        index: The ring's index, 0 to 255.
        no_fd: Whether the area is taken back.
        size: Bytes to map.
        offset: Bytes from the start of the fd to the area.
    """

    size: int = 0
    offset: int = 0
