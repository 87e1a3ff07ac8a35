"""The pure half of the back-end: requests in, plans and answers out."""

from vhostuser.session.plan import (
    AddRegion,
    EnableRing,
    OpenBackendChannel,
    Plan,
    ReadConfig,
    RemoveRegion,
    ReplaceMemory,
    Result,
    SetRingFd,
    StartRing,
    Step,
    StopRing,
    UseFeatures,
    WriteConfig,
)
from vhostuser.session.session import Session
from vhostuser.session.state import SessionState, Vring

__all__ = [
    "AddRegion",
    "EnableRing",
    "OpenBackendChannel",
    "Plan",
    "ReadConfig",
    "RemoveRegion",
    "ReplaceMemory",
    "Result",
    "Session",
    "SessionState",
    "SetRingFd",
    "StartRing",
    "Step",
    "StopRing",
    "UseFeatures",
    "Vring",
    "WriteConfig",
]
