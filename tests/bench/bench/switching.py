"""Our switch without the program around it, which also measures the time that it is busy.

`python -m bench.switching MODE SOCKET …` serves a port on each socket until a line comes on its
standard input; then it says, as a line of JSON, what went through, and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from vhostuser.datapath import WorkerOptions
from vhostuser.devices import SWITCH_MODES, NetDevice, NetOptions, NetSwitch, SwitchOptions
from vhostuser.server import ListeningEndpoint, Server, bind_unix

from .programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["switching_command"]


def switching_command(mode: str, sockets: Sequence[Path], options: Sequence[str]) -> list[str]:
    """Return the command that serves ports on `sockets`; `_parser` has the options."""
    paths = os.pathsep.join([str(ROOT / "tests" / "bench"), str(ROOT / "tests" / "parts")])
    module = [sys.executable, "-m", "bench.switching", mode]
    return ["env", f"PYTHONPATH={paths}", *module, *map(str, sockets), *options]


def _went_through(switch: NetSwitch, devices: Sequence[NetDevice]) -> dict[str, float]:
    """Count what all rings that send have given, and what became of it."""
    sent = [each for device in devices for each in device.datapath.statistics()[1:-1:2]]
    dropped = sum(each.dropped for device in devices for each in device.port.counters()[::2])
    return {
        "frames": sum(each.requests for each in sent),
        "kicks": sum(each.kicks for each in sent),
        "dropped": dropped,
        "busy_ns": switch.workers.busy_ns,
    }


async def _serve(arguments: argparse.Namespace) -> None:
    switching = SwitchOptions(mode=arguments.mode, frame_size=arguments.size)
    threads = WorkerOptions(
        count=arguments.workers,
        poll_us=arguments.poll_us,
        busy_poll=arguments.busy_poll,
        account=True,
    )
    async with AsyncExitStack() as stack:
        switch = await stack.enter_async_context(NetSwitch.open(switching, threads))
        ports = NetOptions(queue_pairs=arguments.pairs)
        devices = [
            await stack.enter_async_context(NetDevice.open(switch, ports))
            for _ in arguments.sockets
        ]
        endpoints = [ListeningEndpoint(bind_unix(path), path) for path in arguments.sockets]
        for endpoint in endpoints:
            stack.callback(endpoint.close)
        nursery = await stack.enter_async_context(trio.open_nursery())
        for device, endpoint in zip(devices, endpoints, strict=True):
            nursery.start_soon(Server(device=device, endpoint=endpoint).run)
        await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        sys.stdout.write(json.dumps(_went_through(switch, devices)) + "\n")
        nursery.cancel_scope.cancel()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.switching", description=__doc__)
    parser.add_argument("mode", choices=SWITCH_MODES)
    parser.add_argument("sockets", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=64, help="bytes of a frame of a source")
    parser.add_argument("--pairs", type=int, default=1, help="of queues of each port")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--poll-us", type=int, default=WorkerOptions().poll_us)
    parser.add_argument("--busy-poll", action="store_true")
    return parser


if __name__ == "__main__":
    trio.run(_serve, _parser().parse_args())
