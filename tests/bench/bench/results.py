"""Everything that one or several runs of the benchmarks gave, and its file, docs/benchmarks.json.

Figures are kept run by run, so that the page can be written anew without measuring.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .check import CheckOutcome
from .checks import CHECKS
from .model import Run
from .rows import ROWS
from .run import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Results"]

_ROUNDED = 3


_ELSEWHERE = " on a processor of another kind: "


@dataclass(slots=True, kw_only=True)
class Results:
    """Figures and where they come from.

    Attributes:
        machine: what it ran on, by name of the property.
        versions: of everything that took part.
        when: date of each row and check, by its name, and the processor if it was another one.
        rows: outcome of each row, by its name.
        checks: outcome of each check, by its name.
    """

    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    when: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Outcome] = field(default_factory=dict)
    checks: dict[str, CheckOutcome] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """Every run that failed, in words."""
        rows = [failure for outcome in self.rows.values() for failure in outcome.failures]
        checks = [f"{o.check.name}: {o.failure}" for o in self.checks.values() if o.failure]
        return rows + checks

    def add(self, newer: Results) -> None:
        """Take over what was measured later, row by row; what stays says if it is of elsewhere."""
        before = self.machine.get("processor", "")
        if before != newer.machine.get("processor"):
            for name, when in self.when.items():
                if _ELSEWHERE not in when:
                    self.when[name] = f"{when}{_ELSEWHERE}{before}"
        self.machine, self.versions = newer.machine, newer.versions
        self.when |= newer.when
        self.rows |= newer.rows
        self.checks |= newer.checks

    def save(self, path: Path) -> None:
        """Write the file: one line a run."""
        rows = [
            _array_of_lines(name, self.when[name], [_short(run) for run in outcome.runs])
            for name, outcome in self.rows.items()
        ]
        checks = {
            name: {"when": self.when[name], "values": [round(v, _ROUNDED) for v in outcome.values]}
            for name, outcome in self.checks.items()
        }
        path.write_text(
            "{\n"
            f'"machine": {json.dumps(self.machine)},\n'
            f'"versions": {json.dumps(self.versions)},\n'
            f'"checks": {json.dumps(checks)},\n'
            '"rows": {\n' + ",\n".join(rows) + "\n}\n}\n"
        )

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read the file; rows and checks that are no longer known are left out."""
        data = json.loads(path.read_text())
        results = cls(machine=data["machine"], versions=data["versions"])
        for row in ROWS:
            if row.name in data["rows"]:
                found = data["rows"][row.name]
                runs = [Run(**run) for run in found["runs"]]
                results.rows[row.name] = Outcome(row=row, runs=runs)
                results.when[row.name] = found["when"]
        for check in CHECKS:
            if check.name in data["checks"]:
                found = data["checks"][check.name]
                values = tuple(found["values"])
                results.checks[check.name] = CheckOutcome(check=check, values=values)
                results.when[check.name] = found["when"]
        return results


def _short(run: Run) -> dict[str, Any]:
    """Return a run with no more digits than mean something."""
    return {
        name: round(value, _ROUNDED if abs(value) < 10_000 else None)
        if isinstance(value, float)
        else value
        for name, value in asdict(run).items()
    }


def _array_of_lines(name: str, when: str, runs: list[dict[str, Any]]) -> str:
    lines = ",\n".join(json.dumps(run) for run in runs)
    return f'{json.dumps(name)}: {{"when": {json.dumps(when)}, "runs": [\n{lines}\n]}}'
