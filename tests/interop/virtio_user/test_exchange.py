"""DPDK's virtio-user finds every frame as it was sent: order, length, each byte, each checksum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from virtio_user import PATHS

if TYPE_CHECKING:
    from conftest import Run, StartSwitch
    from virtio_user import DriverPath

pytestmark = pytest.mark.interop

_FRAMES = 4000
"""That each queue sends in a round; more than its ring has slots, many times over."""


def test_frames_go_from_port_to_port_both_ways(
    path: DriverPath, switch: StartSwitch, run: Run
) -> None:
    served, sockets = switch()
    rounds = 2 if path.sums else 1  # the second has checksums computed, after a reset
    figures = run(sockets, path, frames=_FRAMES, rounds=rounds)
    assert figures.received == figures.frames == 2 * rounds * _FRAMES
    assert figures.lost == 0
    served.terminate()


def test_an_echo_returns_what_was_sent(merged: DriverPath, switch: StartSwitch, run: Run) -> None:
    served, sockets = switch("--mode", "echo", ports=1)
    figures = run(sockets, merged, frames=_FRAMES)
    assert figures.received == figures.frames == _FRAMES
    served.terminate()


@pytest.mark.parametrize("workers", [1, 2])
def test_flows_come_back_by_the_queue_that_sends_them(
    workers: int, merged: DriverPath, switch: StartSwitch, run: Run
) -> None:
    served, sockets = switch("--queue-pairs", 2, "--workers", workers)
    figures = run(sockets, merged, frames=_FRAMES, queues=2)
    assert figures.received == figures.frames == 4 * _FRAMES
    assert min(figures.queues) > _FRAMES
    served.terminate()


def test_a_front_end_takes_fewer_pairs_than_there_are(
    merged: DriverPath, switch: StartSwitch, run: Run
) -> None:
    served, sockets = switch("--queue-pairs", 4)
    figures = run(sockets, merged, frames=_FRAMES, queues=2)
    assert figures.received == figures.frames == 4 * _FRAMES
    served.terminate()


def test_jumbo_frames_are_spread_over_several_buffers(
    merged: DriverPath, switch: StartSwitch, run: Run
) -> None:
    served, sockets = switch("--mtu", 9000)
    figures = run(sockets, merged, frames=_FRAMES, mtu=9000, size=1024, buffers=16383)
    assert figures.received == figures.frames == 2 * _FRAMES
    served.terminate()


# In a packed ring that is not in order DPDK mixes up frames of up to 7 buffers with longer ones: it
# gives the first no identity (22.11). Larger buffers make all of them short.
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("split-merged", {"size": 1024, "buffers": 16383}),
        ("packed-in-order", {"size": 1024, "buffers": 16383}),
        ("packed-merged", {"room": 16000, "buffers": 2047}),
    ],
    ids=["split-merged", "packed-in-order", "packed-merged"],
)
@pytest.mark.parametrize("offloads", [(1, 1), (1, 0), (0, 1)], ids=["both", "one", "other"])
@pytest.mark.parametrize("ipv6", [0, 1], ids=["ipv4", "ipv6"])
def test_large_frames_are_cut_for_whom_does_not_take_them(  # noqa: PLR0913, PLR0917 - two fixtures
    ipv6: int,
    offloads: tuple[int, int],
    name: str,
    sizes: dict[str, int],
    switch: StartSwitch,
    run: Run,
) -> None:
    served, sockets = switch()
    one, other = offloads
    options = {"offload0": one, "offload1": other, "ipv6": ipv6, **sizes}
    figures = run(sockets, PATHS[name], frames=300, **options)
    if one and other:
        assert figures.received == figures.frames
    else:
        assert figures.received > 5 * figures.frames
    served.terminate()


def test_one_front_end_comes_after_the_other(switch: StartSwitch, run: Run) -> None:
    served, sockets = switch()
    for name in ("split-merged", "packed", "split-in-order"):
        figures = run(sockets, PATHS[name], frames=_FRAMES)
        assert figures.received == figures.frames
    served.terminate()
