"""Draws ratios as horizontal bars on a logarithmic scale, as SVG for light and dark pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Line", "draw"]

_WIDTH = 860
_LABEL = 330
_RIGHT = 70
_TOP = 84
_STEP = 24
_THICK = 14
_LEAST = 0.5
_TIMES = "&#215;"

_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 16px; font-weight: 600; }
.faint { fill: #57606a; font-size: 12px; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.parity { stroke: #57606a; stroke-width: 1.5; }
.kept { fill: #2f7d4f; }
.missed { fill: #c4432b; }
.free { fill: #4a78b5; }
.spread { stroke: #24292f; stroke-width: 1.5; }
.promise { stroke: #24292f; stroke-width: 3; }
.ideal { fill: none; stroke: #8250df; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .faint { fill: #9198a1; }
  .grid { stroke: #3d444d; }
  .parity { stroke: #9198a1; }
  .kept { fill: #3fa66b; }
  .missed { fill: #e5634b; }
  .free { fill: #5b90d6; }
  .spread, .promise { stroke: #e6edf3; }
  .ideal { stroke: #ab7df8; }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One workload.

    Attributes:
        label: what.
        value: how many times better than the peer.
        low, high: the same from the extremes.
        promise: the smallest ratio that was promised, if any.
        ideal: where the ideal back-end stands, if it took part.
        met: whether all promises about this workload are kept; None: there are none.
    """

    label: str
    value: float
    low: float
    high: float
    promise: float | None = None
    ideal: float | None = None
    met: bool | None = None


def draw(title: str, explanation: str, lines: Sequence[Line]) -> str:
    """Return the picture as text.

    Args:
        title: its heading.
        explanation: one line below.
        lines: from top to bottom.
    """
    largest = max(max(line.high, line.ideal or 0, line.promise or 0) for line in lines)
    most = 2.0 ** math.ceil(math.log2(max(largest, 2.0)))
    height = _TOP + _STEP * len(lines) + 34
    body = "\n".join(
        [
            *_grid(most, height),
            *(part for i, line in enumerate(lines) for part in _line(line, i, most)),
        ]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">\n<style>\n{_STYLE}</style>\n'
        f'<text class="title" x="16" y="26">{escape(title)}</text>\n'
        f'<text class="faint" x="16" y="46">{escape(explanation)}</text>\n'
        f"{_legend()}\n{body}\n</svg>\n"
    )


def _x(value: float, most: float) -> float:
    part = math.log2(max(value, _LEAST) / _LEAST) / math.log2(most / _LEAST)
    return round(_LABEL + part * (_WIDTH - _LABEL - _RIGHT), 1)


def _legend() -> str:
    return (
        '<line class="promise" x1="20" y1="58" x2="20" y2="70"/>'
        '<text class="faint" x="28" y="68">promised at least</text>'
        '<path class="ideal" d="M150 59 l5 5 l-5 5 l-5 -5 z"/>'
        '<text class="faint" x="160" y="68">a back-end that only completes</text>'
        '<line class="spread" x1="372" y1="64" x2="392" y2="64"/>'
        '<text class="faint" x="398" y="68">smallest to largest</text>'
    )


def _grid(most: float, height: int) -> Iterator[str]:
    value = _LEAST
    while value <= most:
        x = _x(value, most)
        kind = "parity" if value == 1 else "grid"
        yield f'<line class="{kind}" x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{height - 28}"/>'
        place = f'x="{x}" y="{height - 10}" text-anchor="middle"'
        yield f'<text class="faint" {place}>{value:g}{_TIMES}</text>'
        value *= 2


def _line(line: Line, index: int, most: float) -> Iterator[str]:
    top = _TOP + index * _STEP
    middle = top + _THICK / 2
    start, end = sorted((_x(1, most), _x(line.value, most)))
    kind = {None: "free", True: "kept", False: "missed"}[line.met]
    text = f'text-anchor="end">{escape(line.label)}</text>'
    yield f'<text x="{_LABEL - 10}" y="{top + 12}" {text}'
    width = round(end - start, 1)
    yield f'<rect class="{kind}" x="{start}" y="{top}" width="{width}" height="{_THICK}" rx="2"/>'
    low, high = _x(line.low, most), _x(line.high, most)
    yield f'<line class="spread" x1="{low}" y1="{middle}" x2="{high}" y2="{middle}"/>'
    if line.promise is not None:
        x = _x(line.promise, most)
        yield f'<line class="promise" x1="{x}" y1="{top - 3}" x2="{x}" y2="{top + _THICK + 3}"/>'
    furthest = max(end, high)
    if line.ideal is not None:
        x = _x(line.ideal, most)
        yield f'<path class="ideal" d="M{x} {middle - 5} l5 5 l-5 5 l-5 -5 z"/>'
        furthest = max(furthest, x + 5)
    yield f'<text x="{furthest + 6}" y="{top + 12}">{line.value:.3g}{_TIMES}</text>'
