"""Carries plans out: each step on the device's data path and the session's memory table.

Steps run one after the other, shielded from cancellation: a memory change that was prepared is
committed or given up, and a ring that is being stopped has stopped, before anything else happens.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import trio

from protocol.virtio import VirtioFeatures
from vhostuser.devices import AnnouncedDevice
from vhostuser.memory import MemoryTable
from vhostuser.session import (
    AddRegion,
    Announce,
    EnableRing,
    OpenBackendChannel,
    ReadConfig,
    RemoveRegion,
    ReplaceMemory,
    SetRingFd,
    StartRing,
    StopRing,
    UseFeatures,
    UseStatus,
    WriteConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhostuser.devices import Device
    from vhostuser.fds import OwnedFd
    from vhostuser.memory import MemoryChange
    from vhostuser.session import Plan, Result, Step

__all__ = ["Carrier"]


class Carrier:
    """Does for one session what its plans say.

    Args:
        device: what the session drives.
        open_channel: called with the socket that the front-end gave for requests of ours; takes it
            over.
    """

    def __init__(self, device: Device, open_channel: Callable[[OwnedFd], None]) -> None:
        self._device = device
        self._open_channel = open_channel
        self.memory = MemoryTable(keep_files=device.datapath.capabilities.keeps_files)

    async def carry(self, plan: Plan) -> list[Result]:
        """Carry out every step; not cancellable.

        Returns:
            What each step returned, in order.

        Raises:
            OSError: the first step failed; nothing has changed.
        """
        results: list[Result] = []
        with trio.CancelScope(shield=True):
            results.extend([await self._step(step) for step in plan.steps])
        return results

    async def _step(self, step: Step) -> Result:
        datapath = self._device.datapath
        match step:
            case ReplaceMemory(regions):
                await self._change(functools.partial(self.memory.prepare_replace, regions))
            case AddRegion(region, fd):
                await self._change(functools.partial(self.memory.prepare_add, region, fd))
            case RemoveRegion(region):
                await self._change(functools.partial(self.memory.prepare_remove, region))
            case StartRing(index, start, kick):
                await datapath.start_queue(index, start, kick)
            case StopRing(index, how):
                return await datapath.stop_queue(index, how)
            case EnableRing(index, enabled):
                await datapath.set_enabled(index, enabled=enabled)
            case SetRingFd(index, which, fd):
                await datapath.set_fd(index, which, fd)
            case OpenBackendChannel(fd):
                self._open_channel(fd)
            case UseFeatures() | UseStatus() | ReadConfig() | WriteConfig() | Announce():
                return await self._ask_device(step)
        return None

    async def _ask_device(
        self, step: UseFeatures | UseStatus | ReadConfig | WriteConfig | Announce
    ) -> bytes | None:
        """Do what concerns the device itself, not its rings."""
        match step:
            case UseFeatures(features):
                self._device.use_features(features)
            case UseStatus(status):
                await self._device.datapath.set_status(status)
            case ReadConfig(offset, size):
                return await self._device.read_config(offset, size)
            case WriteConfig(offset, data, migration):
                await self._device.write_config(offset, data, migration=migration)
            case Announce(mac):
                assert isinstance(self._device, AnnouncedDevice)  # who offers RARP is one
                self._device.announce(mac)
        return None

    async def _change(self, prepare: Callable[[], MemoryChange]) -> None:
        """Prepare, commit, release: mapping and unmapping happen in a thread."""
        datapath = self._device.datapath
        change = await trio.to_thread.run_sync(prepare)
        try:
            await datapath.prepare_memory(change.snapshot)
        except OSError:
            await trio.to_thread.run_sync(change.abandon)
            raise
        await datapath.commit_memory(change.snapshot)
        change.commit()
        if change.replaced is not None:
            await datapath.release_memory(change.replaced)
        await trio.to_thread.run_sync(change.release)

    async def leave(self) -> None:
        """End the session's use of the device and unmap its memory; not cancellable."""
        with trio.CancelScope(shield=True):
            await self._device.datapath.leave()
            self._device.use_features(VirtioFeatures(0))
            await trio.to_thread.run_sync(self.memory.close)
