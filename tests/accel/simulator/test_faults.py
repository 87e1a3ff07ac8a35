"""Faults as a person writes them."""

from __future__ import annotations

import pytest

from accel.simulator import FaultKind, FaultRequest, parse_fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("stuck-queue", FaultRequest(kind=FaultKind.STUCK_QUEUE)),
        (
            "lost-interrupt:queue=1:count=3",
            FaultRequest(kind=FaultKind.LOST_INTERRUPT, queue=1, count=3),
        ),
        ("wrong-used-id:after=100", FaultRequest(kind=FaultKind.WRONG_USED_ID, after=100)),
        ("sudden-death:on-signal", FaultRequest(kind=FaultKind.SUDDEN_DEATH, on_signal=True)),
    ],
)
def test_a_fault_is_read(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fire",
        "stuck-queue:",
        "stuck-queue:queue",
        "stuck-queue:queue=-1",
        "stuck-queue:after=99999999999",
        "stuck-queue:often=1",
        "needs-reset:after=1:on-signal",
    ],
)
def test_what_means_nothing_is_refused_with_what_would(text):
    with pytest.raises(ValueError, match=r"stuck-queue|after=N"):
        parse_fault(text)
