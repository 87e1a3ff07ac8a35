"""Notices a guest that kicks in vain: its memory is mapped here, but it is not the guest's.

A memory file that QEMU maps privately (share=off) looks like any other: the rings are found, and
stay empty for ever. Nothing breaks a rule, so without a word in the log nobody would know why the
guest hangs. Specification: none; this is a hint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Container

    from vhostuser.datapath import Datapath

__all__ = ["kicked_in_vain"]

_SECONDS = 5.0
_OWN_KICKS = 1
"""QEMU kicks each ring once itself when it starts it, with nothing in it."""


async def kicked_in_vain(datapath: Datapath, receiving: Container[int] = ()) -> int | None:
    """Wait until a ring was kicked again and again while no ring has served a request.

    Args:
        datapath: of the session that begins now.
        receiving: rings whose buffers wait until something comes: kicks there say nothing.

    Returns:
        The ring, or None as soon as requests are served, or at once where none are counted: what an
        accelerator serves is its own business, and whoever passes rings to it can sleep for ever.
        Cancellable.
    """
    now = begin = datapath.statistics()
    while any(ring.counted for ring in now):
        await trio.sleep(_SECONDS)
        now = datapath.statistics()
        rings = tuple(zip(begin, now, strict=True))
        if any(after.requests > before.requests for before, after in rings):
            return None
        for index, (before, after) in enumerate(rings):
            looked_at = after.counted and index not in receiving
            if looked_at and after.kicks - before.kicks > _OWN_KICKS:
                return index
    return None
