"""The capabilities in which a virtio PCI function says where its registers are.

Each is a frozen dataclass that parses from its bytes and builds them. What they hold comes from the
device; nothing here trusts it, and whether a structure lies inside its BAR is for whoever knows the
BARs. Specification: VIRTIO 1.2, 4.1.4 "Virtio Structure PCI Capabilities"; PCI 3.0, 6.7
"Capabilities List", 6.8.2 "MSI-X Capability and Table Structures".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import construct as c

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "CAPABILITIES_START",
    "CONFIG_SPACE_SIZE",
    "Capability",
    "CapabilityType",
    "MsixCapability",
    "QueueStateCapability",
    "StructureCapability",
    "build_capabilities",
    "walk_capabilities",
]

CONFIG_SPACE_SIZE = 256
"""Bytes of configuration space in which capabilities lie; what is beyond is PCI Express's."""
CAPABILITIES_START = 0x40
"""Where capabilities may begin: before it is the header."""
_VENDOR_SPECIFIC = 0x09
_MSIX = 0x11
_HEAD = 2


class CapabilityType(enum.IntEnum):
    """What a virtio capability is about (cfg_type)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5
    """A window in configuration space through which BARs can be reached."""
    SHARED_MEMORY = 8
    VENDOR = 9


def _has_type(kind: CapabilityType) -> Any:  # noqa: ANN401  # an expression of construct's
    return c.this.type == kind.value


_STRUCTURE_LAYOUT = c.Struct(
    "id" / c.Const(_VENDOR_SPECIFIC, c.Int8ul),
    "next" / c.Int8ul,
    "length" / c.Int8ul,
    "type" / c.Int8ul,
    "bar" / c.Int8ul,
    "instance" / c.Int8ul,
    c.Padding(2),
    "offset" / c.Int32ul,
    "size" / c.Int32ul,
    "multiplier" / c.If(_has_type(CapabilityType.NOTIFY), c.Int32ul),
    c.If(_has_type(CapabilityType.PCI), c.Padding(4)),
)
_QUEUE_STATE_LAYOUT = c.Struct(
    "id" / c.Const(_VENDOR_SPECIFIC, c.Int8ul),
    "next" / c.Int8ul,
    "length" / c.Int8ul,
    "type" / c.Const(CapabilityType.VENDOR.value, c.Int8ul),
    "vendor" / c.Int16ul,
    "bar" / c.Int8ul,
    "version" / c.Int8ul,
    "magic" / c.Int32ul,
    "offset" / c.Int32ul,
    "size" / c.Int32ul,
)
_MSIX_LAYOUT = c.Struct(
    "id" / c.Const(_MSIX, c.Int8ul),
    "next" / c.Int8ul,
    "control" / c.Int16ul,
    "table" / c.Int32ul,
    "pending" / c.Int32ul,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureCapability:
    """Where a structure of registers is.

    Attributes:
        type: a `CapabilityType`, or any other number that a device made up.
        bar: which BAR; those above 5 are reserved.
        offset: bytes from the BAR's beginning.
        size: bytes of the structure.
        multiplier: NOTIFY: bytes from one doorbell to the next; else 0.
        instance: tells several of one type apart.
    """

    type: int
    bar: int
    offset: int
    size: int
    multiplier: int = 0
    instance: int = 0

    @property
    def end(self) -> int:
        """Where in the BAR it ends."""
        return self.offset + self.size

    @property
    def length(self) -> int:
        """Bytes that the capability itself takes."""
        return 20 if self.type in {CapabilityType.NOTIFY, CapabilityType.PCI} else 16

    def build(self, next_at: int = 0) -> bytes:
        """Return its bytes, which name `next_at` as the place of the next one."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return bytes(_STRUCTURE_LAYOUT.build(fields | {"length": self.length, "next": next_at}))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the capability that these bytes hold.

        Raises:
            ValueError: they are too few for their type.
        """
        fields = _parse(_STRUCTURE_LAYOUT, data, "a virtio capability")
        return cls(
            type=fields["type"],
            bar=fields["bar"],
            offset=fields["offset"],
            size=fields["size"],
            multiplier=fields["multiplier"] or 0,
            instance=fields["instance"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStateCapability:
    """Where the queue state structure is; see `protocol.virtio.pci.queue_state`.

    Attributes:
        bar: which BAR.
        offset: bytes from the BAR's beginning.
        size: bytes of the structure.
        vendor: whose vendor capability it is. No PCI vendor stands behind this one: the number is
            one that is not given to anybody, and the magic says the rest.
        magic: "VUQS".
        version: of the layout; another one is another capability.
    """

    bar: int
    offset: int
    size: int
    vendor: int = 0xFFFE
    magic: int = int.from_bytes(b"VUQS", "little")
    version: int = 1

    length = 20

    @property
    def end(self) -> int:
        """Where in the BAR it ends."""
        return self.offset + self.size

    def build(self, next_at: int = 0) -> bytes:
        """Return its bytes, which name `next_at` as the place of the next one."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return bytes(_QUEUE_STATE_LAYOUT.build(fields | {"length": self.length, "next": next_at}))

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Return the capability that these bytes hold; None: it is another vendor's, or later."""
        try:
            fields = _parse(_QUEUE_STATE_LAYOUT, data, "a queue state capability")
        except ValueError:
            return None
        found = cls(**{name: fields[name] for name in cls.__dataclass_fields__})
        ours = cls(bar=found.bar, offset=found.offset, size=found.size)
        return found if found == ours else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MsixCapability:
    """Where the table of interrupt vectors is, and how long.

    Attributes:
        vectors: 1 to 2048.
        table_bar: BAR of the table.
        table_offset: bytes from that BAR's beginning, a multiple of 8.
        pending_bar: BAR of the bits of pending interrupts.
        pending_offset: bytes from that BAR's beginning, a multiple of 8.
    """

    vectors: int
    table_bar: int
    table_offset: int
    pending_bar: int
    pending_offset: int

    length = 12

    @property
    def table_size(self) -> int:
        """Bytes of the table."""
        return 16 * self.vectors

    @property
    def pending_size(self) -> int:
        """Bytes of the pending bits: whole words of 64."""
        return (self.vectors + 63) // 64 * 8

    def build(self, next_at: int = 0) -> bytes:
        """Return its bytes, which name `next_at` as the place of the next one."""
        return bytes(
            _MSIX_LAYOUT.build(
                {
                    "next": next_at,
                    "control": self.vectors - 1,
                    "table": self.table_offset | self.table_bar,
                    "pending": self.pending_offset | self.pending_bar,
                }
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the capability that these bytes hold.

        Raises:
            ValueError: they are too few.
        """
        fields = _parse(_MSIX_LAYOUT, data, "an MSI-X capability")
        return cls(
            vectors=(fields["control"] & 0x7FF) + 1,
            table_bar=fields["table"] & 7,
            table_offset=fields["table"] & ~7,
            pending_bar=fields["pending"] & 7,
            pending_offset=fields["pending"] & ~7,
        )


Capability = StructureCapability | QueueStateCapability | MsixCapability


def _parse(layout: c.Struct, data: bytes, what: str) -> dict[str, Any]:
    try:
        return dict(layout.parse(data))
    except c.ConstructError as error:
        raise ValueError(f"{what} cannot be {data.hex(' ') or 'empty'}") from error


def build_capabilities(
    capabilities: Sequence[Capability], start: int = CAPABILITIES_START
) -> bytes:
    """Return a list of capabilities as it lies in configuration space from `start` on."""
    built = b""
    for capability in capabilities:
        after = start + len(built) + capability.length
        last = capability is capabilities[-1]
        built += capability.build(0 if last else after)
    return built


def walk_capabilities(config: bytes, start: int) -> Iterator[Capability]:
    """Yield the capabilities of configuration space that mean something to virtio, in order.

    Args:
        config: 256 bytes of it.
        start: where the first one is said to be; 0: there is none.

    Raises:
        ValueError: the list leaves its place, comes back to itself, or one of them is cut off.
    """
    seen: set[int] = set()
    at = start & ~3
    while at:
        if not CAPABILITIES_START <= at <= CONFIG_SPACE_SIZE - 4:
            raise ValueError(f"the list of capabilities goes on at {at:#x}, where none can be")
        if at in seen:
            raise ValueError(f"the list of capabilities comes back to {at:#x}")
        seen.add(at)
        found = _parse_one(config, at)
        if found is not None:
            yield found
        at = config[at + 1] & ~3


def _parse_one(config: bytes, at: int) -> Capability | None:
    if config[at] == _MSIX:
        return MsixCapability.parse(config[at : at + MsixCapability.length])
    if config[at] != _VENDOR_SPECIFIC:
        return None
    length, kind = config[at + _HEAD], config[at + _HEAD + 1]
    data = config[at : at + length]
    if kind == CapabilityType.VENDOR:
        return QueueStateCapability.parse(data)
    if kind not in set(CapabilityType):
        return None
    return StructureCapability.parse(data)
