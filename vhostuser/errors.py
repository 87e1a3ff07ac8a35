"""Errors of the environment: what the host refused, in words that tell the user what to do.

Mistakes of a peer are `protocol.vhost_user.RemoteProtocolError`; these are the host's. The policy
for each kind is in docs/decisions/0004.
"""

from __future__ import annotations

__all__ = ["RingStartError", "StoreError", "UsageError", "WorkerStuckError"]


class UsageError(Exception):
    """What was asked for on the command line cannot be done; the text says what can."""


class StoreError(OSError):
    """The disk image or block device cannot be used."""


class RingStartError(OSError):
    """The engine refused to start a ring; its position or its addresses are not legal."""


class WorkerStuckError(OSError):
    """A worker thread hangs in the store and could not be stopped in time."""
