"""What a client for networks does. Data only, as `row.py`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["NetLoad", "Shape", "Traffic"]


class Traffic(enum.Enum):
    """Who sends and who receives; the value is its name for the load generators."""

    SINK = "sink"
    SOURCE = "source"
    ONE_WAY = "one-way"
    BOTH_WAYS = "both-ways"
    ROUND_TRIP = "round-trip"


class Shape(enum.Enum):
    """How a frame to send lies in its ring; the value is its name for the load generator."""

    PLAIN = "plain"
    CHAINED = "chained"
    INDIRECT = "indirect"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetLoad:
    """What a client for networks does.

    Attributes:
        traffic: who sends and who receives; each even port is a neighbour of the one after it.
        size: bytes of a frame, without its header; with `segment`, of what is to be segmented.
        ports: that have traffic; each is a connection.
        idle: ports beside them that are connected and have none.
        counted: whether the back-end measures the time that it is busy, which costs some.
        shape: how frames to send lie in their ring.
        buffer: bytes of a receive buffer; 0: one frame with its header.
        segment: bytes of payload of the segments that a network card would cut, 0: of none.
        pairs: of queues of each port.
        workers: threads of the back-end.
        pace: frames a second that a client sends which waits for each; 0: as fast as it can.
        options: of our back-end.
    """

    traffic: Traffic
    size: int = 64
    ports: int = 2
    idle: int = 0
    counted: bool = False
    shape: Shape = Shape.PLAIN
    buffer: int = 0
    segment: int = 0
    pairs: int = 1
    workers: int = 1
    pace: int = 0
    options: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """What the switch is to do, as `--mode` has it."""
        if self.traffic is Traffic.SINK:
            return "sink"
        if self.traffic is Traffic.SOURCE:
            return "source"
        return "echo" if self.ports == 1 else "switch"

    @property
    def connections(self) -> int:
        """Ports with traffic and without."""
        return self.ports + self.idle
