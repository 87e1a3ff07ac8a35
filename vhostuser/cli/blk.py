"""`vhostuser blk`: serve a disk. Specification: "Backend program conventions", vhost-user-blk."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from vhostuser.cli.command import Command, parse_size
from vhostuser.devices import (
    SERIAL_BYTES,
    BlkDevice,
    BlkOptions,
    default_store,
    memory_store,
    null_store,
    open_store,
)
from vhostuser.errors import UsageError
from vhostuser.monitor import Monitor
from vhostuser.server import (
    ConnectingEndpoint,
    ListeningEndpoint,
    Server,
    bind_unix,
    endpoint_from_fd,
    systemd_fd,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable

    from vhostuser.devices import Store
    from vhostuser.server import Endpoint

__all__ = ["COMMAND"]

_log = logging.getLogger(__name__)
_LARGEST_QUEUE = 32768
_MOST_QUEUES = 256
_MOST_WORKERS = 64
_LONGEST_POLL_US = 1_000_000
_END_SECONDS = 0.8
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    number.__name__ = f"number from {least} to {most}"
    return number


def _serial(text: str) -> str:
    if len(text.encode("ascii")) > SERIAL_BYTES:
        raise ValueError(text)
    return text


_serial.__name__ = f"serial (up to {SERIAL_BYTES} ASCII characters)"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-capabilities",
        action="store_true",
        help="print what this back-end can do as JSON, and end",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket-path", type=Path, metavar="PATH", help="listen on this UNIX socket"
    )
    where.add_argument(
        "--fd",
        type=_number(0, 1 << 20),
        metavar="N",
        help="use this inherited socket, listening or connected",
    )
    where.add_argument(
        "--connect",
        type=Path,
        metavar="PATH",
        help="connect to a front-end that listens here, with retries",
    )
    store = parser.add_mutually_exclusive_group()
    store.add_argument(
        "--blk-file",
        type=Path,
        metavar="FILE",
        help="disk image or block device; without any disk the built-in one is served",
    )
    store.add_argument(
        "--null",
        type=parse_size,
        metavar="SIZE",
        help="a disk that transfers nothing, for measuring; bytes, or with a unit: 64M, 1G, 2T",
    )
    store.add_argument(
        "--memory", type=parse_size, metavar="SIZE", help="a disk in memory, empty at the start"
    )
    parser.add_argument("--read-only", action="store_true", help="refuse writes")
    parser.add_argument("--direct", action="store_true", help="bypass the page cache (O_DIRECT)")
    parser.add_argument(
        "--num-queues",
        type=_number(1, _MOST_QUEUES),
        default=1,
        metavar="N",
        help="request queues (default: %(default)s)",
    )
    parser.add_argument(
        "--queue-size",
        type=_number(2, _LARGEST_QUEUE),
        default=1024,
        metavar="N",
        help="largest ring size accepted (default: %(default)s)",
    )
    parser.add_argument(
        "--serial",
        type=_serial,
        default="vhostuser",
        metavar="TEXT",
        help="serial number, up to 20 characters (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=_number(1, _MOST_WORKERS),
        default=1,
        metavar="N",
        help="threads that share the queues (default: %(default)s)",
    )
    parser.add_argument(
        "--poll-us",
        type=_number(0, _LONGEST_POLL_US),
        default=50,
        metavar="N",
        help="longest time to poll an idle ring before sleeping, in us (default: %(default)s)",
    )
    parser.add_argument(
        "--busy-poll", action="store_true", help="never sleep: each worker keeps a processor busy"
    )
    parser.add_argument(
        "--control", type=Path, metavar="PATH", help="serve a control socket (QMP) here"
    )


def _run(options: argparse.Namespace) -> int:
    if options.print_capabilities:
        json.dump({"type": "block", "features": ["read-only", "blk-file"]}, sys.stdout)
        print()
        return 0
    store = _store(options)
    _allow_open_files()
    for number in _SIGNALS:
        # In force before `_serve` listens for signals, and again once it has cleaned up.
        signal.signal(number, lambda _number, _frame: os._exit(0))
    trio.run(_serve, store, options)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the interpreter's own end would undo a handler
    return 0


def _allow_open_files() -> None:
    """Take what the system allows: each ring has three fds, and 256 rings pass the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _store(options: argparse.Namespace) -> Store:
    if options.direct and options.blk_file is None:
        raise UsageError("--direct bypasses the page cache of a file: give --blk-file FILE")
    if options.null is not None:
        return null_store(options.null, read_only=options.read_only)
    if options.memory is not None:
        return memory_store(options.memory, read_only=options.read_only)
    if options.blk_file is not None:
        return open_store(options.blk_file, read_only=options.read_only, direct=options.direct)
    return default_store(read_only=options.read_only)


