"""The figures that a fuzz target leaves when it ends (harness/states.c), and their sum.

How many states were different is an estimate by HyperLogLog, whose registers can be merged.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Figures"]

_HEADER = struct.Struct("<2Q")
_REGISTERS = 1 << 14


@dataclass(frozen=True, slots=True)
class Figures:
    """What one or several runs of targets did.

    Attributes:
        inputs: inputs that were carried out.
        states: states that were counted.
        registers: of the estimate.
    """

    inputs: int = 0
    states: int = 0
    registers: bytes = bytes(_REGISTERS)

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Read the file that a target wrote."""
        data = path.read_bytes()
        inputs, states = _HEADER.unpack_from(data)
        return cls(inputs, states, data[_HEADER.size :])

    def write(self, path: Path) -> None:
        """Write such a file."""
        path.write_bytes(_HEADER.pack(self.inputs, self.states) + self.registers)

    def __add__(self, other: Figures) -> Figures:
        registers = bytes(map(max, self.registers, other.registers))
        return Figures(self.inputs + other.inputs, self.states + other.states, registers)

    @property
    def distinct(self) -> int:
        """About how many of the states were different, to within a percent or two."""
        count = len(self.registers)
        alpha = 0.7213 / (1 + 1.079 / count)
        return round(alpha * count**2 / sum(2.0**-rank for rank in self.registers))
