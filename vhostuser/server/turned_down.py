"""Notices front-ends that seem to want more queues than there are: they ask how many, and leave.

QEMU compares the answer with what its own command line wants, says so on its own terminal, and
comes again for ever. Nothing breaks a rule, and what it wanted is never told, so that this is a
guess; one that leaves before its guest has a driver looks the same, but not time after time.
Specification: none; this is a hint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhostuser.devices import DeviceProfile

__all__ = ["TurnedDown", "queues_offered"]

_IN_A_ROW = 3
"""QEMU tries four times to have a disk, and for ever to have a network."""


class TurnedDown:
    """Counts front-ends that asked how many queues there are and set up none."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def left(self, *, asked: bool, set_up: bool) -> bool:
        """Note that a front-end has left; return whether this is the time to mention it.

        Args:
            asked: it asked how many queues there are.
            set_up: it set up a ring.
        """
        self._in_a_row = self._in_a_row + 1 if asked and not set_up else 0
        return self._in_a_row == _IN_A_ROW


def queues_offered(profile: DeviceProfile) -> str:
    """Say how many queues a front-end is offered, and which option changes that."""
    option = "--queue-pairs" if profile.kind == "net" else "--num-queues"
    count = profile.queues if profile.queue_num is None else profile.queue_num
    return f"{count}, see {option}"