def _endpoint(options: argparse.Namespace) -> Endpoint:
    if options.socket_path is not None:
        return ListeningEndpoint(bind_unix(options.socket_path), options.socket_path)
    if options.connect is not None:
        return ConnectingEndpoint(options.connect)
    number = options.fd if options.fd is not None else systemd_fd()
    if number is None:
        raise UsageError("where are front-ends? Give --socket-path PATH, --connect PATH or --fd N")
    return endpoint_from_fd(number)


async def _serve(store: Store, options: argparse.Namespace) -> None:
    """Serve until SIGTERM, SIGINT, `quit` or the last front-end.

    From before the first socket is there until after the last one is removed, signals are obeyed
    here: no moment is left at which one would leave a socket's path behind.
    """
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            end = _End(nursery.cancel_scope)
            nursery.start_soon(_end_on_signal, signals, end)
            await _serve_disk(store, options, end)
            nursery.cancel_scope.cancel()


async def _serve_disk(store: Store, options: argparse.Namespace, end: _End) -> None:
    blk = BlkOptions(
        queues=options.num_queues,
        queue_size=options.queue_size,
        serial=options.serial,
        workers=options.workers,
        poll_us=options.poll_us,
        busy_poll=options.busy_poll,
    )
    try:
        endpoint = _endpoint(options)
    except UsageError:
        store.close()
        raise
    if options.socket_path is not None:
        end.paths.append(options.socket_path)
    with contextlib.closing(endpoint):
        async with BlkDevice.open(store, blk) as device, trio.open_nursery() as nursery:
            server = Server(device=device, endpoint=endpoint)
            if options.control is not None:
                monitor = Monitor(options.control, server, end)
                end.paths.append(options.control)
                server.notify = monitor.emit
                nursery.start_soon(monitor.run)
            _log.info("serving %s", _description(store, options))
            await server.run()
            nursery.cancel_scope.cancel()


def _description(store: Store, options: argparse.Namespace) -> str:
    kind = "read-only disk" if store.read_only else "disk"
    if options.blk_file is None and options.memory is None and options.null is None:
        kind = f"built-in {kind} (--blk-file FILE serves an image)"
    queues = "1 queue" if options.num_queues == 1 else f"{options.num_queues} queues"
    where = options.socket_path or options.connect or "an inherited socket"
    return f"a {kind} of {store.size} bytes with {queues} on {where}"


class _End:
    """Ends the program when called: cleanly if that is possible in time.

    Args:
        scope: of all that shall end.

    Attributes:
        paths: sockets to be removed also when it is not.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self.paths: list[Path] = []

    def __call__(self) -> None:
        # A thread that hangs in the store cannot be waited for: what it has not finished stays
        # unacknowledged, which is what a front-end must cope with anyway.
        watchdog = threading.Timer(_END_SECONDS, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        self._scope.cancel()

    def _give_up(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)
        os._exit(0)


async def _end_on_signal(signals: AsyncIterator[int], end: _End) -> None:
    async for number in signals:
        _log.info("%s: ending", signal.Signals(number).name)
        end()


COMMAND = Command(
    summary="serve a disk image, a block device or memory as a virtio disk",
    configure=_configure,
    run=_run,
)
