"""TAP devices of the host as ports of a switch. No frame passes through Python."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING

import trio

from vhostuser.devices.net_port import NetPort, NetPortOptions
from vhostuser.devices.tap_device import TapOptions, open_tap
from vhostuser.errors import TapError
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vhostuser.devices.net_switch import NetSwitch
    from vhostuser.devices.tap_device import Tap
    from vhostuser.native import Pointer

__all__ = ["TapOptions", "TapPort"]

_log = logging.getLogger(__name__)


class TapPort:
    """A TAP device at a port of its own. Make it with `async with TapPort.open(switch, options)`.

    Attributes:
        port: of the switch; a pair of it for each queue.
        name: of the device, as the kernel calls it.
        mac: the address that the host has there.
        mtu: largest payload of a frame, bytes.
        removed: set when somebody has removed the device: the port is dead, and waits to be closed.
    """

    def __init__(self, port: NetPort, tap: Tap) -> None:
        self.port = port
        self.name = tap.name
        self.mac = tap.mac
        self.mtu = tap.mtu
        self.removed = trio.Event()
        self._tap = tap
        self._tap_used = trio.Lock()  # by a thread: closed meanwhile, its number may be another's
        self._closing = False
        self._queues: list[Pointer] = []
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, switch: NetSwitch, options: TapOptions | None = None
    ) -> AsyncIterator[TapPort]:
        """Have a TAP device at a port for the length of the block.

        Args:
            switch: must outlive the block.
            options: which device, and how.

        Raises:
            TapError: the device cannot be had; the text says what to do.
            OSError: the switch has as many ports as it may have (ENOSPC), or the host is out of
                memory or file descriptors.
        """
        options = options or TapOptions()
        tap = await trio.to_thread.run_sync(open_tap, options)
        of_port = NetPortOptions(pairs=options.queues, addresses=options.addresses, mac=tap.mac)
        with tap, NetPort.open(switch, of_port) as port:
            self = cls(port, tap)
            try:
                self._make_queues()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch)
                    yield self
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._destroy)
                    async with self._tap_used:
                        self._closing = True

    def _make_queues(self) -> None:
        for pair, fd in enumerate(self._tap.queues):
            worker = self.port.switch.workers.at(self.port.place(2 * pair))
            ret = ffi.new("struct vhu_queue **")
            code = lib.vhu_queue_create_tap(
                worker,
                self.port.switch.native,
                self.port.number,
                pair,
                fd.detach(),
                int(self._tap.features),
                self._event_fd,
                ret,
            )
            check(code, f"make a queue of {self.name}")
            self._queues.append(ret[0])

    def _destroy(self) -> None:
        for queue in self._queues:
            lib.vhu_queue_destroy(queue)
        os.close(self._event_fd)

    async def _watch(self) -> None:
        """Wait until the engine says that the device is gone."""
        while not any(map(_is_broken, self._queues)):
            await trio.lowlevel.wait_readable(self._event_fd)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event_fd)
        _log.warning("tap=%s was removed; its port is dead", self.name)
        self.port.set_link(up=False)
        self.removed.set()

    async def set_link(self, *, up: bool) -> None:
        """Plug the cable in, or pull it, and show it to the host.

        Raises:
            OSError: the device was removed; the port has changed nevertheless, if it is there.
        """
        async with self._tap_used:
            if self._closing:
                raise TapError(errno.ENODEV, f"the port of {self.name} has just been removed")
            self.port.set_link(up=up and not self.removed.is_set())
            await trio.to_thread.run_sync(lambda: self._tap.set_carrier(up=up))


def _is_broken(queue: Pointer) -> bool:
    status = ffi.new("struct vhu_queue_status *")
    lib.vhu_queue_status(queue, status)
    return bool(status.actual == lib.VHU_QUEUE_BROKEN)
