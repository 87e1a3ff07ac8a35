"""A program that is a switch of TAP devices: `python tap_switch.py '{"taps": [{"name": "tap0"}]}'`.

It prints a line of JSON for what happens, answers each line that it reads with one, and ends when
there is nothing more to read. TAP devices are made where a process is: so tests start it in a
namespace of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from typing import Any

import trio

from vhostuser.datapath import WorkerOptions
from vhostuser.devices import NetSwitch
from vhostuser.devices.tap import TapOptions, TapPort
from vhostuser.errors import TapError, UsageError


def _say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def _report(taps: list[TapPort], tap: TapPort) -> None:
    await tap.removed.wait()
    _say(removed=tap.name, link_up=tap.port.link_up, number=taps.index(tap))


def _counters(switch: NetSwitch, taps: list[TapPort]) -> None:
    _say(
        counters=[[dataclasses.asdict(ring) for ring in tap.port.counters()] for tap in taps],
        addresses=[[entry.mac.hex(":"), entry.port] for entry in switch.addresses()],
    )


async def _obey(switch: NetSwitch, taps: list[TapPort]) -> None:
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stream:
        async for chunk in stream:
            for line in bytes(chunk).decode().splitlines():
                word, _, number = line.partition(" ")
                if word == "counters":
                    _counters(switch, taps)
                elif word in {"up", "down"}:
                    await taps[int(number)].set_link(up=word == "up")
                    _say(done=line)
                elif word == "announce":
                    taps[int(number)].port.announce(bytes.fromhex("020000000042"))
                    _say(done=line)


async def _main(wanted: dict[str, Any]) -> None:
    workers = WorkerOptions(**wanted.get("workers", {}))
    async with NetSwitch.open(workers=workers) as switch, contextlib.AsyncExitStack() as stack:
        taps = []
        for options in wanted["taps"]:
            opened = TapPort.open(switch, TapOptions(**options))
            taps.append(await stack.enter_async_context(opened))
        _say(taps=[{"name": tap.name, "mac": tap.mac.hex(":"), "mtu": tap.mtu} for tap in taps])
        async with trio.open_nursery() as nursery:
            for tap in taps:
                nursery.start_soon(_report, taps, tap)
            await _obey(switch, taps)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    try:
        trio.run(_main, json.loads(sys.argv[1]))
    except* (TapError, UsageError) as group:
        for error in group.exceptions:
            _say(error=error.strerror if isinstance(error, TapError) else str(error))
        sys.exit(1)
