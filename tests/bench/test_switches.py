"""Switches say how busy they were, and the client on our own rings finds what is wrong with one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from bench.conversation import Conversation
from bench.errors import RunFailedError
from bench.net_row import NetLoad, Traffic
from bench.net_serve import dpdk_counters, our_counters
from bench.programs import build_net_ring_load, engine_library
from bench.serve import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TESTPMD = """\
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++

  CPU cycles/packet=82.50 (total cycles=330000 / total RX packets=4000) at 2500 MHz Clock
testpmd> quit
"""


@pytest.fixture(scope="module")
def client() -> Path:
    return build_net_ring_load(engine_library())


def test_dpdk_is_as_busy_as_its_cycles_take() -> None:
    assert dpdk_counters(_TESTPMD) == {"busy ns": 33.0}


def test_ours_is_as_busy_as_its_passes_took_for_each_frame_it_was_given() -> None:
    said = {"frames": 2000, "busy_ns": 26_000, "kicks": 4, "dropped": 1}
    counters = our_counters(f"a warning\n{json.dumps(said)}\n")
    assert counters == {"busy ns": 13.0, "kicks": 2.0, "dropped": 0.5}


@pytest.mark.parametrize("read", [dpdk_counters, our_counters])
def test_a_switch_that_does_not_say_how_busy_it_was_is_a_failed_run(
    read: Callable[[str], dict[str, float]],
) -> None:
    with pytest.raises(RunFailedError, match=r"does not say.*Segmentation fault"):
        read("Segmentation fault")


def test_no_frame_is_no_figure() -> None:
    said = {"frames": 0, "busy_ns": 5, "kicks": 0, "dropped": 0}
    with pytest.raises(RunFailedError, match="no frame"):
        our_counters(json.dumps(said))


@pytest.mark.parametrize(
    ("load", "mode"),
    [
        (NetLoad(traffic=Traffic.SINK, ports=1), "sink"),
        (NetLoad(traffic=Traffic.SOURCE, ports=1), "source"),
        (NetLoad(traffic=Traffic.ROUND_TRIP, ports=1), "echo"),
        (NetLoad(traffic=Traffic.ROUND_TRIP, ports=2), "switch"),
        (NetLoad(traffic=Traffic.BOTH_WAYS, ports=16), "switch"),
    ],
)
def test_traffic_says_what_the_switch_must_do(load: NetLoad, mode: str) -> None:
    assert load.mode == mode


_SHAPES = {
    "plain": ("one-way", "60"),
    "chained, packed": ("both-ways", "1518", "--shape", "chained", "--packed"),
    "indirect": ("one-way", "1518", "--shape", "indirect"),
    "several buffers": ("one-way", "1518", "--buffer", "256", "--packed"),
    "to be segmented": (
        *("one-way", "64294", "--shape", "indirect", "--segment", "1460", "--buffer", "4096"),
    ),
    "several pairs": ("both-ways", "64", "--pairs", "3"),
    "asleep": ("round-trip", "64", "--sleep", "--pace", "2000"),
}


@pytest.mark.parametrize("shape", _SHAPES.values(), ids=_SHAPES)
def test_frames_of_every_shape_arrive_whole(
    client: Path, shape: tuple[str, ...], tmp_path: Path
) -> None:
    sockets = (tmp_path / "0", tmp_path / "1", tmp_path / "idle")
    pairs = shape[shape.index("--pairs") + 1] if "--pairs" in shape else "1"
    places = [word for path in sockets for word in ("--socket-path", str(path))]
    server = [sys.executable, "-m", "vhostuser", "net", "--queue-pairs", pairs, *places]
    command = [str(client), *shape, "--ports", "2", "--warm", "0", "--seconds", "0.05"]
    with (
        running(server, sockets),
        Conversation.with_program([*command, *map(str, sockets)], log=tmp_path / "log") as told,
    ):
        assert told.hear() == {"ready": 1}
        told.go_on()
        figures = told.hear()
        told.leave()
    assert figures["errors"] == 0
    assert figures["requests"] > 0


def test_a_client_without_a_switch_says_so(client: Path, tmp_path: Path) -> None:
    command = [str(client), "one-way", "64", str(tmp_path / "0"), str(tmp_path / "1")]
    with (
        Conversation.with_program(command, log=tmp_path / "log") as told,
        pytest.raises(RunFailedError, match="cannot connect: No such file or directory"),
    ):
        told.hear()


def test_a_client_refuses_what_makes_no_sense(client: Path) -> None:
    done = subprocess.run(
        [client, "one-way", "64", "--ports", "1", "a"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "an even number" in done.stderr
