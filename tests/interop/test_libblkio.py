"""libblkio, a front-end in another language, finds every byte as it wrote it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.interop

_MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with path.open("wb") as disk:
        disk.truncate(16 * _MIB)
    return path


@pytest.mark.parametrize("queues", [1, 2, 4])
def test_a_file_returns_what_was_written_over_every_queue(
    queues: int, image: Path, backend: Callable[..., Any], verify: Callable[..., str]
) -> None:
    served = backend("--blk-file", image, "--num-queues", queues)
    figures = verify(served, "verify", queues=queues)
    assert re.fullmatch(rf"writes=\d+ reads=\d+ queues={queues} bytes={16 * _MIB}\n", figures)
    served.terminate()


def test_a_file_holds_what_was_written_when_another_back_end_serves_it(
    image: Path, backend: Callable[..., Any], verify: Callable[..., str]
) -> None:
    first = backend("--blk-file", image, "--num-queues", 2)
    verify(first, "verify", queues=2)
    first.terminate()
    second = backend("--blk-file", image, "--read-only")
    verify(second, "read")
    verify(second, "refuse")
    second.terminate()


@pytest.mark.parametrize(
    ("store", "mode"), [("--memory", "verify"), ("--null", "null")], ids=["memory", "null"]
)
def test_a_store_without_a_file_serves_one_front_end_after_the_other(
    store: str, mode: str, backend: Callable[..., Any], verify: Callable[..., str]
) -> None:
    served = backend(store, "16M", "--num-queues", 2, "--workers", 2)
    for _ in range(2):
        assert verify(served, mode, queues=2).startswith("writes=")
    served.terminate()


@pytest.mark.parametrize(
    "options",
    [("--direct",), ("--queue-size", "256"), ("--poll-us", "0"), ("--workers", "2")],
    ids=lambda options: "".join(options).removeprefix("--"),
)
def test_options_of_the_data_path_change_no_byte(
    options: tuple[str, ...], image: Path, backend: Callable[..., Any], verify: Callable[..., str]
) -> None:
    served = backend("--blk-file", image, "--num-queues", 2, *options)
    verify(served, "verify", queues=2)
    served.terminate()
