"""THE tables of options of a switch and of its ports; what is common is `vhostuser.serving`'s.

`vhostuser net`, the file of `--config`, the control socket's `port-add`, `--check` and the
generated reference all derive from these classes; a new option is one more field here, and its use
where a port is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vhostuser.devices import MAX_PAIRS, SWITCH_MODES
from vhostuser.devices.tap_device import TAP_MAX_MTU, TAP_MIN_MTU
from vhostuser.options import Choice, Flag, Interface, Mac, Number, Problem, option
from vhostuser.serving import (
    ID,
    LONGEST_POLL_US,
    MOST_WORKERS,
    NAMED,
    ProgramConfig,
    ServedConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PortConfig", "SwitchConfig", "same_address", "same_tap"]

_LARGEST_QUEUE = 32768
_MOST_ADDRESSES = 16384
_LONGEST_AGEING = 1_000_000
_FASTEST = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PortConfig(ServedConfig):
    """How one port is served. Each field is an option of the same name, with "-" for "_"."""

    WORD: ClassVar[str] = "port"
    NOWHERE: ClassVar[str] = ServedConfig.NOWHERE.replace(
        "where are front-ends? Give", "where does the port lead? Give --tap NAME,"
    ).replace("(in a file ", "(in a file tap, ")

    id: str = option(
        ID,
        "what the port is called in logs, events and commands",
        default="port",
        sources=NAMED,
        required=NAMED,
    )

    tap: str | None = option(
        Interface(),
        "use this TAP device of the host, which is made if there is none",
        group="socket",
    )
    bridge: str | None = option(Interface(), "put the TAP device into this bridge of the host")

    mac: bytes | None = option(
        Mac(),
        "address of the guest's device (without: 02:00:00:00 and a number). QEMU tells its guest "
        "its own mac= instead",
        sources=NAMED,
    )
    lock_mac: bool = option(
        Flag(),
        "drop what the guest sends from another address than mac",
        default=False,
        sources=NAMED,
    )
    queue_pairs: int = option(
        Number(1, MAX_PAIRS), "pairs of queues, one to receive and one to send", default=1
    )
    queue_size: int = option(
        Number(2, _LARGEST_QUEUE), "largest ring size accepted of a guest", default=1024
    )
    mtu: int | None = option(
        Number(TAP_MIN_MTU, TAP_MAX_MTU),
        "largest payload of a frame in bytes: what a guest is told (without: 1500), or a TAP "
        "device gets (without: it stays as it is)",
    )
    speed: int | None = option(
        Number(0, _FASTEST), "speed of the link that a guest is told, in Mbit/s (without: unknown)"
    )
    addresses: int = option(
        Number(1, _MOST_ADDRESSES), "most addresses that are learned at the port", default=1024
    )

    def problems(self) -> Iterator[Problem]:
        """Yield what does not go together."""
        yield from ServedConfig.problems(self)
        if self.bridge is not None and self.tap is None:
            yield Problem("bridge", "is of a TAP device: give tap")
        if self.mac is not None and self.tap is not None:
            yield Problem("mac", "is of a guest's device: a TAP device has its own")
        if self.lock_mac and self.mac is None:
            yield Problem("lock-mac", "is to an address: give mac")

    @property
    def placed(self) -> bool:
        """Whether its options alone say where it leads."""
        return self.tap is not None or self.has_socket

    @property
    def place(self) -> str:
        """Where it leads, in words."""
        return f"TAP {self.tap}" if self.tap else self.socket_words


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchConfig(ProgramConfig):
    """How the switch behaves, and the program around it."""

    mode: str = option(
        Choice(*SWITCH_MODES),
        "what becomes of frames: switch them, send them back, drop them, or drop them and fill all "
        "receive buffers (the last three are for tests)",
        default="switch",
    )
    ageing_s: int = option(
        Number(1, _LONGEST_AGEING),
        "how long an address is known that sends nothing, in seconds",
        default=300,
    )
    frame_size: int = option(
        Number(14, 1518), "bytes of a frame that a source makes (--mode source)", default=64
    )
    workers: int = option(
        Number(1, MOST_WORKERS), "threads that carry frames for all ports", default=1
    )
    poll_us: int = option(
        Number(0, LONGEST_POLL_US),
        "longest time to poll idle rings before sleeping, in us",
        default=50,
    )
    busy_poll: bool = option(
        Flag(), "never sleep: each worker keeps a processor busy", default=False
    )


def same_tap(tap: str, owner: str) -> Problem:
    """Return what is wrong with a second port on a TAP device of port `owner`."""
    return Problem("tap", f"{tap} is the TAP device of port '{owner}', too: choose another")


def same_address(owner: str) -> Problem:
    """Return what is wrong with a second port that has the address of port `owner`."""
    return Problem("mac", f"port '{owner}' has the same address: each needs its own")
