"""What a client asks about a device and its regions, and the descriptions that answer it.

Requests have the layout of their replies; a request may come with bytes of room behind it, which
mean nothing. Specification: vfio-user, the commands' own sections.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Self

from protocol.messages import require
from protocol.vfio_user.chains import RegionCapability, build_chain, parse_chain
from protocol.vfio_user.formats import INFO_HEAD, REGION_INFO_HEAD
from protocol.vfio_user.messages.base import Described, Query, require_argsz, require_needed

__all__ = [
    "DeviceFlags",
    "DeviceGetInfo",
    "DeviceGetRegionInfo",
    "DeviceInfo",
    "RegionFlags",
    "RegionInfo",
]

_SPACE = 1 << 64
_MOST_REGIONS = 256
_MOST_IRQS = 256


class DeviceFlags(enum.IntFlag):
    """What a device is."""

    RESET = 1
    PCI = 2


class RegionFlags(enum.IntFlag):
    """What can be done with a region."""

    READ = 1
    WRITE = 2
    MMAP = 4
    CAPABILITIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGetInfo(Query):
    """Ask how many regions and interrupts the device has.

    Attributes:
        argsz: Bytes that the sender has for the reply's payload.
        flags: Without meaning here.
        num_regions: Without meaning here.
        num_irqs: Without meaning here.
        data: Room without meaning.
    """

    argsz: int = INFO_HEAD
    flags: int = 0
    num_regions: int = 0
    num_irqs: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        require_argsz(self.argsz, INFO_HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo(Described):
    """Say how many regions and interrupts the device has.

    Attributes:
        argsz: Bytes that the whole payload needs.
        flags: 1 can be reset, 2 is a PCI device.
        num_regions: Number of regions; a PCI device has at least 9, also where they are empty.
        num_irqs: Number of interrupt indices; a PCI device has 5.
        data: What newer versions say besides.
    """

    flags: int
    num_regions: int
    num_irqs: int
    data: bytes = b""

    def __post_init__(self) -> None:
        if self.argsz is None:
            object.__setattr__(self, "argsz", INFO_HEAD + len(self.data))
        require_needed(self.needed, INFO_HEAD)
        require(
            self.num_regions <= _MOST_REGIONS,
            f"a device has at most {_MOST_REGIONS} regions",
            field="num_regions",
            value=self.num_regions,
        )
        require(
            self.num_irqs <= _MOST_IRQS,
            f"a device has at most {_MOST_IRQS} interrupt indices",
            field="num_irqs",
            value=self.num_irqs,
        )

    def cut(self) -> Self:
        """Return the fixed part alone."""
        return replace(self, data=b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGetRegionInfo(Query):
    """Ask about one region.

    Attributes:
        argsz: Bytes that the sender has for the reply's payload.
        flags: Without meaning here.
        index: The region.
        cap_offset: Without meaning here.
        size: Without meaning here.
        offset: Without meaning here.
        data: Room without meaning.
    """

    argsz: int = REGION_INFO_HEAD
    flags: int = 0
    index: int
    cap_offset: int = 0
    size: int = 0
    offset: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        require_argsz(self.argsz, REGION_INFO_HEAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionInfo(Described):
    """Describe one region; the fd of a region that can be mapped comes along.

    Attributes:
        argsz: Bytes that the whole payload needs.
        flags: 1 read, 2 write, 4 can be mapped, 8 capabilities follow.
        index: The region.
        cap_offset: Bytes from the start of the payload to the first capability; 0: there is none.
        size: Bytes of the region; 0: the device does not have it.
        offset: Bytes from the start of the fd to the region.
        data: The capabilities.
    """

    flags: int = 0
    index: int
    cap_offset: int = 0
    size: int = 0
    offset: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        if self.argsz is None:
            object.__setattr__(self, "argsz", REGION_INFO_HEAD + len(self.data))
        require_needed(self.needed, REGION_INFO_HEAD)
        require(
            self.offset + self.size <= _SPACE,
            f"offset + size ({self.size:#x}) does not pass 2^64",
            field="offset",
            value=self.offset,
        )
        for capability in self.capabilities:
            self._check(capability)

    def _check(self, capability: RegionCapability) -> None:
        for area in getattr(capability, "areas", ()):
            require(
                area.offset + area.size <= self.size,
                f"an area lies inside the region of {self.size:#x} bytes",
                field="areas.offset",
                value=area.offset,
            )
            require(
                self.offset + area.offset + area.size <= _SPACE,
                "a region's offset in its file and an area's do not pass 2^64",
                field="areas.offset",
                value=area.offset,
            )

    @classmethod
    def describing(
        cls,
        index: int,
        *,
        size: int,
        flags: int = 0,
        offset: int = 0,
        capabilities: tuple[RegionCapability, ...] = (),
    ) -> Self:
        """Return the description of a region with its capabilities.

        Args:
            index: The region.
            size: Bytes of the region.
            flags: What can be done with it; that capabilities follow is added.
            offset: Where the region begins in its file, bytes.
            capabilities: What else to say of it.
        """
        chain = build_chain(capabilities, REGION_INFO_HEAD)
        return cls(
            flags=flags | (RegionFlags.CAPABILITIES if chain else 0),
            index=index,
            cap_offset=REGION_INFO_HEAD if chain else 0,
            size=size,
            offset=offset,
            data=chain,
        )

    @property
    def complete(self) -> bool:
        """Whether all of the payload is there."""
        return REGION_INFO_HEAD + len(self.data) >= self.needed

    @property
    def capabilities(self) -> tuple[RegionCapability, ...]:
        """What else is said of the region; nothing as long as the payload is not complete."""
        if not self.complete or not self.flags & RegionFlags.CAPABILITIES:
            return ()
        return parse_chain(self.data, self.cap_offset, REGION_INFO_HEAD)

    def cut(self) -> Self:
        """Return the fixed part alone.

        It says where the capabilities will be: QEMU refuses a region that has some at no place.
        """
        return replace(self, data=b"")
