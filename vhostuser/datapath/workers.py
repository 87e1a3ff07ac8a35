"""The engine threads that serve rings."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostuser.errors import WorkerStuckError
from vhostuser.native import check, ffi, lib

if TYPE_CHECKING:
    from vhostuser.native import Pointer

__all__ = ["IO_ENGINES", "WorkerOptions", "Workers"]

_IO = {
    "auto": lib.VHU_IO_AUTO,
    "io_uring": lib.VHU_IO_URING,
    "threads": lib.VHU_IO_THREADS,
}
IO_ENGINES = tuple(_IO)
"""How requests may wait for the store; `auto` is io_uring, or threads where the host refuses it."""

_STOP_MS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The threads that serve the rings of a device.

    Attributes:
        count: how many share the rings; more than there are rings are not started.
        poll_us: longest time to poll an idle ring before sleeping, in microseconds.
        busy_poll: never sleep.
        io: how requests wait for the store, one of `IO_ENGINES`.
        nap_us: how long to sleep at once while a ring has a notify page, which wakes nobody, in
            microseconds; ten times that after 64 of them without a kick.
        account: measure the time that they are busy, which costs some.
    """

    count: int = 1
    poll_us: int = 50
    busy_poll: bool = False
    io: str = "auto"
    nap_us: int = 100
    account: bool = False


class Workers:
    """Running threads. The queues on them are destroyed between `stop` and `close`.

    Args:
        options: how they wait.
        count: how many to start.

    Raises:
        OSError: the host is out of threads, memory or file descriptors, or refuses io_uring where
            it is asked for.
    """

    def __init__(self, options: WorkerOptions, count: int) -> None:
        self._native: list[Pointer] = []
        try:
            self._start(options, count)
        except BaseException:
            self.stop()
            self.close()
            raise

    def _start(self, options: WorkerOptions, count: int) -> None:
        if options.io == "io_uring":
            check(lib.vhu_io_uring_probe(), "use io_uring (--io threads does without)")
        fields = {
            "poll_us": options.poll_us,
            "busy": options.busy_poll,
            "io": _IO[options.io],
            "nap_us": options.nap_us,
            "account": options.account,
        }
        config = ffi.new("struct vhu_worker_config *", fields)
        for _ in range(count):
            ret = ffi.new("struct vhu_worker **")
            check(lib.vhu_worker_create(config, ret), "start a worker thread")
            self._native.append(ret[0])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._native)

    def at(self, place: int) -> Pointer:
        """Return the engine's worker at a place, counted modulo their number."""
        return self._native[place % len(self._native)]

    @property
    def io(self) -> str:
        """How requests wait for the store: `io_uring` or `threads`."""
        kind = lib.vhu_worker_io(self._native[0])
        return next(name for name, value in _IO.items() if value == kind)

    @property
    def busy_ns(self) -> int:
        """Nanoseconds that they spent in passes that had work; 0 unless they account for them."""
        return sum(lib.vhu_worker_busy_ns(worker) for worker in self._native)

    def stop(self) -> None:
        """End the threads once what is in flight has completed. Waits: call it in a thread.

        Raises:
            WorkerStuckError: one hangs in the store; nothing that it uses may be freed.
        """
        stuck = [lib.vhu_worker_stop(worker, _STOP_MS) for worker in self._native]
        if any(code != 0 for code in stuck):
            raise WorkerStuckError(
                errno.ETIMEDOUT,
                "a worker thread hangs in the store; end the process, nothing of it can be freed",
            )

    def close(self) -> None:
        """Free them; a second time does nothing."""
        while self._native:
            lib.vhu_worker_destroy(self._native.pop())
