"""A relay: an engine thread that passes signals on where the guest and the device cannot meet.

Kicks go from a guest's kick fd to a doorbell, an interrupt to the call fds of several rings. No
Python runs for a signal. Signals that come before the thread looks are one, as the specification
allows; none is lost but where the target was just replaced: ring once then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from vhostuser.datapath.accelerator import EventfdDoorbell, MappedDoorbell
from vhostuser.fds import Closing, OwnedFd
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhostuser.native import Pointer

__all__ = ["Relay", "Route", "Target"]

Target: TypeAlias = "MappedDoorbell | EventfdDoorbell | Sequence[OwnedFd]"
"""Where signals go; fds are taken over, and none at all swallows what comes in."""


class Relay(Closing):
    """One thread and its routes, all of one peer: a hostile one can hold up its own thread only.

    Raises:
        OSError: the host is out of threads or file descriptors.
    """

    def __init__(self) -> None:
        ret = ffi.new("struct vhu_relay **")
        check(lib.vhu_relay_create(ret), "start a thread that relays signals")
        self._native = ret[0]
        self._routes: set[Route] = set()

    def add_kick(self, kick: OwnedFd, doorbell: MappedDoorbell | EventfdDoorbell) -> Route:
        """Ring `doorbell` once for all signals of `kick` that came since the last look.

        Args:
            kick: an eventfd, pipe or socket; taken over.
            doorbell: its eventfd is taken over, its address must stay mapped until the route was
                removed or has another target.

        Raises:
            OSError: the fd cannot be waited for (EPERM), a store cannot have this width or place
                (EINVAL), or the host is out of memory.
        """
        return self._add(kick, doorbell)

    def add_fan_out(self, source: OwnedFd, targets: Sequence[OwnedFd]) -> Route:
        """Signal every one of `targets` for each signal of `source`.

        Args:
            source: taken over.
            targets: at most 1024, taken over.

        Raises:
            OSError: as `add_kick`.
        """
        return self._add(source, targets)

    def _add(self, source: OwnedFd, target: Target) -> Route:
        ret = ffi.new("struct vhu_route **")
        native, _keep = _native_target(target)
        check(
            lib.vhu_relay_add(self._native, source.detach(), native, ret), "relay a ring's signals"
        )
        route = Route(ret[0], self._routes)
        self._routes.add(route)
        return route

    def close(self) -> None:
        """Remove all routes and end the thread. May wait a moment: call it in a thread."""
        for route in self._routes:
            route.forget()
        self._routes.clear()
        if self._native:
            native, self._native = self._native, ffi.NULL
            lib.vhu_relay_destroy(native)


class Route:
    """One way of signals, made by a `Relay`."""

    def __init__(self, native: Pointer, routes: set[Route]) -> None:
        self._native = native
        self._routes = routes
        self._signals = 0

    @property
    def signals(self) -> int:
        """How often the source had signals; self-kicks do not count. It stays after the end."""
        if self._native:
            self._signals = int(lib.vhu_route_signals(self._native))
        return self._signals

    def ring(self) -> None:
        """Signal the target once, soon, from the relay's thread. Never waits."""
        if self._native:
            lib.vhu_route_ring(self._native)

    def retarget(self, target: Target) -> None:
        """Signal something else from now on.

        When this returns nobody uses the old target any more, and its fds are closed. A signal of
        just before may have gone there alone, so ring once. May wait a moment, as may other
        changes meanwhile: call it in a thread.

        Raises:
            OSError: as `Relay.add_kick`; the old target is still used.
        """
        if not self._native:
            raise ValueError("this route was removed")
        native, _keep = _native_target(target)
        check(lib.vhu_route_retarget(self._native, native), "relay a ring's signals elsewhere")

    def remove(self) -> None:
        """End the route; a second time does nothing.

        When this returns nobody uses its fds, which are closed, nor its address. May wait a
        moment: call it in a thread.
        """
        native = self._native
        self.forget()
        self._routes.discard(self)
        if native:
            lib.vhu_route_remove(native)

    def forget(self) -> None:
        """Note that the engine's route ends; for the relay, which frees them all."""
        self._signals = self.signals
        self._native = ffi.NULL


def _native_target(target: Target) -> tuple[Pointer, Pointer]:
    """Return a `struct vhu_target`, and what must be kept as long as it is used."""
    native = ffi.new("struct vhu_target *")
    if isinstance(target, MappedDoorbell):
        native.address = ffi.cast("void *", target.address)
        native.width = target.width
        native.value = target.value
        return native, None
    fds = [target.fd] if isinstance(target, EventfdDoorbell) else list(target)
    numbers = ffi.new("int[]", [fd.detach() for fd in fds])
    native.fds = numbers
    native.fd_count = len(fds)
    return native, numbers
