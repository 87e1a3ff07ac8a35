"""A structure of registers in a BAR: finds the field that is meant, and its methods by name.

A subclass names its table of fields; `_get_x` says what field X reads as (without one: 0), `_set_x`
what a write to it does. Sans I/O: a write returns what is to be done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from protocol.virtio.pci import CommonRegister, QueueStateRegister, find_register

if TYPE_CHECKING:
    from collections.abc import Callable

    from accel.simulator.actions import Action

__all__ = ["Structure"]

_Table = type[CommonRegister] | type[QueueStateRegister]


class Structure:
    """Registers that are read in any way, and written one at a time.

    Attributes:
        table: its fields.
        size: bytes.
    """

    table: ClassVar[_Table]
    size: ClassVar[int]

    def __init__(self) -> None:
        # Drivers read registers again and again, and looking into an enumeration is slow.
        self._places = [(row.value.offset, row.value.end, row) for row in self.table]
        self._getters: dict[object, Callable[[], int]] = {}
        self._setters: dict[object, Callable[[int], list[Action]]] = {}
        for row in self.table:
            name = row.name.lower()
            if (getter := getattr(self, f"_get_{name}", None)) is not None:
                self._getters[row] = getter
            if (setter := getattr(self, f"_set_{name}", None)) is not None:
                self._setters[row] = setter

    def _value(self, row: object) -> int:
        getter = self._getters.get(row)
        return 0 if getter is None else getter()

    def read(self, offset: int, count: int) -> bytes:
        """Return any part of it; zeros where there is no field."""
        image = bytearray(self.size)
        for start, end, row in self._places:
            if start < offset + count and end > offset:
                image[start:end] = self._value(row).to_bytes(end - start, "little")
        return bytes(image[offset : offset + count]).ljust(count, b"\0")

    def write(self, offset: int, data: bytes) -> list[Action]:
        """Write one field, or half of one of 64 bits; any other write does nothing."""
        found = find_register(self.table, offset, len(data))
        if found is None:
            return []
        row, first_bit = found
        setter = self._setters.get(row)
        if setter is None:
            return []
        mask = (1 << 8 * len(data)) - 1
        value = int.from_bytes(data, "little") << first_bit
        return setter(self._value(row) & ~(mask << first_bit) | value)
