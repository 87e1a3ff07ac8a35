"""A check: promises about one process, held against fixed limits."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from vhostuser.frontend import FrontendError

from .errors import RunFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .model import Bench

__all__ = ["PLANE", "Check", "CheckOutcome", "run_check"]

PLANE = "plane"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise.

    Attributes:
        name: how one asks for it.
        title: for people.
        unit: of its values.
        most: largest median that keeps it; None: nothing is promised, the figure is published.
        values: measures it; one value per repetition.
        group: several that belong together; one can ask for them, too.
    """

    name: str
    title: str
    unit: str
    most: float | None
    values: Callable[[Bench], list[float]]
    group: str = PLANE


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """What a check gave: its values, or why there are none."""

    check: Check
    values: tuple[float, ...]
    failure: str = ""

    @property
    def median(self) -> float:
        """The value that counts."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        most = self.check.most
        return bool(self.values) and (most is None or self.median <= most)


def run_check(bench: Bench, check: Check) -> CheckOutcome:
    """Measure one check; a crash is its failure, never a value."""
    try:
        return CheckOutcome(check=check, values=tuple(check.values(bench)))
    except (RunFailedError, FrontendError, OSError, trio.TooSlowError) as error:
        return CheckOutcome(check=check, values=(), failure=f"{type(error).__name__}: {error}")
