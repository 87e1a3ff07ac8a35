"""`vhostuser accel`: serve whatever virtio device an accelerator is; look for and bind devices."""

from __future__ import annotations

import argparse
import contextlib
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from accel.cli.devices import DEVICE_COMMANDS
from protocol.vhost_user import CURRENT, DIALECTS
from vhostuser.cli.blk import DISKS
from vhostuser.cli.command import Command
from vhostuser.cli.serving import run_served
from vhostuser.datapath import open_accelerator
from vhostuser.devices import AcceleratedDevice
from vhostuser.disks import DiskConfig, DiskSet, ServedKind, open_device
from vhostuser.errors import UsageError
from vhostuser.options import Source, add_arguments, given, read
from vhostuser.serving import ProgramConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from protocol.vhost_user import Dialect
    from vhostuser.datapath import Accelerator
    from vhostuser.devices import SizedDevice

__all__ = ["COMMAND"]

_BLOCK = 2  # as virtio numbers its devices


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accelerated:
    """How an accelerator is served.

    Attributes:
        name: driver and address.
        dialect: of the protocol.
        hand_over: whether drivers are offered notify areas.
        as_many: whether the software beside it shall have as many queues as the accelerator.
    """

    name: str
    dialect: Dialect
    hand_over: bool
    as_many: bool

    @contextlib.asynccontextmanager
    async def open_device(self, config: DiskConfig) -> AsyncIterator[SizedDevice]:
        """Open the accelerator, and the software beside it where the command line names a store."""
        async with contextlib.AsyncExitStack() as stack:
            accelerator = await stack.enter_async_context(open_accelerator(self.name))
            software = None
            if not config.built_in:
                _refuse_other_than_disk(accelerator, self.name)
                if self.as_many:
                    config = replace(config, num_queues=len(accelerator.queue_sizes))
                software = await stack.enter_async_context(open_device(config))
            yield await stack.enter_async_context(
                AcceleratedDevice.open(
                    accelerator,
                    dialect=self.dialect,
                    hand_over=self.hand_over,
                    software=software,
                )
            )

    def describe(self, config: DiskConfig, device: SizedDevice) -> str:
        """Say in a few words what is served, and where."""
        profile = device.profile
        queues = "1 queue" if profile.queues == 1 else f"{profile.queues} queues"
        kind = f"a virtio {profile.kind} device"
        return f"the accelerator {self.name}, {kind} with {queues}, on {config.place}"


def _refuse_other_than_disk(accelerator: Accelerator, name: str) -> None:
    kind = accelerator.identity.device_id
    if kind != _BLOCK:
        raise UsageError(
            f"{name} is no disk (virtio device type {kind}): in software there are only disks, so "
            "leave out --blk-file, --memory and --null"
        )


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The options of a disk are those of the software beside the accelerator, which serves the "
        "rings that the accelerator cannot. Without --blk-file, --memory or --null there is none; "
        "without --num-queues it has as many queues as the accelerator."
    )
    parser.add_argument(
        "--accel",
        metavar="DRIVER:ADDRESS",
        help="the accelerator: vfio:0000:01:00.0[,share-device-fd=on] or vfio-user:PATH, or one of "
        "another driver",
    )
    parser.add_argument(
        "--dialect",
        choices=sorted(DIALECTS),
        default=CURRENT.name,
        help="version of the protocol; the RFC ones are those of 2017 and 2018 (default: current)",
    )
    parser.add_argument(
        "--hand-over",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="offer drivers the device's notify areas; without, every kick is relayed",
    )
    for config in (DiskConfig, ProgramConfig):
        add_arguments(parser, config)
    commands = parser.add_subparsers(title="instead of serving", metavar="COMMAND")
    for name, command in DEVICE_COMMANDS.items():
        sub = commands.add_parser(name, help=command.summary, description=command.summary)
        command.configure(sub)
        sub.set_defaults(run=command.run, obeys_signals=command.obeys_signals)


def _run(namespace: argparse.Namespace) -> int:
    if namespace.accel is None:
        raise UsageError(
            "which accelerator? Give --accel vfio:ADDRESS or --accel vfio-user:PATH "
            "(`vhostuser accel list` shows PCI devices)"
        )
    of_disk = given(namespace, DiskConfig)
    disk, problems = read(DiskConfig, of_disk, Source.COMMAND_LINE)
    program, more = read(ProgramConfig, given(namespace, ProgramConfig), Source.COMMAND_LINE)
    if disk is None or program is None:
        raise UsageError("\n".join(map(str, [*problems, *more])))
    served = _Accelerated(
        name=namespace.accel,
        dialect=DIALECTS[namespace.dialect],
        hand_over=namespace.hand_over,
        as_many="num-queues" not in of_disk,
    )
    kind = ServedKind(
        open_device=served.open_device, describe=served.describe, dialect=served.dialect
    )
    open_set = functools.partial(DiskSet.open, kind=kind)
    run_served(namespace, replace(DISKS, open_set=open_set), program, [disk])
    return 0


COMMAND = Command(
    summary="serve an accelerator: a virtio device behind VFIO or vfio-user",
    configure=_configure,
    run=_run,
    obeys_signals=True,
)
