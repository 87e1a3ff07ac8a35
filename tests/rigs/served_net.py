"""A network device at a switch of its own, for front-ends that behave like real ones."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from served_disk import Served, serving

from vhostuser.devices import NetDevice, NetOptions, NetSwitch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NET_PAIRS = 2


@contextlib.asynccontextmanager
async def serving_net(path: Path) -> AsyncIterator[Served]:
    """Serve a network device on `path` for the length of the block."""
    async with (
        NetSwitch.open() as switch,
        NetDevice.open(switch, NetOptions(queue_pairs=NET_PAIRS)) as device,
        serving(path, device) as served,
    ):
        yield served
