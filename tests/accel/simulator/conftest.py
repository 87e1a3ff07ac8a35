"""The check that a test leaves nothing open or mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vhostuser.testing import held

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = held()
    yield
    assert held().more_than(before) == ""
