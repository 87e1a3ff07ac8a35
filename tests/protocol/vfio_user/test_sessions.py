"""A short run of the fuzzer of whole sessions, and that it would notice what it looks for."""

from __future__ import annotations

from typing import Any

import pytest
from fuzzing.vfio_user import Figures, FindingError, fuzz
from fuzzing.vfio_user_traffic import load

from protocol import vfio_user as v
from protocol.vfio_user import intake, receiving


def test_thousands_of_sessions_find_nothing() -> None:
    figures = fuzz(5000, seed=7)
    assert figures.sessions == 5000
    assert figures.requests > 2000
    assert figures.replies > 1000
    assert figures.rejected - figures.fatal > 300
    assert figures.fatal > 1000
    assert figures.fds > 10_000


def test_the_traffic_to_begin_with_has_every_command() -> None:
    corpus = load()
    requests = {v.Header.parse(write.data).command for write in corpus.requests}
    assert requests == {row.number for row in v.ROWS if row.sender is v.Role.CLIENT} - {1}
    assert {v.Header.parse(write.data).command for write in corpus.server_requests} == {11, 12}
    assert len(corpus.versions) == 4


def lose_fds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "close_all", lambda fds: None)


def close_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def close_all(fds: Any) -> None:
        for fd in fds:
            fd.close()
            fd.close()

    monkeypatch.setattr(receiving, "close_all", close_all)


def raise_something(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("size")

    monkeypatch.setattr(receiving, "require_answers", broken)


def mix_up_fds(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(self: Any, data: bytes, begun: int) -> int:
        return begun if begun == 0 else -1

    monkeypatch.setattr(intake.Intake, "_owner", first)


def say_more_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving.Receiver, "close", lambda self: None)


@pytest.mark.parametrize(
    "spoil", [lose_fds, close_twice, raise_something, mix_up_fds, say_more_after_the_end]
)
def test_a_connection_that_breaks_an_invariant_is_noticed(
    monkeypatch: pytest.MonkeyPatch, spoil: Any
) -> None:
    spoil(monkeypatch)
    with pytest.raises(FindingError, match=r"session 1\.\d+: "):
        fuzz(2000, seed=1)


def test_figures_count_each_kind_of_event() -> None:
    figures = Figures()
    server = v.Connection(v.Role.SERVER)
    for event in server.receive(b"\0" * 16):
        figures.count(event)
    assert (figures.rejected, figures.fatal, figures.requests) == (1, 1, 0)
