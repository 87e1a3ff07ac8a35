"""What a run is made of and what it gives: shared by all that measures."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .errors import RunFailedError
from .gate import State, state_of
from .row import Metric, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .gate import Gate
    from .programs import Programs
    from .row import Contestant, Load
    from .serve import Ours, Place

__all__ = ["Bench", "Run", "load_figures", "run_of"]

_PATIENCE_SECONDS = 30.0
_UNDISTURBED_CPU = 0.9
_BESIDE_INTERRUPTS_CPU = 0.5
"""What a client that polls has of its processor, at least, unless somebody else takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run gave.

    Attributes:
        contestant: whose run.
        rate: requests per second.
        p50_us, p99_us: latency.
        client_cpu, back_end_cpu: processors kept busy; the back-end's with its start-up's end and
            its settling, over the time that the client was there.
        before, after: probes of the machine, in nanoseconds.
        state: the machine's state, from the probes.
        counters: of our rings, for each thousand requests.
    """

    contestant: str
    rate: float
    p50_us: float
    p99_us: float
    client_cpu: float
    back_end_cpu: float
    before: float
    after: float
    state: str
    counters: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: Metric) -> float:
        """Return one figure."""
        if metric is Metric.BUSY:
            return self.counters[metric.value]
        return self.rate if metric is Metric.RATE else self.p50_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that a run needs."""

    programs: Programs
    ours: Ours
    place: Place
    gate: Gate
    seconds: float | None = None
    """Measuring time that takes the place of each row's own, or None."""

    def seconds_of(self, load: Load) -> float:
        """Return how long to measure."""
        return load.seconds if self.seconds is None else self.seconds

    def measuring(self, seconds: float) -> Bench:
        """Return the same with another measuring time."""
        return replace(self, seconds=seconds)

    def with_options(self, *options: str) -> Ours:
        """Return how to start ours with further options."""
        return replace(self.ours, options=(*self.ours.options, *options))


def _run_state(load: Load, client_cpu: float, before: float, after: float) -> State:
    """Return the machine's state during a run, from the client's share and both probes."""
    # a disk's interrupts may come to the client's processor, whoever the back-end is
    enough = _UNDISTURBED_CPU if load.store in {Store.NULL, Store.SHM} else _BESIDE_INTERRUPTS_CPU
    if load.poll and client_cpu < enough:
        return State.DISTURBED
    return state_of(before, after)


def run_of(
    contestant: Contestant,
    figures: Mapping[str, float],
    back_end_cpu: float,
    probes: tuple[float, float],
    counters: Mapping[str, float],
) -> Run:
    """Return what a run came to.

    Args:
        contestant: who ran.
        figures: what the client said.
        back_end_cpu: the back-end's share of a processor.
        probes: of the machine's state, before and after.
        counters: what the back-end counted.
    """
    before, after = probes
    return Run(
        contestant=contestant.name,
        rate=figures["rate"],
        p50_us=figures["p50_us"],
        p99_us=figures["p99_us"],
        client_cpu=figures["client_cpu"],
        back_end_cpu=back_end_cpu,
        before=before,
        after=after,
        state=_run_state(contestant.load, figures["client_cpu"], before, after).value,
        counters=dict(counters),
    )


def load_figures(
    command: list[str], what: str, *, environment: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Run a load generator; return the JSON that it printed.

    Args:
        command: the generator.
        what: is measured, for people.
        environment: its environment; None: as ours.

    Raises:
        RunFailedError: it failed, hung, or completed nothing.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailedError(f"{what}: no end after {_PATIENCE_SECONDS:.0f} s") from error
    if done.returncode:
        raise RunFailedError(f"{what}: status {done.returncode}: {done.stderr.strip()}")
    figures: dict[str, float] = json.loads(done.stdout)
    if figures["errors"] or not figures["rate"] > 0:
        raise RunFailedError(f"{what}: {figures}")
    return figures
