"""The pure half of the back-end: requests in, plans and answers out."""

from vhostuser.session.handover import (
    PAUSE_SECONDS,
    AreaEvent,
    AreaState,
    Handover,
    area_message,
)
from vhostuser.session.plan import (
    AddRegion,
    Announce,
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
    UseStatus,
    WriteConfig,
)
from vhostuser.session.session import Session
from vhostuser.session.state import SessionState, Vring

__all__ = [
    "PAUSE_SECONDS",
    "AddRegion",
    "Announce",
    "AreaEvent",
    "AreaState",
    "EnableRing",
    "Handover",
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
    "UseStatus",
    "Vring",
    "WriteConfig",
    "area_message",
]
