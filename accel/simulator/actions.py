"""What a register access makes a device do: data, in the order in which it is to be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.virtio import VirtioFeatures
    from vhostuser.virtqueue import RingState

__all__ = [
    "Action",
    "BindQueue",
    "Reset",
    "RingDoorbell",
    "StartQueue",
    "StopQueue",
    "TellDriver",
    "UseFeatures",
    "WriteConfig",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Stop every queue, drop what is in flight, forget features; the registers are reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UseFeatures:
    """The driver has accepted features.

    Attributes:
        features: all that it accepted.
    """

    features: VirtioFeatures


@dataclass(frozen=True, slots=True, kw_only=True)
class StartQueue:
    """Serve a queue, and tell the model if that cannot be done.

    Attributes:
        index: which.
        features: what the driver accepted; they choose the ring's layout.
        num: descriptors.
        desc: address of the descriptor area, the driver's (IOVA).
        driver: address of the driver area.
        device: address of the device area.
        state: where to go on.
    """

    index: int
    features: VirtioFeatures
    num: int
    desc: int
    driver: int
    device: int
    state: RingState


@dataclass(frozen=True, slots=True, kw_only=True)
class StopQueue:
    """Stop serving a queue, and tell the model where it stands.

    Attributes:
        index: which.
        drain: finish what was taken first; otherwise it is dropped.
    """

    index: int
    drain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BindQueue:
    """A queue interrupts by another vector from now on.

    Attributes:
        index: which queue.
    """

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RingDoorbell:
    """Look at a queue: its doorbell was written by message.

    Attributes:
        index: which queue.
    """

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfig:
    """The driver wrote to the device configuration.

    Attributes:
        offset: of the first byte.
        data: what it wrote.
    """

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TellDriver:
    """Signal the vector of configuration changes: the configuration changed, or the status.

    Attributes:
        error: what went wrong, for the log; empty: nothing.
    """

    error: str = ""


Action = (
    Reset
    | UseFeatures
    | StartQueue
    | StopQueue
    | BindQueue
    | RingDoorbell
    | WriteConfig
    | TellDriver
)
