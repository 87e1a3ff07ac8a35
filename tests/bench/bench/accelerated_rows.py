"""Rows about accelerators: what a hand-over is worth, and how quick vfio-user is."""

from __future__ import annotations

from dataclasses import replace

from .row import Backend, Bar, Client, Contestant, Load, Row

__all__ = ["ACCELERATED_ROWS"]


def _hand_over_rows() -> list[Row]:
    """Runs differ by a few percent, and the bar is near: what is wanted is many of them."""
    rows = []
    for poll, depth, keep in ((True, 1, 9), (True, 32, 21), (False, 32, 9)):
        load = Load(depth=depth, poll=poll)
        contestants = [
            Contestant(name="passed", backend=Backend.PASSED, load=load),
            Contestant(name="straight", backend=Backend.STRAIGHT, load=load),
        ]
        if not poll:  # else there are hardly any kicks
            contestants.append(Contestant(name="relayed", backend=Backend.RELAYED, load=load))
        both = "driver and device poll" if poll else "both sleep"
        rows.append(
            Row(
                name=f"hand-over-{'poll' if poll else 'sleep'}-qd{depth}",
                group="hand-over",
                title=f"simulated null disk, read, QD{depth}, {both}",
                contestants=tuple(contestants),
                bars=(Bar(of="passed", over=("straight",), least=0.98),),
                gated=poll,
                keep=keep,
            )
        )
    return rows


def _round_trip_rows() -> list[Row]:
    """A bar holds the client alone: the other end is the same for both.

    On two processors most of a round trip is waking up, of which a virtual machine makes what it
    likes: the figures are published, that is all.
    """
    rows = []
    for together in (False, True):
        load = Load(poll=False, together=together)
        bar = Bar(of="blocking client, C", over=("C, C",), most=1.3, cost=True)
        kinds = {"C": Client.C, "blocking client": Client.BLOCKING, "trio client": Client.TRIO}
        servers = {"C": Backend.ECHO, "our device": Backend.DEVICE}
        contestants = [
            Contestant(name=f"{client}, {server}", backend=backend, load=replace(load, client=kind))
            for server, backend in servers.items()
            for client, kind in kinds.items()
        ]
        where = "on one processor" if together else "on two processors"
        rows.append(
            Row(
                name=f"vfio-user-{'together' if together else 'apart'}",
                group="vfio-user",
                title=f"read 4 bytes of a register over vfio-user, {where}",
                contestants=tuple(contestants),
                bars=(bar,) if together else (),
                gated=False,
            )
        )
    return rows


ACCELERATED_ROWS: tuple[Row, ...] = (*_hand_over_rows(), *_round_trip_rows())
"""In the order in which they are measured and published."""
