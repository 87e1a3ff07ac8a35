"""A switch as a user runs it, `vhostuser net`, with what its control socket says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guest_rig import control

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Counted", "Switch"]


@dataclass(frozen=True, slots=True)
class Counted:
    """What the rings of a port have counted, in the view of who is there.

    Attributes:
        received: frames.
        received_bytes: of these, without their headers.
        segments: frames among them that were cut out of larger ones.
        sent: frames.
        sent_bytes: of these, without their headers.
        rings: frames of each ring.
        drops: frames, by the reason.
    """

    received: int
    received_bytes: int
    segments: int
    sent: int
    sent_bytes: int
    rings: tuple[int, ...]
    drops: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, rings: list[dict[str, Any]]) -> Counted:
        """Sum up what `query-ports` says of the rings of a port."""

        def total(name: str, direction: str) -> int:
            return sum(ring[name] for ring in rings if ring["direction"] == direction)

        drops: dict[str, int] = {}
        for ring in rings:
            for reason, count in ring["drops"].items():
                drops[reason] = drops.get(reason, 0) + count
        return cls(
            received=total("frames", "receive"),
            received_bytes=total("bytes", "receive"),
            segments=total("segments", "receive"),
            sent=total("frames", "send"),
            sent_bytes=total("bytes", "send"),
            rings=tuple(ring["frames"] for ring in rings),
            drops=drops,
        )


class Switch:
    """A running switch, whose ports are made by its control socket.

    Args:
        served: its process; see `backend` of tests/interop.
    """

    def __init__(self, served: Any) -> None:
        self.served = served

    @classmethod
    def start(cls, backend: Callable[..., Any], *arguments: object, **options: Any) -> Switch:
        """Start one with a port that nobody uses, and further arguments."""
        return cls(backend(*arguments, command="net", **options))

    def tell(self, command: str, **arguments: object) -> Any:
        """Execute a command on its control socket; a name's "_" stands for "-"."""
        plain = {name.replace("_", "-"): value for name, value in arguments.items()}
        return control(self.served.control, command, **plain)

    def add(self, name: str, **options: object) -> Path:
        """Add a port for a guest; return the socket where it listens."""
        socket: Path = self.served.socket.parent / name
        self.tell("port-add", id=name, socket_path=str(socket), **options)
        return socket

    def add_tap(self, name: str, **options: object) -> None:
        """Add a port that is a TAP device of this name."""
        self.tell("port-add", id=name, tap=name, **options)

    def remove(self, name: str) -> None:
        """Remove a port."""
        self.tell("port-remove", id=name)

    def set_link(self, name: str, *, up: bool) -> None:
        """Plug the cable of a port in, or pull it."""
        self.tell("port-set-link", id=name, up=up)

    def port(self, name: str) -> dict[str, Any]:
        """Return what `query-ports` says of a port."""
        (found,) = self.tell("query-ports", id=name)
        assert isinstance(found, dict)
        return found

    def counted(self, name: str) -> Counted:
        """Return what a port has counted."""
        return Counted.of(self.port(name)["rings"])

    def addresses(self) -> dict[str, str]:
        """Return which address lives at which port."""
        return {entry["mac"]: entry["id"] for entry in self.tell("query-addresses")}
