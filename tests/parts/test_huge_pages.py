"""Huge pages are added to those that there are, and given back whatever happens meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from parts import huge_pages as module
from parts.errors import UnobtainableError
from parts.huge_pages import huge_pages

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "nr_hugepages"
    path.write_text("3\n")
    monkeypatch.setattr(module, "_POOL", path)
    return path


def test_they_are_added_and_given_back(pool: Path) -> None:
    with huge_pages(mib=64):
        assert int(pool.read_text()) == 3 + 32
    assert int(pool.read_text()) == 3


def test_they_are_given_back_when_their_user_fails(pool: Path) -> None:
    with pytest.raises(ZeroDivisionError), huge_pages(mib=64):
        raise ZeroDivisionError
    assert int(pool.read_text()) == 3


def test_a_kernel_that_finds_too_few_gets_back_what_it_found(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(module, "_resize", lambda pages: asked.append(pages) or min(pages, 4))
    with pytest.raises(UnobtainableError, match="no 64 MiB"), huge_pages(mib=64):
        pytest.fail("there were not enough")
    assert asked == [35, 3]


def test_where_there_is_no_such_pool_they_cannot_be_had(pool: Path) -> None:
    pool.unlink()
    with pytest.raises(UnobtainableError, match="root"), huge_pages(mib=64):
        pytest.fail("there is no pool")
