"""Writes the inputs to begin with: rings as drivers make them, from which mutations start.

An input is decoded by harness/ringplace.c (the place of the ring), then by the target. Seeds need
not be exact: any bytes are a legal input, and what these mean may change with the decoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_seeds"]

_LAYOUTS = 6
_INDIRECT, _EVENT_IDX, _PACKED, _IN_ORDER = 0x10, 0x20, 0x40, 0x80
_DEVICE_CALLS = 24
_AVAILABLE, _CHAIN, _TABLE, _DESC, _EVENT, _INDEX, _BYTES, _RACE = range(
    _DEVICE_CALLS, _DEVICE_CALLS + 8
)
_POP, _PUSH, _PUBLISH, _ENABLE, _SERVE, _MOVE, _RESTART = 0, 1, 2, 3, 5, 6, 7
_BUFFER = bytes([0, 0x40, 0x03, 0xFF, 0x01])  # region 0, an offset, a length


def _place(layout: int, features: int, num: int, how: int, position: int) -> bytes:
    """A ring: where and what, and its position; both wrap counters are 1."""
    return bytes([layout | features, num, how]) + position.to_bytes(2, "little") + b"\x03"


def _chain(shape: int, slot: int) -> bytes:
    return bytes([_CHAIN, shape, slot]) + _BUFFER


def _table(entries: int, slot: int) -> bytes:
    """An indirect table at the start of a region, none of its entries spoilt."""
    return bytes([_TABLE, entries, slot, 0x00 | 6, 0xFF, 1]) + _BUFFER


def _device() -> dict[str, bytes]:
    seeds = {}
    for features in range(0, 0x100, 0x10):
        layout = features // 0x10 % _LAYOUTS
        body = b"".join(
            [
                _chain(0x22, 0),
                _chain(0x21, 4),
                bytes([_SERVE, 7]),
                bytes([_EVENT, 1, 0, 2]),
                _table(2, 1),
                bytes([_POP, _POP, _PUSH, 0, _PUBLISH, _ENABLE]),
                bytes([_MOVE, 1]),
                _chain(0x20, 6),
                bytes([_SERVE, 7, _RESTART]),
                _chain(0x20, 7),
                bytes([_SERVE, 3]),
            ]
        )
        seeds[f"ring-{features >> 4:x}"] = _place(layout, features, 3, features >> 3, 0xFFFE) + body
        for number, step in enumerate((_DESC, _BYTES, _RACE, _INDEX)):
            hostile = bytes([step, *range(number, number + 9)])
            seeds[f"hostile-{features >> 4:x}-{number}"] = (
                _place(layout, features, 4, 0x38, 7) + _chain(0x23, 1) + hostile + body
            )
    # a chain of more parts than the engine follows, through regions of one page
    long = bytes([0xA5, 0x0E, 0xFD])
    for features in (_INDIRECT, _INDIRECT | _PACKED):
        row = bytes([_TABLE, 39, 0, 0x06, 0xFF, 0x00]) + long + bytes([_POP])
        seeds[f"row-{features >> 4:x}"] = _place(3, features, 6, 0, 0) + row
    return seeds


def _driver() -> dict[str, bytes]:
    """Return seeds; steps are numbered as in fuzz_driver.c, add is 0, to forge is 20."""
    seeds = {}
    for features in range(0, 0x100, 0x10):
        add = bytes([0, features >> 4 & 1, 2, 1]) + _BUFFER * 2
        body = (add + bytes([4, 17, 0]) + add + add + bytes([8, 15, 4, 17, 0, 18, 0, 6, 6])) * 3
        place = _place(features // 0x10 % _LAYOUTS, features, 3, 0, 0xFFFE) + bytes([3, 1])
        seeds[f"talk-{features >> 4:x}"] = place + body
        forged = bytes([20, 0x81, 3, 0, 9, 6, 21, 4, 2, 7, 1, 0, 2, 6, 22, 9, 3, 1, 0, 6])
        seeds[f"forged-{features >> 4:x}"] = place + body + add + bytes([4]) + forged + body
    return seeds


def _memory() -> dict[str, bytes]:
    asked = b"".join(bytes([kind, region, 1, 0]) for kind in range(16) for region in (0, 2, 60))
    masks = (0, 1, 0x1111111111111111, 0x7777777777777777, (1 << 64) - 1)
    return {
        f"table-{number}": mask.to_bytes(8, "little") + bytes([number * 3]) + asked
        for number, mask in enumerate(masks)
    }


def _blk() -> dict[str, bytes]:
    """One request of each type on each kind of disk; the host does all that it is asked for."""
    seeds = {}
    parts = bytes([0x20, 1, 0x20, 2, 0x00, 1])
    for kind in range(12):
        for disk in range(4):
            chain = bytes([0x22]) + parts + bytes([0x01, 3])
            request = bytes([kind, 2, 1, 0, 8, 2, 0x40, 1])
            seeds[f"request-{kind}-{disk}"] = (
                bytes([kind % _LAYOUTS, disk | 0x30, 0x7C, 0x40]) + chain + request + bytes([0xC0])
            )
    return seeds


def _offload() -> dict[str, bytes]:
    """Frames of each kind, to be cut or summed up, in one piece or many, changed meanwhile."""
    seeds = {}
    for kind in range(16):
        for gso in (0, 1, 3):
            size = {0: b"", 1: bytes([50]), 3: (600).to_bytes(2, "little")}[gso]
            for number, cuts in enumerate((bytes(8), bytes([1, 13, 64, 0xC4, 3, 200, 0, 0xCF]))):
                packet = bytes([kind | 0x20, kind << 3 & 0x73, 0, 0]) + (3001).to_bytes(2, "little")
                header = bytes([gso, 0, 0xFF * (kind & 1)]) + size
                rest = cuts + bytes([number * 2])
                seeds[f"frame-{kind:x}-{gso}-{number}"] = packet + header + rest
        # a fragment by IPv4 or by IPv6, another protocol, a short TCP header
        for where, value in ((0x86, 0x20), (0x86, 44), (0x89, 1), (0x0C, 0x40)):
            packet = bytes([kind | 0x40, 0, 1, 200, where, value])
            seeds[f"spoilt-{kind:x}-{where:x}-{value:x}"] = packet + bytes([1, 0, 0, 50]) + bytes(9)
    return seeds


def _net() -> dict[str, bytes]:
    """Switches of two to four ports that talk: steps are numbered as in fuzz_net.c."""
    seeds = {}
    for features in range(0, 0x100, 0x10):
        packed = 0x10 if features & 0x40 else 0
        for ports in (2, 3, 4):
            for number, mask in enumerate((0x00, 0xFF)):
                head = bytes([features >> 4 & 1, ports - 2])
                for port in range(ports):
                    ring = bytes([0x07, 8 * port, 0, 0, 3])
                    rings = ring + bytes([0x06, 1 + 8 * port, 0, 0, 3, 0x03, 2, 0, 0, 3])
                    own = 0xC3 | packed | features >> 3 & 0x0C
                    head += bytes([4 if port == 0 else port - 1, own, mask, mask]) + rings
                offers = b"".join(
                    bytes([1 | port << 4, 0x20 * number | features >> 4 & 8, 12, *range(12)])
                    for port in range(4)
                )
                frames = b"".join(
                    bytes([port << 4, kind, 0x06 | features & 0x80, 0x10, 0x40])
                    + (bytes([0xB0, 0x04]) if kind & 0x10 else b"")
                    + bytes([to, port + 1, flags, 0x20, 0x40, 1, 2, 3, 0x85, 6])
                    for port in range(ports)
                    for kind, to, flags in (
                        (0, 0, 0),
                        (0x10, 1, 3),
                        (0x11, 2, 3),
                        (0x12, 1, 3),
                        (1, 2, 1),
                    )
                )
                # one frame in more buffers than are ever merged
                if number:
                    offers = bytes([0x11, 0x10, 79]) + bytes([8, 0x80]) * 80
                # chains with more buffers together than a batch may have
                frames += bytes([0x00, 0x00, 0xC6, 0x10, 0x40, 0, 1, 0]) * number
                commands = b"".join(
                    bytes([3, group | command << 3, 0, data, 1, 0, 2, 0, 9])
                    for group, command, data in (
                        (0, 0, 1),
                        (0, 1, 1),
                        (1, 0, 0x98),
                        (1, 1, 3),
                        (2, 0, 2),
                        (3, 0, 0),
                        (5, 0, 4),
                    )
                )
                steps = (
                    offers
                    + frames
                    + b"\x09"
                    + commands
                    + b"\x09\x07\x44"
                    + offers
                    + frames
                    + b"\x09"
                )
                seeds[f"talk-{features >> 4:x}-{ports}-{number}"] = head + steps
    return seeds


def write_seeds(folder: Path) -> None:
    """Write all seeds.

    Args:
        folder: gets a folder for each target; what is in it already is overwritten.
    """
    for target, inputs in (
        ("device", _device()),
        ("driver", _driver()),
        ("memory", _memory()),
        ("blk", _blk()),
        ("offload", _offload()),
        ("net", _net()),
    ):
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            (folder / target / name).write_bytes(data)
