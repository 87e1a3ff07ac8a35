"""`vhostuser simulate`: serve an accelerator in software over vfio-user, to try without one."""

from __future__ import annotations

import argparse
import contextlib
import functools
from typing import TYPE_CHECKING, TypeVar

from accel.cli.simulating import Served, run_simulated
from accel.simulator import (
    FAULT_SYNTAX,
    NetSimulatorOptions,
    SimulatedDevice,
    SimulatorOptions,
    parse_fault,
)
from vhostuser.cli.command import Command
from vhostuser.datapath import WorkerOptions
from vhostuser.devices import NetDevice, NetOptions, NetSwitch, SwitchOptions
from vhostuser.disks import DiskConfig, open_device
from vhostuser.errors import UsageError
from vhostuser.options import OptionTable, Source, add_arguments, given, read
from vhostuser.server import ListeningEndpoint, bind_unix
from vhostuser.serving import open_endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from accel.cli.simulating import Sockets
    from accel.simulator import FaultRequest

__all__ = ["COMMAND"]

_Table = TypeVar("_Table", bound=OptionTable)
_FIRST_MAC = bytes.fromhex("020000000000")
_PEER_MAC = bytes.fromhex("020000000001")


def _configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="devices", metavar="DEVICE", required=True)
    words = "a disk, with the options of `vhostuser blk`"
    blk = kinds.add_parser("blk", help=words, description=f"Simulate {words}.")
    add_arguments(blk, DiskConfig)
    _add_common(blk)
    blk.set_defaults(run=_run_blk)
    words = "a network device that loops frames back, or two that exchange them"
    net = kinds.add_parser("net", help=words, description=f"Simulate {words}.")
    add_arguments(net, NetSimulatorOptions)
    _add_common(net)
    net.set_defaults(run=_run_net)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verbose",
        "-v",
        action="store_true",
        default=argparse.SUPPRESS,  # it may stand before the device, too
        help="log every message, too",
    )
    add_arguments(parser, SimulatorOptions)
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar=FAULT_SYNTAX,
        help="let something go wrong with the (first) device: stuck-queue, lost-interrupt, "
        "wrong-used-id, needs-reset or sudden-death; at once, after N requests or at SIGUSR1; may "
        "be given several times",
    )


def _read(table: type[_Table], namespace: argparse.Namespace) -> _Table:
    made, problems = read(table, given(namespace, table), Source.COMMAND_LINE)
    if made is None:
        raise UsageError("\n".join(map(str, problems)))
    return made


def _faults(namespace: argparse.Namespace, queues: int) -> list[FaultRequest]:
    try:
        faults = [parse_fault(text) for text in namespace.fault]
    except ValueError as error:
        raise UsageError(f"--fault: {error}") from error
    for fault in faults:
        if fault.queue is not None and fault.queue >= queues:
            raise UsageError(f"--fault: there is no queue {fault.queue}: the device has {queues}")
    return faults


def _run_blk(namespace: argparse.Namespace) -> int:
    config = _read(DiskConfig, namespace)
    options = _read(SimulatorOptions, namespace)
    faults = _faults(namespace, config.num_queues)
    run_simulated(functools.partial(_open_blk, config, options, faults))
    return 0


@contextlib.asynccontextmanager
async def _open_blk(
    config: DiskConfig,
    options: SimulatorOptions,
    faults: Sequence[FaultRequest],
    sockets: Sockets,
) -> AsyncIterator[list[Served]]:
    async with contextlib.AsyncExitStack() as stack:
        endpoint = stack.enter_context(contextlib.closing(open_endpoint(config, {})))
        sockets.note(config.socket_path)
        device = await stack.enter_async_context(open_device(config))
        name = f"simulated:{config.id}"
        simulated = await stack.enter_async_context(
            SimulatedDevice.open(device, options, name=name, faults=faults)
        )
        yield [
            Served(
                device=simulated,
                endpoint=endpoint,
                words=f"a virtio disk of {device.size} bytes on {config.place}",
                resizable=device,
            )
        ]


def _run_net(namespace: argparse.Namespace) -> int:
    config = _read(NetSimulatorOptions, namespace)
    options = _read(SimulatorOptions, namespace)
    faults = _faults(namespace, NetOptions().queues)
    run_simulated(functools.partial(_open_net, config, options, faults))
    return 0


@contextlib.asynccontextmanager
async def _open_net(
    config: NetSimulatorOptions,
    options: SimulatorOptions,
    faults: Sequence[FaultRequest],
    sockets: Sockets,
) -> AsyncIterator[list[Served]]:
    paths = [path for path in (config.socket_path, config.peer) if path is not None]
    macs = (config.mac or _FIRST_MAC, _PEER_MAC)
    switch_options = SwitchOptions(mode="echo" if config.peer is None else "switch", ports=2)
    workers = WorkerOptions(poll_us=config.poll_us, busy_poll=config.busy_poll)
    async with contextlib.AsyncExitStack() as stack:
        endpoints = []
        for path in paths:
            endpoint = ListeningEndpoint(bind_unix(path), path)
            endpoints.append(stack.enter_context(contextlib.closing(endpoint)))
            sockets.note(path)
        switch = await stack.enter_async_context(NetSwitch.open(switch_options, workers))
        served = []
        for number, (path, endpoint) in enumerate(zip(paths, endpoints, strict=True)):
            shown = NetOptions(mac=macs[number], mtu=config.mtu, queue_size=config.queue_size)
            device = await stack.enter_async_context(NetDevice.open(switch, shown))
            simulated = await stack.enter_async_context(
                SimulatedDevice.open(
                    device,
                    options,
                    name=f"simulated:net{number}",
                    faults=() if number else faults,
                )
            )
            words = f"a virtio network device on {path}"
            served.append(Served(device=simulated, endpoint=endpoint, words=words))
        yield served


COMMAND = Command(
    summary="serve an accelerator in software over vfio-user: blk or net",
    configure=_configure,
    run=_run_blk,  # each device sets its own
    obeys_signals=True,
)
