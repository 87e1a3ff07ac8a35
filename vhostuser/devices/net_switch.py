"""The switch: threads that carry frames from port to port, and what it knows of addresses.

No frame passes through Python. Ports are `vhostuser.devices.net_port`; on them are devices for
guests (`vhostuser.devices.net`) and TAP devices of the host (`vhostuser.devices.tap`).
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from vhostuser.datapath import WorkerOptions
from vhostuser.datapath.workers import Workers
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vhostuser.devices.net_port import NetPort
    from vhostuser.native import Pointer

__all__ = ["SWITCH_MODES", "KnownAddress", "NetSwitch", "SwitchOptions"]

_MODES = {
    "switch": lib.VHU_NET_SWITCH,
    "echo": lib.VHU_NET_ECHO,
    "sink": lib.VHU_NET_SINK,
    "source": lib.VHU_NET_SOURCE,
}
SWITCH_MODES = tuple(_MODES)
"""What becomes of a frame. `switch`: it goes where its destination lives, or to all others. `echo`:
back to the port that sent it. `sink`: it is counted and dropped. `source`: the same, and receive
buffers are filled as fast as they come."""

_LOCAL_MAC = bytes.fromhex("02000000")
"""How an address begins that nobody was assigned."""
_MORE_ADDRESSES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOptions:
    """What a switch is.

    Attributes:
        mode: one of `SWITCH_MODES`.
        ageing_s: how long an address is known that sends nothing, seconds.
        frame_size: bytes of a frame that a source makes, 14 to 1518.
        ports: most ports at a time, 1 to 1024.
    """

    mode: str = "switch"
    ageing_s: int = 300
    frame_size: int = 64
    ports: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAddress:
    """An address that was learned.

    Attributes:
        mac: the address, 6 bytes.
        port: number of the port where it lives.
        age_s: seconds since it was last heard of.
    """

    mac: bytes
    port: int
    age_s: int


class NetSwitch:
    """A switch. Make it with `async with NetSwitch.open(options, workers)`.

    Attributes:
        options: what it is.
        workers: the threads that carry frames.
        native: the engine's `struct vhu_net`.
        ports: those that are open, by number.
    """

    def __init__(self, options: SwitchOptions, native: Pointer, workers: Workers) -> None:
        self.options = options
        self.workers = workers
        self.native = native
        self.ports: dict[int, NetPort] = {}
        self._numbers: set[int] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, options: SwitchOptions | None = None, workers: WorkerOptions | None = None
    ) -> AsyncIterator[NetSwitch]:
        """Have a switch for the length of the block; its ports must be gone at the end.

        Args:
            options: what it is.
            workers: the threads that carry frames.

        Raises:
            OSError: the host is out of threads, memory or file descriptors, or an option is not in
                its range (EINVAL).
        """
        options = options or SwitchOptions()
        workers = workers or WorkerOptions()
        native = _create_native(options, shared=workers.count > 1)
        try:
            threads = Workers(workers, workers.count)
        except BaseException:
            lib.vhu_net_destroy(native)
            raise
        try:
            yield cls(options, native, threads)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(threads.stop)
            threads.close()
            lib.vhu_net_destroy(native)

    def addresses(self) -> tuple[KnownAddress, ...]:
        """Return the addresses that are known, in no particular order."""
        room = _MORE_ADDRESSES
        while True:
            found = ffi.new("struct vhu_net_address[]", room)
            count = lib.vhu_net_addresses(self.native, found, room)
            if count < room:
                break
            room *= 2
        return tuple(
            KnownAddress(mac=bytes(entry.mac), port=entry.port, age_s=entry.age_s)
            for entry in found[0:count]
        )

    @contextlib.contextmanager
    def local_mac(self) -> Iterator[bytes]:
        """Have an address, for the length of the block, that nobody else gets here."""
        number = next(number for number in itertools.count() if number not in self._numbers)
        self._numbers.add(number)
        try:
            yield _LOCAL_MAC + number.to_bytes(2, "big")
        finally:
            self._numbers.remove(number)


def _create_native(options: SwitchOptions, *, shared: bool) -> Pointer:
    fields = {
        "mode": _MODES[options.mode],
        "ports": options.ports,
        "ageing_s": options.ageing_s,
        "frame_size": options.frame_size,
        "shared": shared,
    }
    config = ffi.new("struct vhu_net_config *", fields)
    ret = ffi.new("struct vhu_net **")
    check(lib.vhu_net_create(config, ret), "make a switch")
    return ret[0]
