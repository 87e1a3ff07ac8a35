"""The function's PCI configuration space: header, BARs, capabilities; sans I/O.

Every byte has a mask of the bits that can be written, which also makes sizing a BAR work: all ones
written to it leave its size. Specification: PCI 3.0, 6.1 "Configuration Space Organization", 6.2.5
"Base Addresses"; VIRTIO 1.2, 4.1.2 and 4.1.4.9 "PCI configuration access capability".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.virtio.pci import (
    CAPABILITIES_START,
    CONFIG_SPACE_SIZE,
    MODERN_DEVICE_ID,
    PCI_STATUS_CAPABILITIES,
    VIRTIO_VENDOR,
    CapabilityType,
    MsixCapability,
    PciCommand,
    PciHeader,
    StructureCapability,
    build_capabilities,
)

if TYPE_CHECKING:
    from accel.simulator.layout import Layout

__all__ = ["ConfigSpace", "Window"]

_REVISION = 1
_SUBSYSTEM = 0x1100
"""Any from 0x40 on: the function is no legacy device."""
_CLASSES = {1: 0x020000, 2: 0x018000}
"""PCI class by virtio device type: network controller, other mass storage."""
_OTHER_CLASS = 0xFF0000
_BAR_64 = 0x4
_PREFETCHABLE = 0x8
_FLAGS = 0xF
_CACHE_LINE = 0x0C
_INTERRUPT_LINE = 0x3C
_MSIX_CONTROL_HIGH = 3
_MSIX_WRITABLE = 0xC0
_WINDOW_BAR = 4
_WINDOW_OFFSET = 8
_WINDOW_LENGTH = 12
_WINDOW_DATA = 16
_WINDOW_WIDTHS = frozenset({1, 2, 4})


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What the window into the BARs shows.

    Attributes:
        bar: which BAR.
        offset: bytes from its beginning.
        width: bytes: 1, 2 or 4.
    """

    bar: int
    offset: int
    width: int


class ConfigSpace:
    """256 bytes, some of which can be written.

    Args:
        layout: what the function has.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.reset()

    def reset(self) -> None:
        """Be as after power-on."""
        self._bytes = bytearray(CONFIG_SPACE_SIZE)
        self._mask = bytearray(CONFIG_SPACE_SIZE)
        self._put_header()
        self._put_bars()
        self._put_capabilities()

    def _put(self, offset: int, layout: str, value: int, mask: int = 0) -> None:
        struct.pack_into(layout, self._bytes, offset, value)
        struct.pack_into(layout, self._mask, offset, mask)

    def _put_header(self) -> None:
        kind = self._layout.device_type
        self._put(PciHeader.VENDOR, "<H", VIRTIO_VENDOR)
        self._put(PciHeader.DEVICE, "<H", MODERN_DEVICE_ID + kind)
        self._put(PciHeader.COMMAND, "<H", 0, PciCommand.MEMORY | PciCommand.BUS_MASTER)
        self._put(PciHeader.STATUS, "<H", PCI_STATUS_CAPABILITIES)
        self._put(PciHeader.REVISION, "<I", _CLASSES.get(kind, _OTHER_CLASS) << 8 | _REVISION)
        self._put(_CACHE_LINE, "<B", 0, 0xFF)
        self._put(PciHeader.SUBSYSTEM_VENDOR, "<H", VIRTIO_VENDOR)
        self._put(PciHeader.SUBSYSTEM, "<H", _SUBSYSTEM)
        self._put(PciHeader.CAPABILITIES, "<B", CAPABILITIES_START)
        self._put(_INTERRUPT_LINE, "<B", 0, 0xFF)

    def _put_bars(self) -> None:
        for bar, size in self._layout.bar_sizes.items():
            wide = bar in self._layout.wide_bars
            flags = _BAR_64 | _PREFETCHABLE if wide else 0
            layout = "<Q" if wide else "<I"
            ones = (1 << 8 * struct.calcsize(layout)) - 1
            self._put(PciHeader.BARS + 4 * bar, layout, flags, ones & ~(size - 1) & ~_FLAGS)

    def _put_capabilities(self) -> None:
        capabilities = self._layout.capabilities
        built = build_capabilities(capabilities)
        self._bytes[CAPABILITIES_START : CAPABILITIES_START + len(built)] = built
        at = CAPABILITIES_START
        for capability in capabilities:
            if isinstance(capability, MsixCapability):
                self._mask[at + _MSIX_CONTROL_HIGH] = _MSIX_WRITABLE
            elif (
                isinstance(capability, StructureCapability)
                and capability.type == CapabilityType.PCI
            ):
                self._window = at
                self._mask[at + _WINDOW_BAR] = 0xFF
                self._mask[at + _WINDOW_OFFSET : at + _WINDOW_DATA + 4] = bytes([0xFF] * 12)
            at += capability.length

    @property
    def bus_master(self) -> bool:
        """Whether the function may reach memory."""
        return bool(self._bytes[PciHeader.COMMAND] & PciCommand.BUS_MASTER)

    def read(self, offset: int, count: int) -> bytes:
        """Return any part of it; zeros beyond its end."""
        return bytes(self._bytes[offset : offset + count]).ljust(count, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Write the bits that can be written; the others stay."""
        for place, value in enumerate(data[: max(CONFIG_SPACE_SIZE - offset, 0)], start=offset):
            mask = self._mask[place]
            self._bytes[place] = self._bytes[place] & ~mask | value & mask

    def window(self, offset: int, count: int) -> Window | None:
        """Return what the window shows, if an access touches its data; None: it does not.

        A window that does not lie inside its BAR shows nothing.
        """
        data = self._window + _WINDOW_DATA
        if not (offset < data + 4 and offset + count > data):
            return None
        bar = self._bytes[self._window + _WINDOW_BAR]
        place, width = struct.unpack_from("<II", self._bytes, self._window + _WINDOW_OFFSET)
        if width not in _WINDOW_WIDTHS or place + width > self._layout.bar_sizes.get(bar, 0):
            return None
        return Window(bar=bar, offset=place, width=width)

    @property
    def window_data(self) -> bytes:
        """What the driver wrote to the window, or what was shown there last."""
        data = self._window + _WINDOW_DATA
        return bytes(self._bytes[data : data + 4])

    @window_data.setter
    def window_data(self, value: bytes) -> None:
        data = self._window + _WINDOW_DATA
        self._bytes[data : data + 4] = value.ljust(4, b"\0")
