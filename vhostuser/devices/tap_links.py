"""What the kernel says of the host's interfaces, and what is changed of them, by rtnetlink.

Each call may wait for whoever else changes interfaces: none is for the trio thread.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["Link", "Links"]

_TYPE_TAP = 2
_UP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface.

    Attributes:
        index: its number.
        kind: what made it ("bridge", "tun", "veth", ...); "" for hardware.
        mac: its address; b"" if it has none.
        mtu: largest payload of a frame, bytes.
        up: whether it was brought up.
        bridge: index of the interface that it is a port of; 0: of none.
        tap: of those of the kind "tun": whether it carries frames, and not packets.
        multi_queue: of those: whether it has several queues.
        users: of those: how many queues are in use; 1 if it has one and nothing is known.
        owner, group: of those: who may use it; None: it is nobody's.
    """

    index: int
    kind: str
    mac: bytes
    mtu: int
    up: bool
    bridge: int
    tap: bool
    multi_queue: bool
    users: int
    owner: int | None
    group: int | None

    @classmethod
    def parse(cls, message: Any) -> Self:  # noqa: ANN401 - pyroute2 has no types
        """Take what is of interest out of a message of the kernel."""
        info = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
        data = info.get_attr if kind == "tun" and info is not None else _nothing
        return cls(
            index=message["index"],
            kind=kind,
            mac=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
            mtu=message.get_attr("IFLA_MTU") or 0,
            up=bool(message["flags"] & _UP),
            bridge=message.get_attr("IFLA_MASTER") or 0,
            tap=data("IFLA_TUN_TYPE") == _TYPE_TAP,
            multi_queue=bool(data("IFLA_TUN_MULTI_QUEUE")),
            users=data("IFLA_TUN_NUM_QUEUES") or 0,
            owner=data("IFLA_TUN_OWNER"),
            group=data("IFLA_TUN_GROUP"),
        )


def _nothing(name: str) -> None:
    del name


class Links:
    """The interfaces of the host, in a `with` block.

    Raises:
        OSError: the kernel speaks no rtnetlink with us.
    """

    def __init__(self) -> None:
        import pyroute2  # noqa: PLC0415 - takes 0.2 s, and only those with a TAP need it

        self._refused = pyroute2.NetlinkError
        with self._refusals():
            self._route = pyroute2.IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._route.close()

    def find(self, name: str) -> Link | None:
        """Return the interface of this name; None: there is none. Raises OSError."""
        try:
            with self._refusals():
                found = self._route.link("get", ifname=name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return Link.parse(found[0])

    def change(self, link: Link, **attributes: object) -> None:
        """Change an interface.

        Args:
            link: which.
            attributes: as pyroute2 names them: `mtu`, `state`, `master`.

        Raises:
            OSError: the kernel refused.
        """
        with self._refusals():
            self._route.link("set", index=link.index, **attributes)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Have what the kernel refused come out as an OSError: pyroute2 has errors of its own."""
        try:
            yield
        except self._refused as error:
            raise OSError(error.code, error.args[-1]) from error
