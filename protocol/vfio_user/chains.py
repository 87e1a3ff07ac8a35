"""The chain of capabilities behind a region's description.

A chain comes from the peer: every offset is checked, and `next` must lead onwards, past the
capability that it stands in. Specification: vfio-user, "DEVICE_GET_REGION_INFO", capabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import require, require_range
from protocol.vfio_user import formats as f

__all__ = [
    "MmapArea",
    "RegionCapability",
    "RegionType",
    "SparseMmap",
    "UnknownCapability",
    "build_chain",
    "parse_chain",
]

_SPARSE_MMAP = 1
_TYPE = 2
_VERSION = 1
_MOST = 64
_HEAD = f.CAPABILITY.min_size
_AREA_SIZE = f.AREA.min_size
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class MmapArea:
    """A part of a region that can be mapped.

    Attributes:
        offset: Bytes from the region's beginning; the region's own offset in the file is added.
        size: Bytes.

    Raises:
        LocalProtocolError: The area is empty or passes 2^64.
    """

    offset: int
    size: int

    def __post_init__(self) -> None:
        require_range(self.offset, self.size, field="areas.offset")


@dataclass(frozen=True, slots=True)
class SparseMmap:
    """Which parts of the region can be mapped.

    Attributes:
        areas: The parts.
    """

    areas: tuple[MmapArea, ...]


@dataclass(frozen=True, slots=True)
class RegionType:
    """What a region beyond the usual ones is.

    Attributes:
        type: By whom it is defined.
        subtype: What it is.
    """

    type: int
    subtype: int


@dataclass(frozen=True, slots=True)
class UnknownCapability:
    """A capability of which nothing more is known.

    Attributes:
        id: Its number.
        version: Its version.
        data: Everything behind its header, up to the next.
    """

    id: int
    version: int
    data: bytes


RegionCapability = SparseMmap | RegionType | UnknownCapability


def parse_chain(data: bytes, first: int, base: int) -> tuple[RegionCapability, ...]:
    """Return the capabilities of a chain.

    Args:
        data: All bytes behind the fixed part of the description.
        first: Where the first capability begins, from the beginning of the description; 0: nowhere.
        base: Bytes of the fixed part.

    Raises:
        LocalProtocolError: The chain leads out of the description or back, or a capability does not
            fit.
    """
    found: list[RegionCapability] = []
    end = base + len(data)
    field, low, at = "cap_offset", base, first
    while at:
        require(
            low <= at <= end - _HEAD,
            f"{field} is 0, or from {low} to {end - _HEAD}: onwards, and inside the description",
            field=field,
            value=at,
        )
        require(
            len(found) < _MOST,
            f"a region has at most {_MOST} capabilities",
            field="capabilities",
            value=len(found) + 1,
        )
        body = at - base + _HEAD
        head = f.CAPABILITY.parse(data[body - _HEAD : body])
        following = head["next"]
        until = following - base if at + _HEAD <= following <= end else len(data)
        found.append(_parse_one(head["id"], head["version"], data[body:until]))
        field, low, at = "next", at + _HEAD, following
    return tuple(found)


def _parse_one(number: int, version: int, body: bytes) -> RegionCapability:
    if (number, version) == (_SPARSE_MMAP, _VERSION):
        return _parse_sparse(body)
    if (number, version) == (_TYPE, _VERSION):
        size = f.REGION_TYPE.min_size
        return RegionType(**f.REGION_TYPE.parse(body[:size]))
    return UnknownCapability(number, version, body)


def _parse_sparse(body: bytes) -> SparseMmap:
    fields = f.SPARSE_MMAP.parse(body)
    count, room = fields["count"], fields["data"]
    require(
        count <= len(room) // _AREA_SIZE,
        f"nr_areas areas fit into the {len(room)} bytes behind it",
        field="nr_areas",
        value=count,
    )
    entries = f.parse_entries(f.AREA, room[: count * _AREA_SIZE])
    return SparseMmap(tuple(MmapArea(**entry) for entry in entries))


def build_chain(capabilities: tuple[RegionCapability, ...], base: int) -> bytes:
    """Return the bytes of a chain that begins right behind the fixed part.

    Args:
        capabilities: What to say, in order.
        base: Bytes of the fixed part.
    """
    chain = b""
    for left, capability in zip(range(len(capabilities) - 1, -1, -1), capabilities, strict=True):
        number, version, body = _build_one(capability)
        body += bytes(-len(body) % _ALIGNMENT)
        following = base + len(chain) + _HEAD + len(body) if left else 0
        chain += f.CAPABILITY.build({"id": number, "version": version, "next": following}) + body
    return chain


def _build_one(capability: RegionCapability) -> tuple[int, int, bytes]:
    match capability:
        case SparseMmap(areas):
            entries = [f.AREA.build({"offset": area.offset, "size": area.size}) for area in areas]
            body = f.SPARSE_MMAP.build({"count": len(entries), "data": b"".join(entries)})
            return _SPARSE_MMAP, _VERSION, body
        case RegionType(kind, subtype):
            return _TYPE, _VERSION, f.REGION_TYPE.build({"type": kind, "subtype": subtype})
        case UnknownCapability(number, version, data):
            return number, version, data
