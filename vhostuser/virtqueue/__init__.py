"""Virtqueues, device side and driver side: the engine's, and a pure-Python twin of them."""

from vhostuser.virtqueue.engine import DeviceRing, DriverRing
from vhostuser.virtqueue.model import (
    Buffer,
    Chain,
    Fault,
    IndirectTables,
    RingConfig,
    RingFaultError,
    RingState,
    UsedRingError,
)
from vhostuser.virtqueue.pure import PureDeviceRing, PureDriverRing, PureIndirectTables
from vhostuser.virtqueue.pure_memory import PureMemory, PureRingConfig

__all__ = [
    "Buffer",
    "Chain",
    "DeviceRing",
    "DriverRing",
    "Fault",
    "IndirectTables",
    "PureDeviceRing",
    "PureDriverRing",
    "PureIndirectTables",
    "PureMemory",
    "PureRingConfig",
    "RingConfig",
    "RingFaultError",
    "RingState",
    "UsedRingError",
]
